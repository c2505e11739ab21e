"""A contact sheet of edits beside their ground truth."""

from collections import Counter
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from jobs.evaluation.truth import ReferenceEdit


def draw(edits: Sequence[ReferenceEdit], rows: Mapping[str, Sequence[Image.Image]], columns: int) -> Image.Image:
    """A row for every name of `rows`, a column for the first `columns` edits of every kind, pictures twice their size.

    `rows` holds a picture of each edit, in their order.
    """
    seen = Counter[str]()
    shown = []
    for i, edit in enumerate(edits):
        seen[edit.kind] += 1
        if seen[edit.kind] <= columns:
            shown.append(i)
    edits = [edits[i] for i in shown]
    rows = {name: [images[i] for i in shown] for name, images in rows.items()}
    size, left, top = 2 * edits[0].source.image.width, 84, 48
    drawn = Image.new("RGB", (left + size * len(edits), top + size * len(rows)), "white")
    pen = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(11)
    for i, edit in enumerate(edits):
        before, after = (caption.replace(",", "").split() for caption in (edit.source.caption, edit.target.caption))
        old, new = [word for word in before if word not in after], [word for word in after if word not in before]
        pen.text((left + size * i + 3, 3), f"{edit.kind}:\n{' '.join(old)} >\n{' '.join(new)}", "black", font)
    for j, (name, images) in enumerate(rows.items()):
        pen.text((3, top + size * j + size // 2), name, "black", font)
        for i, image in enumerate(images):
            drawn.paste(image.resize((size, size), Image.Resampling.NEAREST), (left + size * i, top + size * j))
    return drawn
