"""Check one GPU machine in eight minutes: exactness of the round trip, its dependence on the batch, and speed.

Run `python -m benchmarks.gpu_check` on a machine with Python 3.12, its own torch and no network. Packages that the
machine lacks come from a folder of wheels, which `python -m benchmarks.gpu_check.wheels FOLDER` prepares elsewhere.
"""
