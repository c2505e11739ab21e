"""The report of an edit in a real Chromium: images are shown, filters and sliders work, and no text is executed."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from pipeline.inspect.report.page import report
from pipeline.store.parts import to_parquet
from pipeline.store.plan import Unit, write_units
from pipeline.store.store import Store
from schemas.commit import Commit, Seconds
from schemas.contact_sheet import CONTACT_SHEET
from schemas.rejects import Reject
from schemas.specs import EditSpec
from tests.browser import Page, browsing, executable
from tests.pipeline.helpers import image_file

HOSTILE = """<script>document.title="run"</script><img src=x onerror="document.title='run'"></script>"'><b>bold</b>"""
SHOWN = "[...document.querySelectorAll('{}')].filter(e => e.checkVisibility()).length"
FIGURES = {"drift": 0.01, "steps": 40, "guidance_scale": 3.0, "strength": 0.8}


def row(key: str, caption: str, *edits: str) -> dict[str, Any]:
    prompts = [
        {"edit": edit, "prompt": f"{caption} in {edit}", "image": image_file("blue"), **FIGURES} for edit in edits
    ]
    return {
        "key": key,
        "caption": caption,
        "exact": True,
        "source": image_file("red"),
        "reconstruction": image_file("green"),
        "edits": prompts,
    }


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of an edit of three rows. One row has hostile text in every field of the dataset."""
    folder = tmp_path_factory.mktemp("page")
    store = Store(str(folder / "edits"), create=True)
    edits = [{"name": name, "prompt": "{caption} in " + name} for name in ("snow", "rain")]
    spec = EditSpec.model_validate({"kind": "edit", "latents": "latents", "output": "edits", "edits": edits})
    machine = {"device": "cpu", "threads": 1, "gpus": 0.0}
    job = {"kind": "edit", "spec": spec.model_dump(mode="json"), "fingerprint": {}, "machine": machine}
    store.put("job.json", json.dumps(job | {"created": HOSTILE, "variants_per_row": 2}).encode())
    write_units(store, [Unit("00000000", "parts/0.parquet", 0, 0, 3, 1, None)])
    rows = [row("A/001", "a dog", "snow", "rain"), row("A/002", "a fox", "snow"), row(HOSTILE, HOSTILE, "snow", "rain")]
    part = to_parquet(pa.Table.from_pylist(rows, schema=CONTACT_SHEET))
    fields: dict[str, Any] = {
        "unit": "00000000",
        "attempt": "00000000-1",
        "source": "parts/0.parquet",
        "input": 6,
        "ok": 5,
        "rejected": 1,
        "filtered": 0,
        "files": (store.put("pictures/00000000-1.parquet", part),),
        "rejects": (Reject("in/0.tar", 1, HOSTILE, "edit", HOSTILE, HOSTILE),),
        "seconds": Seconds(read=1.0, compute=1.0, write=1.0),
        "started": 0.0,
        "finished": 1.0,
        "worker": {"host": HOSTILE, "pid": "1", "device": "cpu"},
        "versions": {},
    }
    assert store.commit(Commit(**fields))
    path = folder / "report.html"
    path.write_text(report(store), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    chromium = executable()
    if chromium is None:
        # CI must have Chromium; elsewhere the tests are skipped without it.
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no Chromium: python -m tests.browser")
    with browsing(chromium) as page:
        yield page


@pytest.fixture
def page(browser: Page, html: Path) -> Page:
    browser.open(html)
    return browser


def test_every_image_is_shown_without_a_request(page: Page) -> None:
    widths = page.run("[...document.images].map(image => image.naturalWidth)")
    # three sources, three reconstructions, five edits, and a source below each edit
    assert widths == [64] * (3 + 3 + 5 + 5)
    requests = [event["request"]["url"] for event in page.met("Network.requestWillBeSent")]
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert page.met("Log.entryAdded") == []
    assert page.met("Runtime.exceptionThrown") == []


def test_text_of_a_dataset_stays_text(page: Page) -> None:
    assert page.run("document.title").startswith("edit ")
    assert page.run("document.scripts.length") == 1
    assert page.run("document.querySelectorAll('b, [onerror]').length") == 0
    assert page.run("[...document.querySelectorAll('.source')].length") == 3
    captions = page.run("[...document.querySelectorAll('figcaption')].map(caption => caption.textContent)")
    assert captions.count(HOSTILE) == 2  # the caption of the source and the key of the reconstruction
    assert page.run("document.querySelectorAll('.row')[2].dataset.key") == HOSTILE


def test_the_content_policy_stops_an_injected_script(page: Page) -> None:
    """The policy stops what escaping should already prevent: an inline script, a handler, a style, a request."""
    page.run("""new Promise(done => {
        const script = document.createElement("script");
        script.textContent = "document.title = 'run'";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend",
          '<img id="in" src="data:," onerror="document.title = `run`" style="color: red">');
        const image = new Image();
        image.onerror = () => setTimeout(done, 50);
        image.src = "http://127.0.0.1:9/x.png";
    })""")
    assert page.run("document.title").startswith("edit ")
    assert page.run("document.getElementById('in').style.color") == ""
    messages = " ".join(event["entry"]["text"] for event in page.met("Log.entryAdded"))
    for directive in ("script-src", "style-src", "img-src"):
        assert directive in messages


def test_chips_and_the_key_filter_what_is_shown(page: Page) -> None:
    def shown() -> tuple[int, int, str]:
        rows, edits = (page.run(SHOWN.format(kind)) for kind in (".row", ".edited"))
        return rows, edits, page.run("document.querySelector('output').value")

    def search(text: str) -> None:
        page.run(
            f"(() => {{ const field = document.querySelector('[type=search]'); field.value = {json.dumps(text)};"
            "field.dispatchEvent(new Event('input')); })()"
        )

    assert page.run("[...document.querySelectorAll('.chips button')].map(chip => chip.value)") == ["snow", "rain"]
    assert shown() == (3, 5, "5 of 5 edits")
    page.run("document.querySelector('[value=rain]').click()")
    assert shown() == (2, 2, "2 of 5 edits")
    for text in ("A/0", " a/0"):
        search(text)
        assert shown() == (1, 1, "1 of 5 edits")
    page.run("document.querySelector('[value=rain]').click()")
    assert shown() == (2, 3, "3 of 5 edits")
    search("no such key")
    assert shown() == (0, 0, "0 of 5 edits")
    search("")
    assert shown() == (3, 5, "5 of 5 edits")


def colour(page: Page, share: float) -> list[int]:
    """Return the colour on the screen at a share of the first edit's width."""
    box = page.run(
        "(() => { const frame = document.querySelector('img.edit'); frame.scrollIntoView({block: 'center'});"
        "const box = frame.getBoundingClientRect(); return [box.x, box.y + scrollY, box.width, box.height]; })()"
    )
    x, y, width, height = box
    clip = {"x": x + share * width, "y": y + height / 2, "width": 1, "height": 1, "scale": 1}
    data = page.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return list(image.convert("RGB").getpixel((0, 0)))


def test_the_slider_shows_the_source_and_works_by_keyboard(page: Page) -> None:
    red, blue = [255, 0, 0], [0, 0, 255]
    assert (colour(page, 0.25), colour(page, 0.75)) == (blue, blue)
    page.run("document.querySelector('[type=range]').focus()")
    assert "snow" in page.run("document.activeElement.ariaLabel")
    for _ in range(4):
        page.press("PageDown", 34)
    assert page.run("document.activeElement.value") == "60"
    assert (colour(page, 0.25), colour(page, 0.75)) == (blue, red)
    page.press("Home", 36)
    assert (colour(page, 0.25), colour(page, 0.75)) == (red, red)


def test_chips_work_by_keyboard(page: Page) -> None:
    page.run("document.querySelector('[value=rain]').focus()")
    page.press(" ", 32)
    assert page.run("document.activeElement.ariaPressed") == "true"
    assert page.run(SHOWN.format(".edited")) == 2
    page.press("Tab", 9)
    assert page.run("document.activeElement.type") == "search"


@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(13, 17, 23)")])
def test_light_and_dark(page: Page, scheme: str, paper: str) -> None:
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    assert page.run("getComputedStyle(document.body).backgroundColor") == paper
