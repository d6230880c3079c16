"""Catalogs and events that run."""
