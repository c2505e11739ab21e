"""The base class of all errors that a user can correct."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class JobError(Exception):
    """A job that cannot be run, or cannot be completed. The message says what is wrong, where, and what to do.

    A note (`add_note`) describes the work that was done before the error. With a note, the exit status of the command
    is 1, and otherwise 2.
    """


@contextmanager
def add_note_on_error(describe: Callable[[BaseException], str | None]) -> Iterator[None]:
    """Add the note that `describe` returns, if any, to an error or signal that ends the `with` block."""
    try:
        yield
    except BaseException as error:
        if note := describe(error):
            error.add_note(note)
        raise
