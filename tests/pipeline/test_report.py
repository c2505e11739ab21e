"""Reports of small stores with the real schemas, parsed as in a browser."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.inspect.report.content import BINS, EXAMPLES, SAMPLED, ShownEdits, shown_edits
from pipeline.inspect.report.page import MAX_CHARACTERS, mark_changes, report
from pipeline.store.errors import StoreError
from pipeline.store.parts import to_parquet
from pipeline.store.plan import Unit, write_units
from pipeline.store.store import Store
from schemas.commit import Commit, File, Seconds
from schemas.contact_sheet import CONTACT_SHEET
from schemas.fingerprint import StoredSchedule
from schemas.latents import Footer, latents_schema
from schemas.rejects import Reject
from schemas.sampling import Sampling
from schemas.specs import EditSpec, InvertSpec
from tests.pipeline.helpers import image_file

HOSTILE = """<script>alert(1)</script><img src=x onerror="alert(2)"> "'>&amp; {{ 7 * 7 }}"""
FOOTER = Footer(
    scale=1.0,
    scale_y=1.0,
    bits=12,
    alphas_cumprod=1.0,
    batch_size=1,
    position=0,
    sampling=Sampling(),
    schedule=StoredSchedule(timesteps=[], alphas_cumprod=[1.0]),
)
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A parsed page: its text, its elements with their attributes, and the text of each."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {[tag for tag, _ in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        inside: list[str] = []
        self.elements.append((tag, dict(attrs), inside))
        if tag not in VOID:
            self._open.append((tag, inside))

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self._open.pop()
        assert tag == opened, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        self.text += data
        for _, inside in self._open:
            inside.append(data)

    def of(self, tag: str) -> list[str]:
        """Return the text of every element of a kind, in order."""
        return ["".join(inside) for name, _, inside in self.elements if name == tag]

    def attributes(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attrs for name, attrs, _ in self.elements if name == tag)

    @property
    def flat(self) -> str:
        return " ".join(self.text.split())


def units(*counts: int) -> list[Unit]:
    return [Unit(f"{i:08d}", f"in/{i}.tar", i, 0, count, 1, None) for i, count in enumerate(counts)]


def open_store(folder: Path, spec: InvertSpec | EditSpec, planned: list[Unit], **more: Any) -> Store:
    store = Store(str(folder), create=True)
    job = {
        "kind": spec.kind,
        "spec": spec.model_dump(mode="json"),
        "fingerprint": {"weights": "abc123", "steps": 50},
        "machine": {"device": "cpu", "threads": 1, "gpus": 0.0},
        "created": "2025-01-02T03:04:05+00:00",
        **more,
    }
    store.put("job.json", json.dumps(job).encode())
    write_units(store, planned)
    return store


def invert_store(folder: Path, *counts: int, input: str = "in/{0..9}.tar") -> Store:
    return open_store(folder, InvertSpec(kind="invert", input=input, output="latents"), units(*counts))


def edit_store(folder: Path, *counts: int) -> Store:
    spec = EditSpec.model_validate(
        {
            "kind": "edit",
            "latents": "my latents",
            "output": "edits",
            "edits": [{"name": "snow", "prompt": "{caption} s"}],
        }
    )
    return open_store(folder, spec, units(*counts), variants_per_row=1)


def commit(
    store: Store, unit: str, ok: int, *, filtered: int = 0, rejects: list[Reject] | None = None, **more: Any
) -> None:
    rejected = rejects or []
    fields: dict[str, Any] = {
        "unit": unit,
        "attempt": f"{unit}-1",
        "source": "in/0.tar",
        "input": ok + filtered + len(rejected),
        "ok": ok,
        "rejected": len(rejected),
        "filtered": filtered,
        "files": (),
        "rejects": tuple(rejected),
        "seconds": Seconds(read=1.0, compute=7.0, write=2.0),
        "started": 100.0,
        "finished": 110.0,
        "worker": {"host": "node-a", "pid": "17", "device": "cpu"},
        "versions": {"torch": "2.9"},
        **more,
    }
    assert store.commit(Commit(**fields))


def part(store: Store, unit: str, drifts: list[float]) -> File:
    rows = [
        {
            "key": f"k{i}",
            "shard": "in/0.tar",
            "index": i,
            "slot": 0,
            "caption": "a",
            "caption_truncated": False,
            "x": [[[1]]],
            "y": [[[1]]],
            "digest": "d",
            "drift": drift,
            "std": 1.0,
            "image_sha256": "s",
            "width": 1,
            "height": 1,
            "json": None,
        }
        for i, drift in enumerate(drifts)
    ]
    table = pa.Table.from_pylist(rows, schema=latents_schema((1, 1, 1), {}, FOOTER))
    return store.put(f"parts/{unit}-1.parquet", to_parquet(table))


