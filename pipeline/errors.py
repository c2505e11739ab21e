"""The ground of all errors that a person can put right."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class JobError(Exception):
    """A job that cannot be run, or not to its end. The message says what is wrong, where, and what to do.

    Notes (`add_note`) say what was done before; a command that ends by an error with notes has run, and is incomplete.
    """


@contextmanager
def noting(done: Callable[[], str | None]) -> Iterator[None]:
    """Add a note to the error or the signal that ends the block: what was `done`, if anything."""
    try:
        yield
    except BaseException as error:
        if note := done():
            error.add_note(note)
        raise
