"""Contact sheets of small stores: the positions of the images, and texts of all kinds."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFont

from pipeline.inspect import sheet
from pipeline.inspect.sheet import (
    CELL,
    COLUMN_GAP,
    LINE_HEIGHT,
    MARGIN,
    MAX_EDITS,
    MAX_LINES,
    MAX_SHEETS,
    ROW_GAP,
    contact_sheets,
    read_shown_rows,
    wrap,
)
from pipeline.store.parts import to_parquet
from pipeline.store.store import Store
from schemas.commit import Commit, Seconds
from schemas.contact_sheet import CONTACT_SHEET, MAX_SHOWN
from tests.pipeline.helpers import image_file

Colour = tuple[int, int, int]
RED, GREEN, BLUE, BLACK, WHITE = (220, 20, 20), (20, 220, 20), (20, 20, 220), (0, 0, 0), (255, 255, 255)


def row(
    source: Colour | None, reconstruction: Colour, *edits: Colour, side: int = 64, text: str = "a dog"
) -> dict[str, Any]:
    return {
        "key": "k",
        "caption": text,
        "exact": True,
        "source": None if source is None else image_file(source, side=side),
        "reconstruction": image_file(reconstruction, side=side),
        "edits": [
            {"edit": f"e{i}", "prompt": text, "image": image_file(edit, side=side)} for i, edit in enumerate(edits)
        ],
    }


def store_of(folder: Path, *units: list[dict[str, Any]], contact_sheet: int = 8) -> Store:
    store = Store(str(folder), create=True)
    job = {"kind": "edit", "spec": {"contact_sheet": contact_sheet}, "fingerprint": {}, "machine": {}}
    store.put("job.json", json.dumps(job).encode())
    for i, rows in enumerate(units):
        path = f"pictures/{i:08d}-1.parquet"
        files = (store.put(path, to_parquet(pa.Table.from_pylist(rows, schema=CONTACT_SHEET))),) if rows else ()
        assert store.commit(
            Commit(
                unit=f"{i:08d}",
                attempt=f"{i:08d}-1",
                source="parts/a.parquet",
                input=1,
                ok=1,
                rejected=0,
                filtered=0,
                files=files,
                rejects=(),
                seconds=Seconds(read=0.0, compute=1.0, write=0.0),
                started=0.0,
                finished=1.0,
                worker={"host": "h", "pid": "1", "device": "cpu"},
                versions={},
            )
        )
    return store


def sheet_of(folder: Path, *units: list[dict[str, Any]]) -> Image.Image:
    return dict(contact_sheets(store_of(folder, *units)))["contact_sheet.png"]


def centre(row: int, column: int, side: int = CELL, lines: int = 1) -> tuple[int, int]:
    """Return the centre of a cell's image, if the captions of every row have this number of lines."""
    height = LINE_HEIGHT + 4 + side + 8 + LINE_HEIGHT * lines
    return (
        MARGIN + column * (side + COLUMN_GAP) + side // 2,
        MARGIN + row * (height + ROW_GAP) + LINE_HEIGHT + 4 + side // 2,
    )


def test_every_cell_shows_its_image(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path / "store", [row(RED, GREEN, BLUE), row(BLUE, RED)], [], [row(GREEN, BLACK, RED, BLUE)])
    found = [[sheet.getpixel(centre(i, j)) for j in range(4)] for i in range(3)]
    assert found == [[RED, GREEN, BLUE, WHITE], [BLUE, RED, WHITE, WHITE], [GREEN, BLACK, RED, BLUE]]
    assert sheet.size == (
        2 * MARGIN + 4 * CELL + 3 * COLUMN_GAP,
        2 * MARGIN + 3 * (LINE_HEIGHT + 4 + CELL + 8 + LINE_HEIGHT) + 2 * ROW_GAP,
    )


