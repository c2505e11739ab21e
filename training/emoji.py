"""Captioned emoji pictures: three licensed sets, their Unicode CLDR names, and the split that is kept from training.

A *picture* is one drawing by one vendor, RGBA 64x64. It becomes an image on one of nine plain backgrounds, with a
caption that says all three: "red heart, noto emoji on a blue background". Because the same thing is drawn in several
colours, skin tones, persons and styles, two pictures whose captions differ in a word are the *ground truth* of an edit.
"""

import random
import re
import subprocess
import tarfile
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from jobs.demo import SIZE

PACKAGES = {  # vendor: (npm package, version, folder of the pictures inside it)
    "noto": ("emoji-datasource-google", "16.0.0", "img/google/64"),
    "twemoji": ("emoji-datasource-twitter", "16.0.0", "img/twitter/64"),
    "fluent": ("@lobehub/fluent-emoji-3d", "1.1.0", "assets"),
}
BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (20, 20, 20),
    "grey": (150, 150, 150),
    "red": (214, 48, 49),
    "orange": (245, 145, 30),
    "yellow": (250, 215, 60),
    "green": (60, 160, 75),
    "blue": (33, 138, 214),
    "purple": (130, 80, 180),
}
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
_TONE = re.compile(r" (medium-light|medium-dark|light|medium|dark) skin tone")
_COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "brown",
    "black",
    "white",
    "pink",
    "grey",
    "light blue",
)
_COLOURED = ("{} heart", "{} circle", "{} square", "{} book", "{} apple", "large {} diamond", "small {} diamond")
_ALIKE = (  # objects that are drawn to one pattern, so that one can be turned into the other
    ("cat face", "dog face", "fox", "bear", "lion", "tiger face", "cow face", "pig face", "mouse face", "rabbit face",
     "hamster", "panda", "koala", "monkey face", "frog", "wolf", "horse face", "polar bear", "raccoon", "moose"),
    ("tangerine", "lemon", "peach", "cherries", "pear", "kiwi fruit", "tomato", "coconut", "mango"),
    ("automobile", "taxi", "sport utility vehicle", "bus", "minibus", "ambulance", "fire engine", "police car",
     "delivery truck"),
    ("grinning face", "crying face", "sleeping face", "winking face", "angry face", "thinking face", "neutral face",
     "astonished face", "kissing face", "nerd face", "confused face", "relieved face"),
    ("soccer ball", "basketball", "volleyball", "baseball", "tennis"),
    ("rose", "tulip", "hibiscus", "sunflower", "blossom", "cherry blossom"),
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Picture:
    """One drawing: `name` is the CLDR name without its skin tone, `tone` one of TONES or ""."""

    vendor: str
    name: str
    tone: str
    codepoints: str

    def caption(self, background: str) -> str:
        tone = f" {self.tone} skin tone" if self.tone else ""
        return f"{self.name}{tone}, {self.vendor} emoji on a {background} background"


@dataclass(frozen=True, order=True)
class DrawingPair:
    """The ground truth of an edit: two pictures whose captions differ in one thing, `kind` of KINDS."""

    kind: str
    source: Picture
    target: Picture


def download(folder: Path) -> None:
    """Fetch the three npm packages with `npm pack` and unpack them under `folder`, a few seconds; done once."""
    for vendor, (package, version, inside) in PACKAGES.items():
        if (folder / vendor).is_dir():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", "--silent", f"{package}@{version}"], cwd=folder, check=True, capture_output=True, text=True
        )
        partial = folder / f"{vendor}.partial"
        partial.mkdir(exist_ok=True)
        with tarfile.open(folder / packed.stdout.strip()) as tar:
            for member in tar:
                if member.isfile() and member.name.removeprefix("package/").startswith(inside + "/"):
                    source = tar.extractfile(member)
                    assert source is not None
                    (partial / Path(member.name).name).write_bytes(source.read())
        partial.rename(folder / vendor)


