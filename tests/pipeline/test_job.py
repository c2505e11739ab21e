"""The error for a changed spec: the leaves that differ, one per line."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster import machine_for
from pipeline.job import JobChanged, check_job, open_job
from pipeline.store import Store

LONG = "a dog " * 500

EDITS: list[dict[str, Any]] = [
    {"name": "snow", "replace": {"dog": ["cat", "fox"]}, "control": None},
    {"name": "night", "prompt": LONG + "x" + LONG, "control": {"weights": {"night": 2.0}, "mask": None}},
]


def differences(tmp_path: Path, stored: dict[str, Any], given: dict[str, Any]) -> list[str]:
    store = Store(str(tmp_path / "store"), create=True)
    open_job(store, "edit", {}, stored, machine_for(0))
    check_job(store, "edit", stored, machine_for(0))
    with pytest.raises(JobChanged) as error:
        check_job(store, "edit", given, machine_for(0))
    first, *lines = str(error.value).split("\n  ")
    assert first.endswith("give another output, or the same parameters again:")
    return lines


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            lambda edits: edits[0]["replace"]["dog"].__setitem__(1, "hen"),
            ["edits[0].replace.dog[1]: 'fox' in the store, 'hen' in the spec"],
        ),
        (
            lambda edits: edits[0].update(control={"mask": None}),
            ["edits[0].control: None in the store, {'mask': None} in the spec"],
        ),
        (
            lambda edits: edits[1]["control"]["weights"].update(night=3.0, cold=1.5),
            [
                "edits[1].control.weights.cold: None in the store, 1.5 in the spec",
                "edits[1].control.weights.night: 2.0 in the store, 3.0 in the spec",
            ],
        ),
        (lambda edits: edits.append({"name": "red"}), ["edits: 2 entries in the store, 3 in the spec"]),
        (lambda edits: edits[0].update(name="ice"), ["edits[0].name: 'snow' in the store, 'ice' in the spec"]),
    ],
)
def test_the_leaf_that_differs_is_named(change: Any, lines: list[str], tmp_path: Path) -> None:
    given = [{**edit} for edit in EDITS]
    given[0] |= {"replace": {"dog": ["cat", "fox"]}}
    given[1] |= {"control": {"weights": {"night": 2.0}, "mask": None}}
    change(given)
    assert differences(tmp_path, {"edits": EDITS, "steps": 3}, {"edits": given, "steps": 3}) == lines


def test_one_changed_word_of_a_long_text_is_shown(tmp_path: Path) -> None:
    given = [EDITS[0], EDITS[1] | {"prompt": LONG + "y" + LONG}]
    [line] = differences(tmp_path, {"edits": EDITS}, {"edits": given})
    assert len(line) < 500 and "dog xa dog" in line and "dog ya dog" in line and line.count("…") == 4


def test_of_a_list_of_numbers_one_line_is_shown_and_of_many_leaves_some(tmp_path: Path) -> None:
    stored: dict[str, Any] = {"timesteps": [1, 2, 3, 4]} | {f"field{i:02d}": i for i in range(30)}
    given: dict[str, Any] = {"timesteps": [1, 5, 6, 4]} | {f"field{i:02d}": -1 for i in range(30)}
    lines = differences(tmp_path, stored, given)
    assert len(lines) == 21
    assert lines[0] == "field00: 0 in the store, -1 in the spec"
    assert lines[-1] == "and 11 more differences"
    lines = differences(tmp_path / "other", {"timesteps": [1, 2, 3, 4]}, {"timesteps": [1, 5, 6, 4]})
    assert lines == ["timesteps[1]: 2 in the store, 5 in the spec; and 1 more"]
