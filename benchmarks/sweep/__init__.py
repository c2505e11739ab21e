"""Sweeps of a sampler's settings on the default model and the shipped pictures. `python -m benchmarks.sweep`."""
