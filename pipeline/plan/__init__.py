"""Plan a job: resolve its spec into a task, select its rows, and cut its input into units of work."""
