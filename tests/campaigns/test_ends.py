"""The page of guarantees has all ends of a command, and one of them is tested."""

import re
from pathlib import Path

from jobs.errors import RESUME_HINT
from tests.campaigns.ends import ENDS, make

PAGE = Path(__file__).parents[2] / "docs" / "guarantees.md"


def test_guarantees_page_has_every_end() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("\n## How a run ends\n")[2].partition("\n## ")[0]
    table = section.partition("| end | exit status |")[2]
    assert re.findall(r"^\| ([^|]+) \| (?:\d+|-\d+|) \|", table, re.M) == list(ENDS)


def test_terminated_run_reports_its_committed_units() -> None:
    ended = make("SIGTERM")
    assert "Traceback" not in ended.output
    assert ended.status == 143
    expected = rf"terminated: at least \d+ of 16 units are committed; {RESUME_HINT}"
    assert re.fullmatch(expected, ended.last[-1])