def pictures(folder: Path) -> dict[Picture, np.ndarray]:
    """Every picture with a name, as RGBA uint8 [64, 64, 4], in a fixed order.

    Flags (fine print at this size) and couples of two skin tones (260 near copies a vendor) are left out.
    """
    from emoji import EMOJI_DATA

    names = {_plain(text): data["en"].strip(":").replace("_", " ") for text, data in EMOJI_DATA.items()}
    found = {}
    for vendor in PACKAGES:
        for file in sorted((folder / vendor).iterdir()):
            codepoints = re.sub("-fe0f", "", file.stem.lower().replace("_", "-"))
            name = names.get(codepoints)
            tones = _TONE.findall(name) if name else []
            if not name or len(tones) > 1 or re.match("1f1[ef][0-9a-f]-1f1|1f3f4-e", codepoints):
                continue
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS))
            found[Picture(vendor, _TONE.sub("", name), tones[0] if tones else "", codepoints)] = pixels
    return found


def composite(rgba: np.ndarray, background: str) -> np.ndarray:
    """`rgba` uint8 [..., 4] over one of BACKGROUNDS: uint8 [..., 3]."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    over = rgba[..., :3] * alpha + np.asarray(BACKGROUNDS[background], np.float32) * (1 - alpha)
    return np.rint(over).astype(np.uint8)


def held_out_pairs(known: set[Picture]) -> list[DrawingPair]:
    """The ground-truth pairs kept from training: no picture of a pair is ever trained on, on any background.

    What a pair needs to be editable stays in training: the other tones, colours, persons and vendors.
    """
    index = {(p.vendor, p.name, p.tone): p for p in known}
    taken: set[Picture] = set()
    pairs: list[DrawingPair] = []

    def take(kind: str, candidates: list[tuple[Picture, Picture]], most: int) -> None:
        random.Random(f"{kind} {candidates[0][0].vendor}").shuffle(candidates)
        for source, target in candidates:
            if most and source not in taken and target not in taken:
                pairs.append(DrawingPair(kind, source, target))
                taken.update((source, target))
                most -= 1

    ordered = sorted(index)
    for i, vendor in enumerate(PACKAGES):
        coloured = [
            [index[vendor, name, ""] for colour in _COLOURS if (vendor, name := form.format(colour), "") in index]
            for form in _COLOURED
        ]
        take("colour", [(a, b) for group in coloured for a, b in combinations(group, 2)], 6)
        alike = [[index[vendor, name, ""] for name in group if (vendor, name, "") in index] for group in _ALIKE]
        # each object is held out for one vendor only, so that the other two teach it
        mine = [[p for j, p in enumerate(group) if j % len(PACKAGES) == i] for group in alike]
        take("object", [(a, b) for group in mine for a, b in combinations(group, 2)], 8)

    toned = sorted({(vendor, name) for vendor, name, tone in ordered if tone and (vendor, name, "dark") in index})
    random.Random("held out: tones").shuffle(toned)
    tone_pairs = []
    for vendor, name in toned:
        a, b = random.Random(f"{vendor} {name}").sample(TONES, 2)
        tone_pairs.append((index[vendor, name, a], index[vendor, name, b]))
    take("skin tone", tone_pairs, 50)

    take(
        "person",
        [
            (index[key], index[key[0], name, key[2]])
            for key in ordered
            for name in (re.sub(r"^man\b", "woman", key[1]),)
            if key[1].startswith("man ") and (key[0], name, key[2]) in index
        ],
        50,
    )
    styles = [("noto", "fluent"), ("twemoji", "fluent"), ("noto", "twemoji"), ("fluent", "noto")]
    take(
        "style",
        [
            (index[a, name, ""], index[b, name, ""])
            for _, name, tone in ordered
            for a, b in styles
            if not tone and all((vendor, name, "") in index for vendor in PACKAGES)
        ],
        50,
    )
    return pairs


def _plain(text: str) -> str:
    return "-".join(f"{ord(c):04x}" for c in text if ord(c) != 0xFE0F)
