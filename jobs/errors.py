"""How a command ends when it fails or is stopped: a line that says why, and an exit status, without a traceback."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import typer

INCOMPLETE = 1
"""The exit status of a command that did something and is not complete, or not as good as its spec demands."""

NOT_RUN = 2
"""The exit status of a command that did nothing, for the spec, the input, the store, the model or the machine."""

RESUMED = "what is committed stays; run the same command again to go on"


class Stopped(KeyboardInterrupt):
    """The process was sent SIGINT (Ctrl-C) or SIGTERM, whose number is the argument."""


@contextmanager
def reported(interrupted: str = RESUMED) -> Iterator[None]:
    """Print errors, Ctrl-C and SIGTERM as a last line on stderr, and exit with their status.

    The status is NOT_RUN, or INCOMPLETE when the error has notes (`add_note`), which say what was done before it; 130
    after Ctrl-C and 143 after SIGTERM, as shells have it. `interrupted` says what stays, and how to go on.
    """
    with _stopped_by_signals() as leave:
        try:
            yield
        except KeyboardInterrupt as error:
            number = error.args[0] if isinstance(error, Stopped) else signal.SIGINT
            leave()
            how = "terminated" if number == signal.SIGTERM else "interrupted"
            print(f"{how}: {'; '.join([*_notes(error), interrupted])}", file=sys.stderr, flush=True)
            raise typer.Exit(128 + number) from None
        except Exception as error:
            # imported here, since a signal may arrive at any time and these take a second
            from edict.checkpoint import ModelError
            from jobs.spec import SpecError
            from pipeline.errors import JobError

            if not isinstance(error, SpecError | ModelError | JobError):
                raise
            print(f"error: {error}", file=sys.stderr)
            if notes := _notes(error):
                print("; ".join([*notes, interrupted]), file=sys.stderr)
            raise typer.Exit(INCOMPLETE if notes else NOT_RUN) from None


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


@contextmanager
def _stopped_by_signals() -> Iterator[Callable[[], None]]:
    """Raise Stopped for SIGINT and SIGTERM. Once `leave` was called, a further one ends the process at once."""
    signals = (signal.SIGINT, signal.SIGTERM)
    leaving = False

    def stop(number: int, frame: FrameType | None) -> None:
        if leaving:
            os._exit(128 + number)  # what is left to do is tidying up, and Ray's processes end with this one
        raise Stopped(number)

    def leave() -> None:
        nonlocal leaving
        leaving = True

    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody set a handler
        yield leave
        return
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield leave
    finally:
        if not leaving:
            for number, handler in before.items():
                signal.signal(number, handler)
