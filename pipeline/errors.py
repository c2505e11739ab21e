"""The ground of all errors that a person can put right."""


class JobError(Exception):
    """A job that cannot be run as it is asked for; the message says what is wrong, where, and what to do."""

    ran: bool = False
    """True if units were done before the error, so that the run is incomplete and did not fail at once."""
