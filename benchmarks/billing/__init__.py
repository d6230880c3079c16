"""The speed of rating and billing."""
