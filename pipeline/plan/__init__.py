"""Resolve a job, and cut its input into units of work."""
