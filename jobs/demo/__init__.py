"""The demo data: captioned images that the default model was not trained on, and the ground truth of edits."""

from pathlib import Path

SIZE = 64  # pixels per side of an image
KINDS = ("colour", "skin tone", "person", "object", "background", "style")
"""The kinds of edits that have a ground truth."""
SHARDS, SECOND = (Path(__file__).parent / name for name in ("shards", "second"))
