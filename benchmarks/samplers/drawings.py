"""The held-out pictures, a drawing each once."""

from jobs.evaluation.truth import Captioned, truth


def drawings() -> list[tuple[Captioned, Captioned]]:
    """The two drawings of every pair, on one background, in order: what else is shipped shows these on others."""
    pairs: dict[str, tuple[Captioned, Captioned]] = {}
    for edit in truth():
        if edit.kind != "background":
            pairs.setdefault(edit.drawings, (edit.source, edit.target))
    return list(pairs.values())
