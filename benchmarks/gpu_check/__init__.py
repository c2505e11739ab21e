"""Check one bare GPU machine in eight minutes: is the round trip exact there, on what does it depend, how fast is it?

`python -m benchmarks.gpu_check` on a machine with Python 3.12, its own torch and no network. Packages that the machine
lacks come from a folder of wheels, which `python -m benchmarks.gpu_check.wheels FOLDER` prepares elsewhere.
"""
