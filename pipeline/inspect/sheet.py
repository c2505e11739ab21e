"""Contact sheets: the shown rows of an edit job as one image, with source, reconstruction and edits side by side.

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

CELL = 192  # pixels of a cell's image, at most
COLUMN_GAP, ROW_GAP, MARGIN = 16, 28, 32
LINE_HEIGHT = 18
MAX_LINES = 3  # per caption
MAX_ROWS = 64  # per sheet: the largest number that a spec can request
MAX_EDITS = 8  # per row on the first sheet
MAX_SHEETS = 32  # sheets of one edit each
BACKGROUND, TEXT, CAPTION, FRAME = "#ffffff", "#1f2328", "#6e7781", "#d8dee4"


REPLACEMENTS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),  # hyphens, dashes, minus
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'"),  # single quotes, apostrophe, prime
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),  # double quotes
        **{"\u2022": "*", "\u00d7": "x"},  # bullet, multiplication sign
        **{"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"},
    }
)
"""ASCII text for punctuation and letters that Pillow's own font lacks, and that have no decomposition in Unicode."""


@dataclass(frozen=True)
class Cell:
    """An image (None: it is missing), with a heading above and a caption below."""

    heading: str
    image: Image.Image | None
    caption: str


@dataclass(frozen=True)
class _Row:
    """The cells of a row, and the number of edits that the first sheet leaves out."""

    source: Cell
    reconstruction: Cell
    edits: list[Cell]
    left_out: int


def reconstruction_heading(exact: bool) -> str:
    """Return the heading of a reconstruction. Only its latents can be exact: the autoencoder changes its image."""
    return f"decoded latents ({'exact' if exact else 'close'})"


def read_shown_rows(store: Store) -> Iterator[dict[str, Any]]:
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

    The first sheet has the first MAX_EDITS edits of each row. If there are several edits, each of the first MAX_SHEETS
    also has its own sheet. There is no sheet if no row is shown.

    A row has its source, its decoded regenerated latents, and its edits. The number of edits differs between rows.
    Text is set in Pillow's own font, which only has ASCII characters. Typographic punctuation and accented letters are
    drawn as their nearest ASCII characters, and other scripts show as boxes. Pillow uses one font per text, and no font
    has all scripts. report.html uses the browser's fonts, and shows all scripts.
    """
    names: dict[str, None] = {}
    rows: list[_Row] = []
    for row in islice(read_shown_rows(store), MAX_ROWS):
        edits = []
        for i, edit in enumerate(row["edits"]):
            if len(names) < MAX_SHEETS:
                names[edit["edit"]] = None
            if i < MAX_EDITS or edit["edit"] in names:
                edits.append(Cell(edit["edit"], _scaled(edit["image"]), edit["prompt"]))
        source = Cell("source", None if row["source"] is None else _scaled(row["source"]), row["caption"])
        reconstruction = Cell(reconstruction_heading(row["exact"]), _scaled(row["reconstruction"]), "")
        left_out = max(0, len(row["edits"]) - MAX_EDITS) + row["edits_left_out"]
        rows.append(_Row(source, reconstruction, edits, left_out))
    if not rows:
        return
    yield "contact_sheet.png", _draw([_first_cells(row) for row in rows])
    for name in names if len(names) > 1 else ():
        with_edit = [(row, [cell for cell in row.edits if cell.heading == name]) for row in rows]
        yield (
            f"contact_sheet-{name}.png",
            _draw([[row.source, row.reconstruction, *cells] for row, cells in with_edit if cells]),
        )


def _first_cells(row: _Row) -> list[Cell]:
    """Return the cells of a row on the first sheet. The reconstruction has a note with the number of edits left out."""
    note = f"and {row.left_out:,} more edits" if row.left_out else ""
    return [row.source, replace(row.reconstruction, caption=note), *row.edits[:MAX_EDITS]]


def _scaled(data: bytes) -> Image.Image:
    """Return an image at the size of a cell: small images are enlarged by whole factors, large ones are scaled down."""
    image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS).convert("RGB")
    side = max(image.size)
    if side > CELL:
        image.thumbnail((CELL, CELL), Resampling.LANCZOS)
        return image
    factor = CELL // side
    return image.resize((image.width * factor, image.height * factor), Resampling.NEAREST)


def _draw(rows: list[list[Cell]]) -> Image.Image:
    font, small = ImageFont.load_default(size=13), ImageFont.load_default(size=12)
    side = max(max(cell.image.size) for row in rows for cell in row if cell.image)
    captions = [[wrap(cell.caption, small, side) for cell in row] for row in rows]
    heights = [LINE_HEIGHT + 4 + side + 8 + LINE_HEIGHT * max(map(len, lines)) for lines in captions]
    columns = max(map(len, rows))
    width = 2 * MARGIN + columns * side + (columns - 1) * COLUMN_GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + sum(heights) + (len(rows) - 1) * ROW_GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for row, lines_of, height in zip(rows, captions, heights, strict=True):
        for column, (cell, lines) in enumerate(zip(row, lines_of, strict=True)):
            left, upper = MARGIN + column * (side + COLUMN_GAP), top + LINE_HEIGHT + 4
            for heading in wrap(cell.heading, font, side, 1):
                draw.text((left, top), heading, TEXT, font)
            if cell.image is None:
                draw.rectangle((left, upper, left + side - 1, upper + side - 1), outline=FRAME)
                center = left + side // 2, upper + side // 2
                draw.text(center, "source changed or missing", CAPTION, small, anchor="mm")
            else:
                sheet.paste(cell.image, (left, upper))
                # The frame is around the image, so that a white image does not merge with the background.
                draw.rectangle((left - 1, upper - 1, left + cell.image.width, upper + cell.image.height), None, FRAME)
            for i, line in enumerate(lines):
                draw.text((left, upper + side + 8 + i * LINE_HEIGHT), line, CAPTION, small)
        top += height + ROW_GAP
    return sheet


def wrap(text: str, font: Any, width: int, max_lines: int = MAX_LINES) -> list[str]:
    """Return a text in lines that fit the width, broken at spaces if there are any, with an ellipsis if it is too long.

    `width` is in pixels.
    """
    rest = "".join(map(_to_ascii, " ".join(text.split()).translate(REPLACEMENTS)))
    lines: list[str] = []
    while rest and len(lines) < max_lines:
        end = _fitting(rest, font, width)
        if end < len(rest) and " " in rest[: end + 1]:
            end = rest.rindex(" ", 0, end + 1)
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    if rest:
        last = lines.pop()
        lines.append(last[: _fitting(last, font, width - font.getlength("…"))].rstrip(" ,;:") + "…")
    return lines


def _to_ascii(character: str) -> str:
    """Return a character without its accents if it is then ASCII, and otherwise unchanged."""
    decomposed = unicodedata.normalize("NFKD", character)
    plain = "".join(part for part in decomposed if not unicodedata.combining(part))
    return plain if plain.isascii() else character


def _fitting(text: str, font: Any, width: float) -> int:
    """Return the number of characters of a text that fit the width, but at least one."""
    end = 1
    while end < len(text) and font.getlength(text[: end + 1]) <= width:
        end += 1
    return end
