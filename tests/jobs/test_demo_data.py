"""The shipped demo shards: they are valid, and their edits have the ground truth that the metadata says."""

import io
import json
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.demo import KINDS, SECOND, SHARDS
from pipeline.io.samples import Sample, read_samples
from pipeline.io.shard_index import index_shard
from training.demo import LICENCES
from training.emoji import Drawing

FILES = {folder: sorted(folder.glob("*.tar")) for folder in (SHARDS, SECOND)}
PAIRS = {"colour": 18, "skin tone": 50, "person": 50, "object": 24, "style": 50}
BACKGROUNDS = {SHARDS: 56, SECOND: 192}


@dataclass(frozen=True)
class Demo:
    shard: str
    sample: Sample
    metadata: dict[str, Any]

    @property
    def pixels(self) -> np.ndarray:
        with Image.open(io.BytesIO(self.sample.image)) as image:
            assert image.mode == "RGB"
            return np.asarray(image)

    @property
    def drawing(self) -> Drawing:
        return Drawing(*(self.metadata[name] for name in ("vendor", "name", "tone", "codepoints")))


@pytest.fixture(scope="module", params=[SHARDS, SECOND], ids=["demo", "second"])
def folder(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


@pytest.fixture(scope="module")
def demo(folder: Path) -> dict[str, Demo]:
    """Return every sample by key."""
    return read(folder)


def read(folder: Path) -> dict[str, Demo]:
    found = {}
    for file in FILES[folder]:
        index = index_shard(str(file))
        for sample in read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries):
            assert isinstance(sample, Sample), sample
            assert sample.key not in found
            assert sample.json is not None
            found[sample.key] = Demo(file.name, sample, json.loads(sample.json))
    return found


def edits(demo: dict[str, Demo]) -> list[tuple[str, Demo, Demo]]:
    return [(edit["kind"], a, demo[edit["target_key"]]) for a in demo.values() for edit in a.metadata["edits"]]


def test_shards_are_valid_and_small(folder: Path) -> None:
    indexes = [index_shard(str(file)) for file in FILES[folder]]
    assert [entry.fault for index in indexes for entry in index.entries if entry.fault] == []
    assert {len(index.entries) for index in indexes[:-1]} == {64 if folder == SHARDS else 84}
    assert sum(file.stat().st_size for file in FILES[folder]) < 4_000_000


def test_second_shards_have_the_same_drawings_on_other_backgrounds() -> None:
    first, second = read(SHARDS), read(SECOND)
    assert first.keys().isdisjoint(second)
    assert {a.drawing for a in first.values()} == {a.drawing for a in second.values()}
    assert {a.sample.caption for a in first.values()}.isdisjoint(a.sample.caption for a in second.values())


def test_metadata_describes_the_sample(demo: dict[str, Demo]) -> None:
    for key, a in demo.items():
        assert a.metadata["key"] == key
        assert a.metadata["caption"] == a.sample.caption == a.drawing.caption(a.metadata["background"])
        assert a.metadata["sha256"] == sha256(a.sample.image).hexdigest()
        assert (a.metadata["height"], a.metadata["width"], 3) == a.pixels.shape == (64, 64, 3)
        assert a.metadata["licence"] == LICENCES[a.drawing.vendor]
    assert len({a.sample.caption for a in demo.values()}) == len(demo)


def test_every_edit_has_its_target_in_the_same_shard(demo: dict[str, Demo]) -> None:
    for a in demo.values():
        assert a.metadata["edits"]
        for edit in a.metadata["edits"]:
            target = demo[edit["target_key"]]
            assert edit["caption"] == target.sample.caption
            assert target.shard == a.shard
            back = {"kind": edit["kind"], "target_key": a.metadata["key"], "caption": a.sample.caption}
            assert back in target.metadata["edits"]


def test_an_edit_only_changes_the_field_of_its_kind(demo: dict[str, Demo]) -> None:
    differs = {"colour": {"name"}, "object": {"name"}, "person": {"name"}, "skin tone": {"tone"}, "style": {"vendor"}}
    differs["background"] = {"background"}
    for kind, a, b in edits(demo):
        fields = ("vendor", "name", "tone", "background")
        assert {name for name in fields if a.metadata[name] != b.metadata[name]} == differs[kind]


def test_the_background_has_no_colour_of_the_edit(demo: dict[str, Demo]) -> None:
    """Otherwise, a replaced word would change the background too, and the drawing would be invisible."""
    for kind, a, b in edits(demo):
        if kind == "colour":
            assert not {a.metadata["background"]} & {*a.drawing.name.split(), *b.drawing.name.split()}


def test_backgrounds_are_those_of_the_corner_pixels(demo: dict[str, Demo]) -> None:
    """The corner, which most drawings leave free, has the same colour before and after, except in background edits."""
    corners = [(kind, a.pixels[0, 0], b.pixels[0, 0]) for kind, a, b in edits(demo)]
    same = Counter(kind for kind, a, b in corners if (a == b).all())
    total = Counter(kind for kind, _, _ in corners)
    assert same["background"] == 0
    assert all(same[kind] > 0.8 * total[kind] for kind in KINDS if kind != "background")


def test_drawings_are_those_of_the_held_out_pairs(folder: Path, demo: dict[str, Demo]) -> None:
    """The pairs of each kind are as many as the split holds out, and each drawing is in exactly one pair."""
    in_pairs = [a.drawing for kind, a, _ in edits(demo) if kind != "background"]
    assert len(in_pairs) == len(set(in_pairs))
    assert {a.drawing for a in demo.values()} == set(in_pairs)
    assert Counter(kind for kind, a, b in edits(demo) if a.sample.key < b.sample.key) == {
        **PAIRS,
        "background": BACKGROUNDS[folder],
    }


def test_the_first_shard_has_every_kind_of_edit() -> None:
    """It is the shard of `edict demo`."""
    kinds = Counter(kind for kind, a, b in edits(read(SHARDS)) if a.shard == b.shard == FILES[SHARDS][0].name)
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) >= 8
