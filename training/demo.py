"""Build the shards of pictures kept from training: `python -m training.demo --emoji FOLDER`.

SHARDS are the demo's; SECOND has the same pairs on other backgrounds, for figures that want more of them.

FOLDER holds the pictures as `training.emoji.download` leaves them. The same pictures give the same bytes.
"""

import argparse
import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from jobs.demo import KINDS, SECOND, SHARDS
from pipeline.io.shard_writer import write_shard
from training.emoji import BACKGROUNDS, DrawingPair, Picture, composite, held_out_pairs, pictures

LICENCES = {"noto": "Apache-2.0", "twemoji": "CC-BY-4.0", "fluent": "MIT"}
PAIRS, AGAIN = 28, 8  # a shard: its pairs, and how many sources come again on a second background; 64 samples in all


@dataclass(eq=False)
class Scene:
    """A picture on a background; `edits` are the scenes that edits of it should give, by kind."""

    picture: Picture
    background: str
    edits: list[tuple[str, "Scene"]] = field(default_factory=list)

    @property
    def caption(self) -> str:
        return self.picture.caption(self.background)


def shards(known: set[Picture]) -> dict[Path, list[list[Scene]]]:
    """The scenes of every shard of SHARDS and SECOND; every edit stays within its shard and is marked both ways.

    A pair's two pictures share a background: its target is then, to the pixel, what an edit of its source should give.
    In SECOND no picture is on a background that it has in SHARDS, and every source comes on two.
    """
    pairs = _ordered(held_out_pairs(known))
    parts = [pairs[first : first + PAIRS] for first in range(0, len(pairs), PAIRS)]
    used: Counter[str] = Counter()
    first = [_scenes(part, used, AGAIN, {}) for part in parts]
    seen: dict[Picture, set[str]] = {}
    for scenes in first:
        for scene in scenes:
            seen.setdefault(scene.picture, set()).add(scene.background)
    return {SHARDS: first, SECOND: [_scenes(part, used, len(part), seen) for part in parts]}


def _ordered(pairs: list[DrawingPair]) -> list[DrawingPair]:
    """The kinds in turn, so that every shard has them all; short names first: they are of plain, well-known things."""

    def length(pair: DrawingPair) -> int:
        return len(pair.source.name) + len(pair.target.name)

    by_kind = [sorted((pair for pair in pairs if pair.kind == kind), key=lambda p: (length(p), p)) for kind in KINDS]
    return [pair for turn in zip_longest(*by_kind) for pair in turn if pair is not None]


def _scenes(pairs: list[DrawingPair], used: Counter[str], twice: int, seen: dict[Picture, set[str]]) -> list[Scene]:
    """The first `twice` sources come on a second background; none of them is one that was `seen`."""
    scenes = []
    for i, pair in enumerate(pairs):
        besides = seen.get(pair.source, set()) | seen.get(pair.target, set())
        background = _background(pair, used, besides)
        source, target = Scene(pair.source, background), Scene(pair.target, background)
        _mark(pair.kind, source, target)
        if i < twice:
            again = Scene(pair.source, _background(pair, used, besides | {background}))
            _mark("background", again, source)
            scenes.append(again)
        scenes += [source, target]
    return scenes


def _mark(kind: str, a: Scene, b: Scene) -> None:
    a.edits.append((kind, b))
    b.edits.append((kind, a))


def _background(pair: DrawingPair, used: Counter[str], besides: set[str]) -> str:
    """The least used so far, but none whose colour the pair names: a yellow heart would be lost on yellow."""
    named = {*besides, *pair.source.name.split(), *pair.target.name.split()}
    order = random.Random(f"{pair.source} {' '.join(sorted(besides))}").sample(list(BACKGROUNDS), len(BACKGROUNDS))
    chosen = min((background for background in order if background not in named), key=lambda b: used[b])
    used[chosen] += 1
    return chosen


def samples(
    scenes: list[Scene], number: int, known: dict[Picture, np.ndarray]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples of shard `number` as img2dataset writes them: png, txt, json; keys of 5 digits for it, 4 within."""
    keys = {scene: f"{number:05d}{i:04d}" for i, scene in enumerate(scenes)}
    for scene in scenes:
        image = Image.fromarray(composite(known[scene.picture], scene.background))
        buffer = io.BytesIO()
        image.save(buffer, "png", optimize=True)
        metadata = {
            "key": keys[scene],
            "caption": scene.caption,
            "vendor": scene.picture.vendor,
            "name": scene.picture.name,
            "tone": scene.picture.tone,
            "background": scene.background,
            "codepoints": scene.picture.codepoints,
            "licence": LICENCES[scene.picture.vendor],
            "width": image.width,
            "height": image.height,
            "sha256": sha256(buffer.getvalue()).hexdigest(),
            "edits": [
                {"kind": kind, "target_key": keys[target], "caption": target.caption} for kind, target in scene.edits
            ],
        }
        members = {"png": buffer.getvalue(), "txt": scene.caption.encode(), "json": json.dumps(metadata).encode()}
        yield keys[scene], members


def build(emoji: Path) -> list[Path]:
    """Write the shards; FileNotFoundError where `emoji` lacks a picture set."""
    known = pictures(emoji)
    files, number, of_folder = [], 0, shards(set(known))
    for folder, name in ((SHARDS, "demo"), (SECOND, "second")):
        folder.mkdir(exist_ok=True)
        for i, scenes in enumerate(of_folder[folder]):
            files.append(folder / f"{name}-{i:05d}.tar")
            files[-1].write_bytes(write_shard(samples(scenes, number, known)))
            number += 1
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the demo shards.")
    parser.add_argument("--emoji", type=Path, required=True, help="the downloaded pictures")
    arguments = parser.parse_args()
    for file in build(arguments.emoji):
        content = file.read_bytes()
        print(f"{sha256(content).hexdigest()}  {file.name}  {len(content):,} bytes")


if __name__ == "__main__":
    main()
