"""The error of the evaluation commands."""

from pipeline.errors import JobError


class EvaluationError(JobError):
    """A measurement that cannot be made. The message says what is wrong, where, and what to do."""
