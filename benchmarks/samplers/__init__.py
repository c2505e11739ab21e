"""Comparison of the samplers on the default model and the integer lattice: edict, bdia and obelm, which are exact,
and ddim and ddim_euler, which are not.

A program a measurement, each of which writes benchmarks/results/samplers/NAME.json; `python -m benchmarks.samplers`
prints the tables of docs/comparison.md from these, and draws its plots.
"""
