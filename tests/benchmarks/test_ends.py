"""The page has all ends of a command, and one end is made."""

import re
from pathlib import Path

from benchmarks.ends import ENDS, make
from jobs.errors import RESUMED

PAGE = Path(__file__).parents[2] / "docs" / "guarantees.md"


def test_the_page_has_every_end() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("\n## How a run ends\n")[2].partition("\n## ")[0]
    table = section.partition("| end | exit status |")[2]
    assert re.findall(r"^\| ([^|]+) \| (?:\d+|-\d+|) \|", table, re.M) == list(ENDS)


def test_a_run_that_is_terminated_says_what_it_did() -> None:
    ended = make("SIGTERM")
    assert "Traceback" not in ended.said
    assert ended.status == 143
    said = rf"terminated: at least \d+ of 16 units are committed; {RESUMED}"
    assert re.fullmatch(said, ended.last[-1])
