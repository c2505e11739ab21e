"""Comparison of the samplers on the shipped model: edict, bdia and obelm, which are exact, ddim and ddim_euler.

Each measurement is a program that writes benchmarks/results/samplers/NAME.json: cost, edits, generation, obelm and
round_trips. `python -m benchmarks.samplers` prints the tables of docs/comparison.md from these files, and draws its
plots.
"""
