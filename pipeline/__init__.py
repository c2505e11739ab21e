"""The dataflow: shards in, parts and commits out.

The stages are: spec -> `plan` (a task and its units) -> `execute` (a pool of Ray actors) -> `workers`
(`process(unit)`) -> `store` (parts and commits) -> `inspect` and `export`. `run` does all of it.
"""
