"""The held-out images, each drawing once."""

from jobs.evaluation.truth import CaptionedImage, reference_edits


def drawings() -> list[tuple[CaptionedImage, CaptionedImage]]:
    """Return the two drawings of every pair, on one of the backgrounds on which they are shipped, in order."""
    pairs: dict[str, tuple[CaptionedImage, CaptionedImage]] = {}
    for edit in reference_edits():
        if edit.kind != "background":
            pairs.setdefault(edit.drawings, (edit.source, edit.target))
    return list(pairs.values())
