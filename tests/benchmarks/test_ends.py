"""The ends of a command; one is made for real."""

import re

from benchmarks.ends import make
from jobs.errors import RESUMED


def test_a_run_that_is_terminated_says_what_it_did() -> None:
    ended = make("SIGTERM")
    assert "Traceback" not in ended.said
    assert ended.status == 143
    said = rf"terminated: at least \d+ of 16 units are committed; {RESUMED}"
    assert re.fullmatch(said, ended.last[-1])
