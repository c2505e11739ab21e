"""The shipped demo shards: sound, and the ground truth they claim is there."""

import io
import json
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edict.training.emoji import KINDS, Picture
from jobs.demo.build import LICENCES, SHARDS
from pipeline.shards import Sample, index_shard, read_samples

FILES = sorted(SHARDS.glob("*.tar"))
PAIRS = {"colour": 18, "skin tone": 50, "person": 50, "object": 24, "style": 50, "background": 56}


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
    def picture(self) -> Picture:
        return Picture(*(self.metadata[name] for name in ("vendor", "name", "tone", "codepoints")))


@pytest.fixture(scope="module")
def demo() -> dict[str, Demo]:
    """Every sample, by key."""
    found = {}
    for file in FILES:
        index = index_shard(str(file))
        for read in read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries):
            assert isinstance(read, Sample), read
            assert read.key not in found
            assert read.json is not None
            found[read.key] = Demo(file.name, read, json.loads(read.json))
    return found


def edits(demo: dict[str, Demo]) -> list[tuple[str, Demo, Demo]]:
    return [(edit["kind"], a, demo[edit["target_key"]]) for a in demo.values() for edit in a.metadata["edits"]]


def test_shards_are_sound_and_small() -> None:
    indexes = [index_shard(str(file)) for file in FILES]
    assert [entry.fault for index in indexes for entry in index.entries if entry.fault] == []
    assert {len(index.entries) for index in indexes[:-1]} == {64}
    assert sum(file.stat().st_size for file in FILES) < 4_000_000


def test_metadata_describes_the_sample(demo: dict[str, Demo]) -> None:
    for key, a in demo.items():
        assert a.metadata["key"] == key
        assert a.metadata["caption"] == a.sample.caption == a.picture.caption(a.metadata["background"])
        assert a.metadata["sha256"] == sha256(a.sample.image).hexdigest()
        assert (a.metadata["height"], a.metadata["width"], 3) == a.pixels.shape == (64, 64, 3)
        assert a.metadata["licence"] == LICENCES[a.picture.vendor]
    assert len({a.sample.caption for a in demo.values()}) == len(demo)


def test_an_edit_is_a_pair_of_captions_that_are_there(demo: dict[str, Demo]) -> None:
    for a in demo.values():
        assert a.metadata["edits"]
        for edit in a.metadata["edits"]:
            target = demo[edit["target_key"]]
            assert edit["caption"] == target.sample.caption
            assert target.shard == a.shard
            back = {"kind": edit["kind"], "target_key": a.metadata["key"], "caption": a.sample.caption}
            assert back in target.metadata["edits"]


def test_only_what_the_kind_says_differs(demo: dict[str, Demo]) -> None:
    differs = {"colour": {"name"}, "object": {"name"}, "person": {"name"}, "skin tone": {"tone"}, "style": {"vendor"}}
    differs["background"] = {"background"}
    for kind, a, b in edits(demo):
        fields = ("vendor", "name", "tone", "background")
        assert {name for name in fields if a.metadata[name] != b.metadata[name]} == differs[kind]


def test_no_edited_colour_is_the_background(demo: dict[str, Demo]) -> None:
    """Else a replaced word would change both, and the picture could not be seen."""
    for kind, a, b in edits(demo):
        if kind == "colour":
            assert not {a.metadata["background"]} & {*a.picture.name.split(), *b.picture.name.split()}


def test_backgrounds_are_those_of_the_pixels(demo: dict[str, Demo]) -> None:
    """Of a corner that both pictures leave free: the same colour, but for edits of the background."""
    corners = [(kind, a.pixels[0, 0], b.pixels[0, 0]) for kind, a, b in edits(demo)]
    same = Counter(kind for kind, a, b in corners if (a == b).all())
    total = Counter(kind for kind, _, _ in corners)
    assert same["background"] == 0
    assert all(same[kind] > 0.8 * total[kind] for kind in KINDS if kind != "background")


def test_pictures_are_those_of_the_held_out_pairs(demo: dict[str, Demo]) -> None:
    """As many of each kind as the split keeps from training, each picture in one pair and none beside.

    That training does leave these out takes all the pictures to check: see the next test.
    """
    in_pairs = [a.picture for kind, a, _ in edits(demo) if kind != "background"]
    assert len(in_pairs) == len(set(in_pairs))
    assert {a.picture for a in demo.values()} == set(in_pairs)
    assert Counter(kind for kind, a, b in edits(demo) if a.sample.key < b.sample.key) == PAIRS


def test_the_first_shard_has_every_kind(demo: dict[str, Demo]) -> None:
    """The one that `edict demo` runs on."""
    kinds = Counter(kind for kind, a, b in edits(demo) if a.shard == b.shard == FILES[0].name)
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) >= 8
