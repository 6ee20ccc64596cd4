"""Measurements of the container and of what it is compared with; run them with scripts/benchmark."""
