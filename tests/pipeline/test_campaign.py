"""A run of the random campaign; all 200 are `python -m tests.campaigns.kills`."""

from pathlib import Path

from tests.campaigns.kills import campaign

SEEDS = (33,)  # it kills a worker and a raylet, with its store on S3


def test_nothing_is_lost_or_doubled_whatever_is_killed(tmp_path: Path, s3: str) -> None:
    figures = campaign(tmp_path, s3, SEEDS)
    assert figures["wrong_seeds"] == []
    assert (figures["rows_lost"], figures["rows_doubled"], figures["rows_differing"]) == (0, 0, 0)
    assert sum(figures["killed"].values()) > 0
