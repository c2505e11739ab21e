"""How a command ends where a person can put something right: in words and with an exit status, without a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

INCOMPLETE = 1
"""The exit status where a job ran, and is not complete, or not as good as its spec demands."""

NOT_RUN = 2
"""The exit status where the spec, the input, the store or the model is not right."""

RESUMED = "what is committed stays; run the same spec again to go on"


@contextmanager
def reported(interrupted: str = RESUMED) -> Iterator[None]:
    """Errors and Ctrl-C as a line on stderr and an exit status; `interrupted` says what the latter leaves."""
    from edict.checkpoint import ModelError
    from jobs.spec import SpecError
    from pipeline.errors import JobError

    try:
        yield
    except (SpecError, ModelError, JobError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(INCOMPLETE if isinstance(error, JobError) and error.ran else NOT_RUN) from None
    except KeyboardInterrupt:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        raise typer.Exit(130) from None
