"""The shipped demo data: captioned pictures that the default model never saw, and the ground truth of edits on them."""

from pathlib import Path

SIZE = 64  # pixels per side of an image
KINDS = ("colour", "skin tone", "person", "object", "background", "style")  # of edits that have a ground truth
SHARDS, SECOND = (Path(__file__).parent / name for name in ("shards", "second"))
