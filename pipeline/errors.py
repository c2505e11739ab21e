"""The ground of all errors that a person can put right."""


class JobError(Exception):
    """A job that cannot be run as it is asked for; the message says what is wrong, where, and what to do."""
