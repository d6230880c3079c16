"""Pipelines: the composition of transforms, and nothing else."""
