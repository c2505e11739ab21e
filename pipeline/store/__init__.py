"""The store of a job: its record, parts, commits and run log."""
