"""End a command that fails or is stopped, with the reason in one line, without a traceback, and with an exit status."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import typer

INCOMPLETE = 1
"""The exit status of a command that did some work but is incomplete, or has more rejects than its spec allows."""

NOT_RUN = 2
"""The exit status of a command that did nothing because of the spec, the input, the store, the model or the machine."""

RESUME_HINT = "committed units are kept; run the same command again to continue"


@contextmanager
def exit_on_error(interrupted: str = RESUME_HINT) -> Iterator[None]:
    """Print errors, Ctrl-C and SIGTERM as the last line on stderr, and exit with their status.

    The status is NOT_RUN, or INCOMPLETE if the error has notes (`add_note`) about work that was done before it. It is
    130 after Ctrl-C and 143 after SIGTERM, as in shells. `interrupted` says which results are kept and how to continue.

    Raises:
        typer.Exit: The block raised an error for the user, or was stopped by a signal.
    """
    with _stopped_by_signals() as (received, leave):
        try:
            yield
        except KeyboardInterrupt as error:
            number = received[-1] if received else signal.SIGINT
            leave()
            event = "terminated" if number == signal.SIGTERM else "interrupted"
            print(f"{event}: {'; '.join([*_notes(error), interrupted])}", file=sys.stderr, flush=True)
            raise typer.Exit(128 + number) from None
        except Exception as error:
            # These imports are here because a signal may arrive at any time, and they take about one second.
            from edict.errors import ModelError
            from jobs.spec_file import SpecError
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
def _stopped_by_signals() -> Iterator[tuple[list[int], Callable[[], None]]]:
    """Raise KeyboardInterrupt for SIGINT and SIGTERM. Yield the list of received signals, and a function `leave`.

    After `leave` was called, the next signal ends the process at once.
    """
    signals, received = (signal.SIGINT, signal.SIGTERM), list[int]()
    leaving = False

    def stop(number: int, frame: FrameType | None) -> None:
        if leaving:
            os._exit(128 + number)  # Only cleanup is left to do, and Ray's processes end with this one.
        received.append(number)
        raise KeyboardInterrupt

    def leave() -> None:
        nonlocal leaving
        leaving = True

    if threading.current_thread() is not threading.main_thread():  # Only the main thread can set signal handlers.
        yield received, leave
        return
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield received, leave
    finally:
        if not leaving:
            for number, handler in before.items():
                signal.signal(number, handler)
