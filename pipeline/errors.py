"""The ground of all errors that a person can put right."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class JobError(Exception):
    """A job that cannot be run, or cannot be completed. The message says what is wrong, where, and what to do.

    A note (`add_note`) describes the work that was done before the error. Then the exit status of the command is 1, and
    without a note it is 2.
    """


@contextmanager
def noting(done: Callable[[BaseException], str | None]) -> Iterator[None]:
    """Add a note about the work that was `done`, if any, to an error or signal that ends the `with` block."""
    try:
        yield
    except BaseException as error:
        if note := done(error):
            error.add_note(note)
        raise
