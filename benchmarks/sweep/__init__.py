"""Sweeps of the sampler's settings on the shipped model, from which docs/choosing.md comes."""
