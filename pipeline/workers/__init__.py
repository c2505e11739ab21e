"""The workers that run in Ray actors: each takes a task, and then processes units.

`InvertWorker`, `EditWorker`, `VerifyWorker` and `EditVerifyWorker` have a method `process(unit, number, next_unit,
excluded)`. The first two load the unit, compute, write files to staging/ and commit them (`Attempt`).
"""
