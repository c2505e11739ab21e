"""The ground of all errors that a person can put right."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class JobError(Exception):
    """A job that cannot be run, or cannot be completed. The message says what is wrong, where, and what to do.

    Notes (`add_note`) say what was done before. A command that ends with such an error has run, and is incomplete.
    """


@contextmanager
def noting(done: Callable[[BaseException], str | None]) -> Iterator[None]:
    """Add a note of the work `done`, if any, to the error or the signal that ends the block."""
    try:
        yield
    except BaseException as error:
        if note := done(error):
            error.add_note(note)
        raise
