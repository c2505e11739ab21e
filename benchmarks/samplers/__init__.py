"""The samplers side by side on the default model, all on the integer lattice: edict, bdia, obelm, and ddim
and ddim_euler, which are not exact.

A program a measurement, each of which writes benchmarks/results/samplers/NAME.json; `python -m benchmarks.samplers`
prints the tables of docs/comparison.md from these, and draws its plots.
"""
