"""The training data: emoji of three vendors with their Unicode CLDR names, and the pairs that are held out.

A *drawing* is one emoji of one vendor, RGBA with 64 x 64 pixels. On one of nine plain backgrounds it becomes an image
with a caption such as "red heart, noto emoji on a blue background". The same thing is drawn in several colours, skin
tones, persons and styles. So two drawings whose captions differ in one word are the *ground truth* of an edit.
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

PACKAGES = {  # vendor: (npm package, version, folder of the drawings in it)
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
_SIMILAR = (  # groups of objects with similar drawings, so that one can be edited into another
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
class Drawing:
    """One emoji of one vendor. `name` is the CLDR name without its skin tone, and `tone` is one of TONES or ""."""

    vendor: str
    name: str
    tone: str
    codepoints: str

    def caption(self, background: str) -> str:
        """Return the caption of the drawing on a background."""
        tone = f" {self.tone} skin tone" if self.tone else ""
        return f"{self.name}{tone}, {self.vendor} emoji on a {background} background"


@dataclass(frozen=True, order=True)
class DrawingPair:
    """The ground truth of an edit: two drawings whose captions differ in one thing. `kind` is one of KINDS."""

    kind: str
    source: Drawing
    target: Drawing


def download(folder: Path) -> None:
    """Download the three npm packages with `npm pack` and unpack them into `folder`, unless they are there."""
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


def read_drawings(folder: Path) -> dict[Drawing, np.ndarray]:
    """Return every drawing that has a name, as RGBA uint8 [64, 64, 4], in a fixed order.

    Flags are left out, because their details are too small, and so are couples of two skin tones, which are 260 similar
    drawings per vendor.

    Raises:
        FileNotFoundError: The drawings of a vendor are missing.
    """
    from emoji import EMOJI_DATA

    names = {_codepoints(text): data["en"].strip(":").replace("_", " ") for text, data in EMOJI_DATA.items()}
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
            found[Drawing(vendor, _TONE.sub("", name), tones[0] if tones else "", codepoints)] = pixels
    return found


def composite(rgba: np.ndarray, background: str) -> np.ndarray:
    """Return RGBA uint8 [..., 4] on one of BACKGROUNDS, as RGB uint8 [..., 3]."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    over = rgba[..., :3] * alpha + np.asarray(BACKGROUNDS[background], np.float32) * (1 - alpha)
    return np.rint(over).astype(np.uint8)


def held_out_pairs(known: set[Drawing]) -> list[DrawingPair]:
    """Return the ground-truth pairs that are held out: their drawings are not trained on, on any background.

    Other tones, colours, persons and vendors of the same things stay in the training data, so that the model learns the
    words of the edits.
    """
    index = {(p.vendor, p.name, p.tone): p for p in known}
    taken: set[Drawing] = set()
    pairs: list[DrawingPair] = []

    def take(kind: str, candidates: list[tuple[Drawing, Drawing]], most: int) -> None:
        """Hold out at most `most` random pairs whose drawings are in no other pair."""
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
        similar = [[index[vendor, name, ""] for name in group if (vendor, name, "") in index] for group in _SIMILAR]
        # Each object is held out for one vendor only, so that the model learns it from the other two.
        own = [[p for j, p in enumerate(group) if j % len(PACKAGES) == i] for group in similar]
        take("object", [(a, b) for group in own for a, b in combinations(group, 2)], 8)

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


def _codepoints(text: str) -> str:
    """Return the code points of an emoji as in the names of files, without variation selectors."""
    return "-".join(f"{ord(c):04x}" for c in text if ord(c) != 0xFE0F)
