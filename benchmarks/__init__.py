"""Measurements of the container and of its alternatives; scripts/benchmark runs them."""
