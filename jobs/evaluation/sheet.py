"""The contact sheet of `edict eval edits`: the edits of each method in one row, and their ground truth."""

from collections import Counter
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from jobs.evaluation.truth import ReferenceEdit

LEFT, TOP = 84, 48  # pixels of the labels
SCALE = 2  # pixels of the sheet per pixel of an image


def draw(edits: Sequence[ReferenceEdit], rows: Mapping[str, Sequence[Image.Image]], columns: int) -> Image.Image:
    """Return a sheet with a row for every name of `rows`, and columns for the first `columns` edits of each kind.

    `rows` has one image for each edit, in the order of `edits`.
    """
    count_of = Counter[str]()
    shown = []
    for i, edit in enumerate(edits):
        count_of[edit.kind] += 1
        if count_of[edit.kind] <= columns:
            shown.append(i)
    edits = [edits[i] for i in shown]
    rows = {name: [images[i] for i in shown] for name, images in rows.items()}
    size = SCALE * edits[0].source.image.width
    sheet = Image.new("RGB", (LEFT + size * len(edits), TOP + size * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for i, edit in enumerate(edits):
        before, after = (caption.replace(",", "").split() for caption in (edit.source.caption, edit.target.caption))
        old, new = [word for word in before if word not in after], [word for word in after if word not in before]
        pen.text((LEFT + size * i + 3, 3), f"{edit.kind}:\n{' '.join(old)} >\n{' '.join(new)}", "black", font)
    for j, (name, images) in enumerate(rows.items()):
        pen.text((3, TOP + size * j + size // 2), name, "black", font)
        for i, image in enumerate(images):
            sheet.paste(image.resize((size, size), Image.Resampling.NEAREST), (LEFT + size * i, TOP + size * j))
    return sheet