def put_shown(store: Store, rows: list[dict[str, Any]]) -> File:
    return store.put("pictures/00000000-1.parquet", to_parquet(pa.Table.from_pylist(rows, schema=CONTACT_SHEET)))


def shown(caption: str, *prompts: str, exact: bool = True, key: str = "k") -> dict[str, Any]:
    edits = [{"edit": "snow", "prompt": prompt, "image": image_file("blue", format="JPEG")} for prompt in prompts]
    return {
        "key": key,
        "caption": caption,
        "exact": exact,
        "source": image_file("red"),
        "reconstruction": image_file("green"),
        "edits": edits,
    }


def reject(i: int, error: str = "CorruptImage", **more: str) -> Reject:
    return Reject(**{**asdict(Reject("in/0.tar", i, f"key{i}", "decode", error, f"cut at {i}")), **more})


def test_text_of_a_dataset_stays_text(tmp_path: Path) -> None:
    store = edit_store(tmp_path / "store", 2)
    commit(
        store,
        "00000000",
        1,
        rejects=[reject(1, key=HOSTILE, shard=HOSTILE, message=HOSTILE, error=HOSTILE)],
        files=(put_shown(store, [shown(HOSTILE, f"{HOSTILE} in snow", key=HOSTILE)]),),
        worker={"host": HOSTILE, "pid": HOSTILE, "device": HOSTILE},
        versions={HOSTILE: HOSTILE},
    )
    page = Page(report(store))
    tags = Counter(tag for tag, _, _ in page.elements)
    assert tags["script"] == 1  # This is the page's own script.
    assert tags["img"] == 3
    assert {key for tag, attrs, _ in page.elements for key in attrs if key.startswith("on")} == set()
    assert all(str(attrs["src"]).startswith("data:image/") for attrs in page.attributes("img"))
    # Reject: class, shard, key and message. Row: caption, key and prompt. Then the worker and the versions.
    assert page.text.count(HOSTILE) == 4 + 3 + 3 + 2


def test_the_page_is_one_file(tmp_path: Path) -> None:
    store = edit_store(tmp_path / "store", 1)
    commit(store, "00000000", 1, files=(put_shown(store, [shown("a dog", "a cat")]),))
    html = report(store)
    page = Page(html)
    assert {"link", "iframe", "form"}.isdisjoint(tag for tag, _, _ in page.elements)
    assert list(page.attributes("script")) == [{}]
    assert "url(" not in html
    assert not any("style" in attrs for _, attrs, _ in page.elements)  # The content policy would ignore it.
    sources = [str(attrs["src"]) for attrs in page.attributes("img")]
    assert sources == [
        f"data:image/png;base64,{base64.b64encode(image_file('red')).decode()}",
        f"data:image/png;base64,{base64.b64encode(image_file('green')).decode()}",
        f"data:image/jpeg;base64,{base64.b64encode(image_file('blue', format='JPEG')).decode()}",
    ]


def test_counts_are_sums_over_the_commits(tmp_path: Path) -> None:
    store = invert_store(tmp_path / "store", 13, 29)
    commit(store, "00000000", 11, rejects=[reject(0), reject(1)], files=(part(store, "00000000", [0.1] * 11),))
    worker = {"host": "node-b", "pid": "18", "device": "cuda"}
    commit(store, "00000001", 26, filtered=3, files=(part(store, "00000001", [0.3] * 26),), worker=worker)
    page = Page(report(store))
    assert dict(zip(page.of("dt"), page.of("dd"), strict=True)) == {
        "planned": "42",
        "input": "42",
        "ok": "37",
        "rejected": "2",
        "filtered": "3",
        "units": "2/2",
    }
    assert "42 input = 37 ok + 2 rejected + 3 filtered" in page.flat
    assert page.of("strong")[0] == "complete"
    assert "read 2.0 s compute 14.0 s write 4.0 s" in page.flat
    assert "3.7 images/s" in page.flat  # 37 in the 10 seconds that both took together
    assert "node-a17cpu111" in "".join(page.flat.split())
    assert "node-b18cuda126" in "".join(page.flat.split())
    assert "edict verify" in page.flat
    assert "abc123" in page.text


def test_units_of_several_processors_are_noted(tmp_path: Path) -> None:
    store = invert_store(tmp_path / "store", 3, 3)
    for unit, processor in (("00000000", "NVIDIA A100"), ("00000001", "NVIDIA H200")):
        assert "kinds of processor" not in Page(report(store)).flat
        worker = {"host": "a", "pid": "1", "device": "cuda", "processor": processor}
        commit(store, unit, 3, worker=worker, files=(part(store, unit, [0.1] * 3),))
    said = "units were made with 2 kinds of processor or versions, whose last bits may differ: "
    assert f"{said}1 on NVIDIA A100; 1 on NVIDIA H200" in Page(report(store)).flat


