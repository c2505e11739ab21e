"""One seed of the campaign of kills. `python -m tests.campaigns.kills` runs all 200."""

from pathlib import Path

from tests.campaigns.kills import campaign

SEEDS = (33,)  # This seed kills a worker and a raylet, with its store on S3


def test_each_row_is_written_once_although_processes_are_killed(tmp_path: Path, s3: str) -> None:
    figures = campaign(tmp_path, s3, SEEDS)
    assert figures["wrong_seeds"] == []
    assert (figures["rows_lost"], figures["rows_doubled"], figures["rows_differing"]) == (0, 0, 0)
    assert sum(figures["killed"].values()) > 0
