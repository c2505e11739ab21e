"""The contact sheet: an edit job's shown rows as one picture, source, reconstruction and edits side by side."""

import io
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling

from pipeline.images import FORMATS
from pipeline.store import Store

CELL = 192  # pixels of a cell's picture, at most
GAP, BETWEEN, MARGIN = 16, 28, 32  # between columns, between rows, around all
LEADING = 18
LINES = 3  # of a caption
SHEETS = 32  # edits that have a sheet of their own, at most
PAPER, INK, PALE, FRAME = "#ffffff", "#1f2328", "#6e7781", "#d8dee4"


@dataclass(frozen=True)
class Cell:
    """A picture, None where there is none to show, with a head above and a caption below."""

    head: str
    picture: Image.Image | None
    caption: str


def read_pictures(store: Store) -> list[dict[str, Any]]:
    """The rows of schemas.pictures that the store's commits name, in the units' order."""
    return [
        row
        for commit in store.commits()
        for file in commit.files
        if file.path.startswith("pictures/")
        for row in store.get_table(file.path).to_pylist()
    ]


def contact_sheets(store: Store) -> Iterator[tuple[str, Image.Image]]:
    """The names and the pictures of an edit job's contact sheets: one of all its edits, and where there are several,
    one of each, for the first SHEETS. There are none where no row is shown.

    A row is its source, its reconstruction under its own caption, and its edits, of which each row has its own number.
    Text is set in Pillow's own font, which has Latin letters only: others show as boxes. Pillow takes one font for a
    text, and no font has all scripts; report.html has the browser's, and shows them.
    """
    rows = read_pictures(store)
    if not rows:
        return
    yield "contact_sheet.png", _draw([_cells(row) for row in rows])
    edits = list(dict.fromkeys(edit["edit"] for row in rows for edit in row["edits"]))
    for name in edits[:SHEETS] if len(edits) > 1 else ():
        alone = [{**row, "edits": [edit for edit in row["edits"] if edit["edit"] == name]} for row in rows]
        yield f"contact_sheet-{name}.png", _draw([_cells(row) for row in alone if row["edits"]])


def _cells(row: dict[str, Any]) -> list[Cell]:
    return [
        Cell("source", None if row["source"] is None else _picture(row["source"]), row["caption"]),
        Cell(f"reconstruction ({'exact' if row['exact'] else 'close'})", _picture(row["reconstruction"]), ""),
        *(Cell(edit["edit"], _picture(edit["image"]), edit["prompt"]) for edit in row["edits"]),
    ]


def _picture(data: bytes) -> Image.Image:
    """A picture at the size it is shown in: small ones keep their pixels, enlarged; large ones are scaled down."""
    picture = Image.open(io.BytesIO(data), formats=FORMATS).convert("RGB")
    side = max(picture.size)
    if side > CELL:
        picture.thumbnail((CELL, CELL), Resampling.LANCZOS)
        return picture
    factor = CELL // side
    return picture.resize((picture.width * factor, picture.height * factor), Resampling.NEAREST)


def _draw(rows: list[list[Cell]]) -> Image.Image:
    font, small = ImageFont.load_default(size=13), ImageFont.load_default(size=12)
    side = max(max(cell.picture.size) for row in rows for cell in row if cell.picture)
    texts = [[_wrapped(cell.caption, small, side) for cell in row] for row in rows]
    heights = [LEADING + 4 + side + 8 + LEADING * max(map(len, captions)) for captions in texts]
    columns = max(map(len, rows))
    sheet = Image.new(
        "RGB",
        (2 * MARGIN + columns * side + (columns - 1) * GAP, 2 * MARGIN + sum(heights) + (len(rows) - 1) * BETWEEN),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for row, captions, height in zip(rows, texts, heights, strict=True):
        for column, (cell, lines) in enumerate(zip(row, captions, strict=True)):
            left, upper = MARGIN + column * (side + GAP), top + LEADING + 4
            for head in _wrapped(cell.head, font, side, 1):
                draw.text((left, top), head, INK, font)
            if cell.picture is None:
                draw.rectangle((left, upper, left + side - 1, upper + side - 1), outline=FRAME)
                draw.text((left + side // 2, upper + side // 2), "source shard not found", PALE, small, anchor="mm")
            else:
                sheet.paste(cell.picture, (left, upper))
                # a frame around the picture, not on it: a white background would melt into the paper
                draw.rectangle(
                    (left - 1, upper - 1, left + cell.picture.width, upper + cell.picture.height), None, FRAME
                )
            for i, line in enumerate(lines):
                draw.text((left, upper + side + 8 + i * LEADING), line, PALE, small)
        top += height + BETWEEN
    return sheet


def _wrapped(text: str, font: Any, width: int, lines: int = LINES) -> list[str]:
    """Text in lines that fit the width, broken at spaces where there are any; what does not fit ends in an ellipsis."""
    # composed, since the font has letters with accents but no accents to combine
    rest = unicodedata.normalize("NFC", " ".join(text.split()))
    found: list[str] = []
    while rest and len(found) < lines:
        end = _fitting(rest, font, width)
        if end < len(rest) and " " in rest[: end + 1]:
            end = rest.rindex(" ", 0, end + 1)
        found.append(rest[:end])
        rest = rest[end:].lstrip()
    if rest:
        last = found.pop()
        found.append(last[: _fitting(last, font, width - font.getlength("…"))].rstrip(" ,;:") + "…")
    return found


def _fitting(text: str, font: Any, width: float) -> int:
    """How many characters of the text fit the width; one at least, so that there is an end to it."""
    end = 1
    while end < len(text) and font.getlength(text[: end + 1]) <= width:
        end += 1
    return end