@pytest.mark.parametrize(("side", "scaled"), [(16, 192), (64, 192), (80, 160), (128, 128), (192, 192), (512, 192)])
def test_images_are_scaled_to_similar_sizes(tmp_path: Path, side: int, scaled: int) -> None:
    sheet = sheet_of(tmp_path / "store", [row(RED, GREEN, side=side)])
    reds = np.argwhere((np.asarray(sheet) == RED).all(-1))
    assert (np.ptp(reds, axis=0) + 1).tolist() == [scaled, scaled]
    assert sheet.getpixel(centre(0, 1, scaled)) == GREEN


def test_small_images_keep_their_pixels(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    sheet = sheet_of(tmp_path / "store", [{**row(RED, GREEN), "source": buffer.getvalue()}])
    x, y = centre(0, 0)
    half = CELL // 2
    scaled = sheet.crop((x - half, y - half, x + half, y + half))
    assert np.array_equal(np.asarray(scaled), np.asarray(noise).repeat(3, axis=0).repeat(3, axis=1))


def test_a_missing_source_is_noted(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path / "store", [row(None, GREEN)])
    x, y = centre(0, 0)
    there = np.asarray(sheet)[y - 10 : y + 10, x - CELL // 2 + 2 : x + CELL // 2 - 2]
    assert there.min() < 160  # The note is in the middle.
    assert there.max() == 255
    assert sheet.getpixel(centre(0, 1)) == GREEN


def test_the_heading_distinguishes_exact_and_close(tmp_path: Path) -> None:
    exact = sheet_of(tmp_path / "exact", [row(RED, GREEN)])
    close = sheet_of(tmp_path / "close", [{**row(RED, GREEN), "exact": False}])
    x, top = MARGIN + CELL + COLUMN_GAP, MARGIN + LINE_HEIGHT
    differing = np.argwhere((np.asarray(exact) != np.asarray(close)).any(-1))
    assert len(differing) > 0
    (upper, left), (lower, right) = differing.min(0), differing.max(0)
    assert MARGIN <= upper <= lower < top
    assert x <= left <= right < x + CELL


def test_no_shown_rows_make_no_sheet(tmp_path: Path) -> None:
    assert list(contact_sheets(store_of(tmp_path / "store", [], []))) == []
    assert list(contact_sheets(store_of(tmp_path / "empty"))) == []


def test_each_of_several_edits_has_a_sheet_of_the_rows_it_changed(tmp_path: Path) -> None:
    sheets = dict(contact_sheets(store_of(tmp_path / "store", [row(RED, GREEN, BLUE), row(BLUE, RED, GREEN, BLACK)])))
    assert list(sheets) == ["contact_sheet.png", "contact_sheet-e0.png", "contact_sheet-e1.png"]
    e0, e1 = sheets["contact_sheet-e0.png"], sheets["contact_sheet-e1.png"]
    assert [[e0.getpixel(centre(i, j)) for j in range(3)] for i in range(2)] == [[RED, GREEN, BLUE], [BLUE, RED, GREEN]]
    assert [e1.getpixel(centre(0, j)) for j in range(3)] == [BLUE, RED, BLACK]
    assert e1.height < e0.height


def test_the_number_of_sheets_is_limited(tmp_path: Path) -> None:
    assert len(list(contact_sheets(store_of(tmp_path / "one", [row(RED, GREEN, BLUE)])))) == 1
    many = row(RED, GREEN, *[BLUE] * (MAX_SHEETS + 1))
    assert len(list(contact_sheets(store_of(tmp_path / "many", [many])))) == 1 + MAX_SHEETS


@pytest.mark.parametrize("rows", [1, 24])
def test_a_sheet_does_not_grow_with_the_number_of_edits(tmp_path: Path, rows: int) -> None:
    def sheets(edits: int) -> dict[str, Image.Image]:
        some = [row(RED, GREEN, *[BLUE] * edits, side=16)] * rows
        return dict(contact_sheets(store_of(tmp_path / f"{edits}", some, contact_sheet=rows)))

    few, many = sheets(MAX_EDITS + 2), sheets(100)
    assert few["contact_sheet.png"].size == many["contact_sheet.png"].size
    assert len(few) == 1 + MAX_EDITS + 2
    assert len(many) == 1 + min(MAX_SHEETS, 100, MAX_SHOWN // rows)
    x, y = centre(0, 1)
    note = np.asarray(many["contact_sheet.png"])[y + CELL // 2 + 8 :, x - CELL // 2 : x + CELL // 2]
    assert (note < 200).any()  # This is the note about the edits left out.
    assert (np.asarray(few["contact_sheet-e0.png"]) == np.asarray(many["contact_sheet-e0.png"])).all()


def test_no_more_images_are_opened_than_sheets_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bytes] = []
    scaled = sheet._scaled
    monkeypatch.setattr(sheet, "_scaled", lambda data: opened.append(data) or scaled(data))
    some = [row(RED, GREEN, *[BLUE] * 1000, side=16)] * 8
    assert len(list(contact_sheets(store_of(tmp_path / "store", some)))) == 1 + MAX_SHEETS
    assert len(opened) == 8 * (2 + MAX_SHEETS)


def test_rows_are_read_one_by_one(tmp_path: Path) -> None:
    """An edit job writes one row group per row, with the edits that are shown."""
    store = store_of(tmp_path / "store", [row(RED, GREEN, BLUE)] * 3)
    (path,) = store.names("pictures")
    store.put(path, to_parquet(store.get_table(path), row_group_size=1))
    groups = []
    read_row_group = pq.ParquetFile.read_row_group

    class Counting(pq.ParquetFile):  # type: ignore[misc]
        def read_row_group(self, i: int, **more: Any) -> pa.Table:
            groups.append(i)
            return read_row_group(self, i, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pq, "ParquetFile", Counting)
        for i, _ in enumerate(read_shown_rows(store)):
            assert groups == list(range(i + 1))
    assert len(groups) == 3


def test_uncommitted_rows_are_not_shown(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", [row(RED, GREEN)])
    store.put("pictures/00000001-1.parquet", store.get("pictures/00000000-1.parquet"))
    assert len(list(read_shown_rows(store))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t ",
        "猫と犬が雪の中で遊んでいる" * 30,
        "كلب في الثلج",
        "כלב",
        "👩‍🚀 " * 40,
        "x" * 5000,
        "a\nb\0c\u202e\u2028d",
        "e\u0301",
    ],
)
def test_any_text_can_be_a_caption(tmp_path: Path, text: str) -> None:
    sheet = sheet_of(tmp_path / "store", [row(RED, GREEN, BLUE, text=text)])
    assert sheet.height <= 2 * MARGIN + LINE_HEIGHT + 4 + CELL + 8 + MAX_LINES * LINE_HEIGHT
    # Nothing is written into the gaps between cells, or the margin.
    pixels = np.asarray(sheet)
    for column in range(3):
        right = MARGIN + column * (CELL + COLUMN_GAP) + CELL
        assert (pixels[:, right + 2 : right + COLUMN_GAP - 2] == 255).all()


@pytest.mark.parametrize("character", "\u2013\u2014\u2019\u201e\u2026\u00e9\u00f1\u0141")
def test_typographic_punctuation_and_accents_are_not_drawn_as_boxes(character: str) -> None:
    font = ImageFont.load_default(size=12)
    box = Image.Image()._new(font.getmask("\u732b")).tobytes()
    (line,) = wrap(character, font, 90)
    assert Image.Image()._new(font.getmask(line)).tobytes() != box


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a  dog\nruns", ["a dog runs"]),
        ("one two three four five six seven", ["one two three", "four five six", "seven"]),
        ("one two three four five six seven eight nine ten", ["one two three", "four five six", "seven eight…"]),
        ("mmmmmmmmmmmmmmm", ["mmmmmmmm", "mmmmmmm"]),
        ("e\u0301 \u00e9 \u0141", ["e e L"]),
        ("\u201ca dog\u201d\u2014it\u2019s \u2026", ['"a dog"-it\'s ...']),
        ("\u732b", ["\u732b"]),
    ],
)
def test_captions_are_wrapped_and_elided(text: str, lines: list[str]) -> None:
    font = ImageFont.load_default(size=12)
    assert wrap(text, font, 90) == lines
    assert all(font.getlength(line) <= 90 for line in lines)