def test_an_incomplete_store_says_so(tmp_path: Path) -> None:
    store = invert_store(tmp_path / "store", 3, 4, 5)
    commit(store, "00000001", 4, files=(part(store, "00000001", [0.1] * 4),))
    page = Page(report(store))
    assert page.of("strong")[0] == "incomplete"
    assert "1 of 3 units are done" in page.flat


def test_a_store_with_nothing_done_has_a_report(tmp_path: Path) -> None:
    page = Page(report(invert_store(tmp_path / "store", 3)))
    assert page.of("strong")[0] == "incomplete"
    assert page.of("svg") == []
    assert "0 of 1 units are done" in page.flat


def test_wrong_sums_are_reported(tmp_path: Path) -> None:
    store = invert_store(tmp_path / "store", 3)
    commit(store, "00000000", 2)
    page = Page(report(store))
    assert page.of("strong")[0] == "incomplete"
    assert "unit 00000000 committed 2 of 3 planned" in page.flat


def test_rejects_by_class_with_their_first_examples(tmp_path: Path) -> None:
    many = EXAMPLES + 7
    store = invert_store(tmp_path / "store", many + 1)
    commit(store, "00000000", 0, rejects=[reject(many, "Rare"), *(reject(i) for i in range(many))])
    page = Page(report(store))
    headings = [" ".join(text.split()) for text in page.of("summary")]
    assert headings[:2] == [f"CorruptImage {many} the first {EXAMPLES} are shown", "Rare 1"]
    messages = re.findall(r"cut at \d+", page.text)
    assert messages == [f"cut at {i}" for i in range(EXAMPLES)] + [f"cut at {many}"]


def test_histograms_show_the_distribution_of_the_rows(tmp_path: Path) -> None:
    store = invert_store(tmp_path / "store", 4)
    commit(store, "00000000", 4, files=(part(store, "00000000", [0.25, 0.25, 0.25, 0.75]),))
    page = Page(report(store))
    drift = [float(str(attrs["height"])) for attrs in page.attributes("rect")][:BINS]
    assert (drift[0], drift[-1]) == (100.0, 33.33)
    assert set(drift[1:-1]) == {0.0}
    assert "0.25 median 0.25 0.75" in page.flat
    assert "Over all 4 rows" in page.flat


def test_a_large_store_is_sampled_and_says_so(tmp_path: Path) -> None:
    count = SAMPLED + 20
    store = invert_store(tmp_path / "store", *[1] * count)
    for i in range(count):
        # The drift is the part's number, so that the scale shows which parts were read.
        commit(store, f"{i:08d}", 1, files=(part(store, f"{i:08d}", [float(i)]),))
    page = Page(report(store))
    assert f"A sample: {SAMPLED} rows of {SAMPLED} parts, spread evenly over {count} parts" in page.flat
    scale = re.search(r"x − y (\S+) median (\S+) (\S+)", page.flat)
    assert scale is not None
    assert [float(number) for number in scale.groups()] == pytest.approx([0, 59.5, 118], abs=1)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    store = invert_store(tmp_path / "store", 1)
    file = part(store, "00000000", [0.5])
    commit(store, "00000000", 1, files=(file,))
    store.put(file.path, store.get(file.path)[:-9])
    with pytest.raises(StoreError, match=r"parts/00000000-1\.parquet is damaged"):
        report(store)


def test_the_report_of_an_edit_counts_its_exact_rows(tmp_path: Path) -> None:
    store = edit_store(tmp_path / "store", 3)
    rows = [shown("a dog", "a cat"), shown("a fox", exact=False), {**shown("an elk"), "source": None}]
    commit(store, "00000000", 3, files=(put_shown(store, rows),))
    page = Page(report(store))
    assert "2 of 3 shown rows regenerated integer for integer" in page.flat
    assert page.text.count("decoded latents (exact)") == 2
    assert page.text.count("decoded latents (close)") == 1
    assert page.text.count("source changed or missing") == 1
    assert page.of("mark") == ["cat"]
    assert "edict verify 'my latents'" in page.flat


def test_an_edit_with_no_shown_rows(tmp_path: Path) -> None:
    store = edit_store(tmp_path / "store", 1)
    commit(store, "00000000", 1)
    page = Page(report(store))
    assert "No rows are shown." in page.flat
    assert "Images" not in page.of("h2")


