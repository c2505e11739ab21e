"""The held-out images, each drawing once."""

from jobs.evaluation.truth import Captioned, truth


def drawings() -> list[tuple[Captioned, Captioned]]:
    """Return the two drawings of every pair, on one of the backgrounds on which they are shipped, in order."""
    pairs: dict[str, tuple[Captioned, Captioned]] = {}
    for edit in truth():
        if edit.kind != "background":
            pairs.setdefault(edit.drawings, (edit.source, edit.target))
    return list(pairs.values())
