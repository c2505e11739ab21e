"""The store under a few random interleavings. `python -m tests.campaigns.interleavings` runs many more."""

from pathlib import Path

import pytest

from tests.campaigns.interleavings import interleave


@pytest.mark.parametrize(("where", "seeds"), [("memory", range(1, 31)), ("disk", range(31, 46))])
def test_each_row_is_written_once_and_no_file_is_left(where: str, seeds: range, tmp_path: Path) -> None:
    found = interleave(seeds, tmp_path if where == "disk" else None)
    assert found["wrong seeds"] == []
    assert found["stores replaced"] > 2
    assert found["actors"] > 10 * len(seeds)
