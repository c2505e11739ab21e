"""The contact sheet: an edit job's shown rows as one image, source, reconstruction and edits side by side.

Its size and memory do not grow with the number of edits, because a job shows at most MAX_SHOWN edited images.
"""

import io
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling

from pipeline.io.images import IMAGE_FORMATS
from pipeline.store.store import Store
from schemas.contact_sheet import edits_shown

CELL = 192  # pixels of a cell's picture, at most
GAP, BETWEEN, MARGIN = 16, 28, 32  # between columns, between rows, around all
LEADING = 18
LINES = 3  # of a caption
ROWS = 64  # of a sheet, at most: the largest number that a spec can request
EDITS = 8  # edits of a row on the first sheet, at most
SHEETS = 32  # edits that have a sheet of their own, at most
PAPER, INK, PALE, FRAME = "#ffffff", "#1f2328", "#6e7781", "#d8dee4"


@dataclass(frozen=True)
class Cell:
    """A picture, None where there is none to show, with a head above and a caption below."""

    head: str
    picture: Image.Image | None
    caption: str


@dataclass(frozen=True)
class _Row:
    """The cells of a row, of which the first sheet shows some, and the number of edits that it leaves out."""

    source: Cell
    reconstruction: Cell
    edits: list[Cell]
    left_out: int


def reconstruction_head(exact: bool) -> str:
    """Return the heading of a reconstruction. Only its latents can be exact: the autoencoder changes its image."""
    return f"decoded latents ({'exact' if exact else 'close'})"


def read_pictures(store: Store) -> Iterator[dict[str, Any]]:
    """Yield the rows of schemas.contact_sheet that the store's commits name, in the order of the units.

    Stores of earlier versions have all edits; the same number of them is left out here.
    """
    most = edits_shown(store.job().spec.get("contact_sheet", 1))
    for commit in store.commits([]):
        for file in commit.files:
            if file.path.startswith("pictures/"):
                for row in _rows(store, file.path):
                    left_out = (row.get("edits_left_out") or 0) + max(0, len(row["edits"]) - most)
                    yield {**row, "edits": row["edits"][:most], "edits_left_out": left_out}


def _rows(store: Store, path: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, with one row group in memory. Raises StoreError if it is damaged."""
    with store.parquet(path) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group, use_threads=False).to_pylist()


def contact_sheets(store: Store) -> Iterator[tuple[str, Image.Image]]:
    """Yield the names and the images of an edit job's contact sheets.

    The first sheet has the first EDITS edits of each row. If there are several edits, each of the first SHEETS also has
    a sheet of its own. There is no sheet if no row is shown.

    A row has its source, its decoded regenerated latents, and its edits. The number of edits differs between rows.
    Text is set in Pillow's own font, which has Latin letters only: others show as boxes. Pillow takes one font for a
    text, and no font has all scripts; report.html has the browser's, and shows them.
    """
    names: dict[str, None] = {}
    rows: list[_Row] = []
    for row in islice(read_pictures(store), ROWS):
        edits = []
        for i, edit in enumerate(row["edits"]):
            if len(names) < SHEETS:
                names[edit["edit"]] = None
            if i < EDITS or edit["edit"] in names:
                edits.append(Cell(edit["edit"], _picture(edit["image"]), edit["prompt"]))
        source = Cell("source", None if row["source"] is None else _picture(row["source"]), row["caption"])
        reconstruction = Cell(reconstruction_head(row["exact"]), _picture(row["reconstruction"]), "")
        left_out = max(0, len(row["edits"]) - EDITS) + row["edits_left_out"]
        rows.append(_Row(source, reconstruction, edits, left_out))
    if not rows:
        return
    yield "contact_sheet.png", _draw([_first_cells(row) for row in rows])
    for name in names if len(names) > 1 else ():
        one_edit = [(row, [cell for cell in row.edits if cell.head == name]) for row in rows]
        yield (
            f"contact_sheet-{name}.png",
            _draw([[row.source, row.reconstruction, *cells] for row, cells in one_edit if cells]),
        )


def _first_cells(row: _Row) -> list[Cell]:
    """Return the cells of a row on the first sheet. The reconstruction has a note with the number of edits left out."""
    note = f"and {row.left_out:,} more edits" if row.left_out else ""
    return [row.source, replace(row.reconstruction, caption=note), *row.edits[:EDITS]]


def _picture(data: bytes) -> Image.Image:
    """A picture at the size it is shown in: small ones keep their pixels, enlarged; large ones are scaled down."""
    picture = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS).convert("RGB")
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
                draw.text((left + side // 2, upper + side // 2), "source changed or gone", PALE, small, anchor="mm")
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