def test_numbers_of_an_edit_are_shown_if_the_store_has_them(tmp_path: Path) -> None:
    store = edit_store(tmp_path / "store", 2)
    row = shown("a dog", "a cat", "a fox")
    row["edits"][0] |= {"drift": 0.01234, "steps": 40, "guidance_scale": 5.0, "strength": 0.8}
    commit(store, "00000000", 2, files=(put_shown(store, [row]),))
    page = Page(report(store))
    assert page.flat.count("drift") == 1
    assert "drift 0.0123 · 40 steps · guidance 5 · strength 0.8" in page.flat


def test_images_of_an_earlier_store_are_shown(tmp_path: Path) -> None:
    """In earlier versions, an edit had three fields."""
    store = edit_store(tmp_path / "store", 1)
    three = pa.list_(pa.struct([("edit", pa.string()), ("prompt", pa.string()), ("image", pa.binary())]))
    older = CONTACT_SHEET.set(CONTACT_SHEET.get_field_index("edits"), pa.field("edits", three, nullable=False))
    table = pa.Table.from_pylist([shown("a dog", "a cat")], schema=older)
    commit(store, "00000000", 1, files=(store.put("pictures/00000000-1.parquet", to_parquet(table)),))
    page = Page(report(store))
    assert page.of("mark") == ["cat"]
    assert "drift" not in page.flat


def test_the_number_of_embedded_images_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"source": b"s" * 10, "reconstruction": b"r" * 10, "edits": [{"image": b"e" * 10}] * 3}
    rows = [{**row, "exact": i < 3, "edits_left_out": 0} for i in range(4)]
    assert shown_edits(iter(rows)) == ShownEdits(rows, 4, 3, 0)
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.inspect.report.content.MAX_SHOWN", 7)
        found = shown_edits(iter(rows))
        assert ([len(row["edits"]) for row in found.embedded], found.left_out) == ([3, 3, 1], 5)
        assert (found.rows, found.exact) == (4, 3)
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.inspect.report.content.EMBEDDED_BYTES", 50 + 30)
        found = shown_edits(iter(rows))
        assert ([len(row["edits"]) for row in found.embedded], found.left_out) == ([3, 1], 8)
    assert shown_edits([{**row, "edits_left_out": 40} for row in rows]).left_out == 160


def test_edits_that_are_left_out_are_counted(tmp_path: Path) -> None:
    """A row has 1,000 / 8 edits at most; a store of an earlier version has all of them."""
    for folder, edits, more in (("new", 2, 998), ("old", 1000, None)):
        store = edit_store(tmp_path / folder, 1)
        row = shown("a dog", *["a cat"] * edits) | {"edits_left_out": more}
        commit(store, "00000000", 1, files=(put_shown(store, [row]),))
        page = Page(report(store))
        kept = min(edits, 125)
        assert len(page.of("mark")) == kept
        assert f"{1000 - kept} more images are not shown" in page.flat


def test_credentials_are_never_shown(tmp_path: Path) -> None:
    secret = "https://ann:hunter2@host/a.tar"
    store = invert_store(tmp_path / "store", 1)
    job = store.get_json("job.json")
    job |= {"fingerprint": {"input": [secret]}, "spec": {**job["spec"], "input": secret}}  # No spec can be like this.
    store.put("job.json", json.dumps(job).encode())
    commit(store, "00000000", 0, rejects=[reject(0, shard=secret, message=f"{secret}: is missing")])
    html = report(store)
    assert "hunter2" not in html
    assert "ann:" not in html
    assert html.count("https://...@host/a.tar") == 4


def test_a_credential_in_a_truncated_url_is_not_shown(tmp_path: Path) -> None:
    secret = "x" * (MAX_CHARACTERS - 20) + " https://ghp_0123456789abcdef@host/x"
    store = edit_store(tmp_path / "store", 2)
    rows = (put_shown(store, [shown(secret, secret, key=secret)]),)
    commit(store, "00000000", 1, rejects=[reject(1, message=secret)], files=rows)
    assert "ghp_" not in report(store)


@pytest.mark.parametrize(
    ("caption", "prompt", "expected"),
    [
        ("a dog", "a dog", "a dog"),
        ("a dog", "a dog, covered in snow", "a dog<mark>, covered in snow</mark>"),
        ("a big dog runs", "a cat runs", "a <mark>cat</mark> runs"),
        ("a dog & a fox", "a <b> & a fox", "a <mark>&lt;b&gt;</mark> &amp; a fox"),
        ("", "hello", "<mark>hello</mark>"),
        ("hello", "", ""),
    ],
)
def test_changed_words_are_marked(caption: str, prompt: str, expected: str) -> None:
    assert str(mark_changes(prompt, caption)) == expected
