"""What can be wrong with something that is to be measured."""

from pipeline.errors import JobError


class EvaluationError(JobError):
    """Something that cannot be measured; the message says what is wrong, where, and what to do."""
