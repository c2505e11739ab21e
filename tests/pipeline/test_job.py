"""The error for a changed spec: one line per field that differs."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.messages import machine_for
from pipeline.plan.job import check_job, new_record, open_job
from pipeline.plan.job_changes import JobChanged
from pipeline.store.store import Store
from schemas.fingerprint import Fingerprint
from schemas.job import JobRecord
from schemas.sampling import Sampling

LONG = "a dog " * 500

EDITS: list[dict[str, Any]] = [
    {"name": "snow", "replace": {"dog": ["cat", "fox"]}, "control": None},
    {"name": "night", "prompt": LONG + "x" + LONG, "control": {"weights": {"night": 2.0}, "mask": None}},
]


LATENTS = Fingerprint(
    input="a.tar",
    pipeline="StableDiffusionPipeline",
    weights="0" * 64,
    dtype="float32",
    sampling=Sampling(),
    crop="center",
    posterior_seed=None,
    batch_size=2,
)


def record(edits: list[dict[str, Any]], **more: Any) -> JobRecord:
    latents = LATENTS.model_dump(mode="json")
    selection = {"where": None, "keys": None, "sample": None, "limit": None}
    fingerprint = {"latents": latents, **selection, "edits": edits, "format": "png", "batch_size": 2, **more}
    return new_record("edit", {}, fingerprint, machine_for(0))


def differences(tmp_path: Path, stored: JobRecord, given: JobRecord) -> list[str]:
    store = Store(str(tmp_path / "store"), create=True)
    open_job(store, stored)
    assert check_job(store, record(stored.edit.edits)) == stored
    with pytest.raises(JobChanged) as error:
        check_job(store, given)
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
def test_the_field_that_differs_is_named(change: Any, lines: list[str], tmp_path: Path) -> None:
    given = [{**edit} for edit in EDITS]
    given[0] |= {"replace": {"dog": ["cat", "fox"]}}
    given[1] |= {"control": {"weights": {"night": 2.0}, "mask": None}}
    change(given)
    assert differences(tmp_path, record(EDITS), record(given)) == lines


def test_a_changed_word_of_a_long_text_is_shown(tmp_path: Path) -> None:
    given = [EDITS[0], EDITS[1] | {"prompt": LONG + "y" + LONG}]
    [line] = differences(tmp_path, record(EDITS), record(given))
    assert len(line) < 500 and "dog xa dog" in line and "dog ya dog" in line and line.count("…") == 4


def test_a_list_of_numbers_is_one_line_and_many_fields_are_cut_off(tmp_path: Path) -> None:
    def edits(number: int) -> list[dict[str, Any]]:
        return [{"name": "a", "levels": [1, number, number, 4]}] + [{"steps": number} for _ in range(30)]

    lines = differences(tmp_path, record(edits(2)), record(edits(3)))
    assert len(lines) == 21
    assert lines[0] == "edits[0].levels[1]: 2 in the store, 3 in the spec; and 1 more"
    assert lines[-1] == "and 11 more differences"
