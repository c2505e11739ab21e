"""A command that fails or is stopped: its exit status and its last line, without a traceback."""

import signal
import subprocess
import sys

import pytest
import typer

from edict.errors import ModelError
from jobs.errors import INCOMPLETE, NOT_RUN, RESUME_HINT, exit_on_error
from pipeline.errors import JobError

PROGRAM = """
import atexit, time, typer
from jobs.errors import exit_on_error

def say(word):
    print(word, flush=True)
    time.sleep(100)

def command():
    with exit_on_error():
        try:
            say("working")
        finally:
            say("cleaning up")

atexit.register(say, "exiting")
typer.run(command)
"""


def ended_by(*signals: signal.Signals) -> tuple[int, str]:
    """Return the exit status and stderr of a process that receives signals, each after the effect of the last."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        for number in signals:
            assert process.stdout.readline()
            process.send_signal(number)
        return process.wait(60), process.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_three_signals_show_no_traceback(number: signal.Signals) -> None:
    status, said = ended_by(number, number, number)
    how = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert (status, said) == (128 + number, f"{how}: {RESUME_HINT}\n")


def test_two_different_signals_give_the_status_of_the_last() -> None:
    assert ended_by(signal.SIGTERM, signal.SIGINT, signal.SIGINT) == (130, f"interrupted: {RESUME_HINT}\n")


def ending(error: BaseException, *notes: str) -> int:
    for note in notes:
        error.add_note(note)
    with pytest.raises(typer.Exit) as ended, exit_on_error():
        raise error
    return ended.value.exit_code


@pytest.mark.parametrize("kind", [JobError, ModelError])
def test_exit_status_is_2_before_any_work_and_1_after_some(
    kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(kind("x: is full")) == NOT_RUN
    assert capsys.readouterr().err == "error: x: is full\n"
    assert ending(kind("x: is full"), "2 of 3 units are committed") == INCOMPLETE
    assert capsys.readouterr().err == f"error: x: is full\n2 of 3 units are committed; {RESUME_HINT}\n"


def test_an_interrupted_run_prints_its_notes(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(KeyboardInterrupt(), "2 of 3 units are committed") == 130
    assert capsys.readouterr().err == f"interrupted: 2 of 3 units are committed; {RESUME_HINT}\n"


def test_an_unexpected_error_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), exit_on_error():
        raise ZeroDivisionError


def test_signal_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with exit_on_error():
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
    assert ending(JobError("x")) == NOT_RUN
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
