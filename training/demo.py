"""Build the demo shards from the drawings that are held out: `python -m training.demo --emoji FOLDER`.

SHARDS are the shards of the demo. SECOND has the same pairs on other backgrounds, for measurements of more edits.
FOLDER has the drawings as `training.emoji.download` writes them. The same drawings give the same bytes.
"""

import argparse
import dataclasses
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
from training.emoji import BACKGROUNDS, Drawing, DrawingPair, composite, held_out_pairs, read_drawings

LICENCES = {"noto": "Apache-2.0", "twemoji": "CC-BY-4.0", "fluent": "MIT"}
PAIRS, REPEATED = 28, 8  # pairs per shard, and sources that are repeated on a second background: 64 samples in total


@dataclass(eq=False)
class Scene:
    """A drawing on a background. `edits` are the kinds of its edits, with the scenes that they should give."""

    drawing: Drawing
    background: str
    edits: list[tuple[str, "Scene"]] = field(default_factory=list)

    @property
    def caption(self) -> str:
        return self.drawing.caption(self.background)


def shards(known: set[Drawing]) -> dict[Path, list[list[Scene]]]:
    """Return the scenes of every shard of SHARDS and SECOND.

    The two drawings of a pair have the same background, so the target is exactly the image that an edit of the source
    should give. Both scenes of an edit are in the same shard, and each names the other. In SECOND, no drawing is on a
    background that it has in SHARDS, and every source is on two backgrounds.
    """
    pairs = _ordered(held_out_pairs(known))
    parts = [pairs[first : first + PAIRS] for first in range(0, len(pairs), PAIRS)]
    used: Counter[str] = Counter()
    first = [_scenes(part, used, REPEATED, {}) for part in parts]
    used_by: dict[Drawing, set[str]] = {}
    for scenes in first:
        for scene in scenes:
            used_by.setdefault(scene.drawing, set()).add(scene.background)
    return {SHARDS: first, SECOND: [_scenes(part, used, len(part), used_by) for part in parts]}


def _ordered(pairs: list[DrawingPair]) -> list[DrawingPair]:
    """Return the pairs with the kinds in turn, so that every shard has all kinds. Pairs with short names are first.

    Short names are those of well-known things.
    """

    def length(pair: DrawingPair) -> int:
        return len(pair.source.name) + len(pair.target.name)

    by_kind = [sorted((pair for pair in pairs if pair.kind == kind), key=lambda p: (length(p), p)) for kind in KINDS]
    return [pair for turn in zip_longest(*by_kind) for pair in turn if pair is not None]


def _scenes(
    pairs: list[DrawingPair], used: Counter[str], repeated: int, excluded_for: dict[Drawing, set[str]]
) -> list[Scene]:
    """Return the scenes of pairs. The first `repeated` sources are also on a second background.

    `excluded_for` has the backgrounds that must not be used, by drawing.
    """
    scenes = []
    for i, pair in enumerate(pairs):
        excluded = excluded_for.get(pair.source, set()) | excluded_for.get(pair.target, set())
        background = _background(pair, used, excluded)
        source, target = Scene(pair.source, background), Scene(pair.target, background)
        _mark(pair.kind, source, target)
        if i < repeated:
            again = Scene(pair.source, _background(pair, used, excluded | {background}))
            _mark("background", again, source)
            scenes.append(again)
        scenes += [source, target]
    return scenes


def _mark(kind: str, a: Scene, b: Scene) -> None:
    """Add an edit in both directions."""
    a.edits.append((kind, b))
    b.edits.append((kind, a))


def _background(pair: DrawingPair, used: Counter[str], excluded: set[str]) -> str:
    """Return the least used background. A colour in the names of the pair is excluded: yellow hides a yellow heart."""
    excluded_or_named = {*excluded, *pair.source.name.split(), *pair.target.name.split()}
    order = random.Random(_seed(pair.source, excluded)).sample(list(BACKGROUNDS), len(BACKGROUNDS))
    chosen = min((background for background in order if background not in excluded_or_named), key=lambda b: used[b])
    used[chosen] += 1
    return chosen


def _seed(drawing: Drawing, excluded: set[str]) -> str:
    """Return the seed of a choice. The shipped shards depend on every character, also on the earlier class name."""
    fields = ", ".join(f"{field.name}={getattr(drawing, field.name)!r}" for field in dataclasses.fields(drawing))
    return f"Picture({fields}) {' '.join(sorted(excluded))}"


def samples(
    scenes: list[Scene], number: int, known: dict[Drawing, np.ndarray]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the samples of a shard as img2dataset writes them: png, txt and json.

    A key has 5 digits for the shard and 4 for the sample.
    """
    keys = {scene: f"{number:05d}{i:04d}" for i, scene in enumerate(scenes)}
    for scene in scenes:
        image = Image.fromarray(composite(known[scene.drawing], scene.background))
        buffer = io.BytesIO()
        image.save(buffer, "png", optimize=True)
        metadata = {
            "key": keys[scene],
            "caption": scene.caption,
            "vendor": scene.drawing.vendor,
            "name": scene.drawing.name,
            "tone": scene.drawing.tone,
            "background": scene.background,
            "codepoints": scene.drawing.codepoints,
            "licence": LICENCES[scene.drawing.vendor],
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
    """Write the shards, and return their files. Raises FileNotFoundError if the drawings of a vendor are missing."""
    known = read_drawings(emoji)
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
    parser.add_argument("--emoji", type=Path, required=True, help="folder with the downloaded drawings")
    arguments = parser.parse_args()
    for file in build(arguments.emoji):
        content = file.read_bytes()
        print(f"{sha256(content).hexdigest()}  {file.name}  {len(content):,} bytes")


if __name__ == "__main__":
    main()
