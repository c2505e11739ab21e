"""The page of a report: one HTML file that needs no other."""

import base64
import io
import json
import shlex
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image
from PIL.ImageFile import ImageFile

from pipeline.inspect.report.content import CommitTotals, commit_totals, distributions, shown_edits
from pipeline.inspect.sheet import CELL, contact_sheets, read_shown_rows, reconstruction_heading
from pipeline.inspect.status import status
from pipeline.instructions import changes
from pipeline.io.images import IMAGE_FORMATS
from pipeline.store.store import Store
from schemas.locations import without_secrets

MAX_CHARACTERS = 1000  # per caption, prompt or key; marking and searching longer texts takes minutes

TEMPLATE, STYLE, SCRIPT = (Path(__file__).with_name(name) for name in ("template.html", "style.css", "script.js"))


def write_report(store: Store) -> list[str]:
    """Write the contact sheets of a store, then report.html. Return the names of these files.

    report.html is written last, so if it exists, the sheets exist too.

    Raises:
        StoreError: See `report`.
    """
    written = []
    for name, sheet in contact_sheets(store):
        buffer = io.BytesIO()
        sheet.save(buffer, "png")
        store.put(name, buffer.getvalue())
        written.append(name)
    store.put("report.html", report(store).encode())
    return [*written, "report.html"]


def report(store: Store) -> str:
    """Return the HTML report of an inversion or an edit, complete or not.

    Raises:
        StoreError: There is no store, or a file that its commits name is absent or damaged.
    """
    job, totals = store.job(), commit_totals(store)
    found, shown = status(store), shown_edits(read_shown_rows(store))
    style, script = (Markup(path.read_text(encoding="utf-8")) for path in (STYLE, SCRIPT))
    # `finalize` gets every text that is written, so that no field can be forgotten.
    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=public, trim_blocks=True)
    environment.filters["short"] = short
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        job=job,
        found=found,
        location=store.location,
        # A line break could separate a URL from its password, so lines are not wrapped.
        spec=yaml.safe_dump(job.spec, sort_keys=False, allow_unicode=True, width=2**31),
        fingerprint=json.dumps(job.fingerprint, indent=2, ensure_ascii=False),
        latents=shlex.quote(without_secrets(job.spec["latents"] if job.kind == "edit" else store.location)),
        seconds=totals.seconds,
        workers=_workers(totals),
        versions={name: ", ".join(sorted(totals.versions[name])) for name in sorted(totals.versions)},
        rejects=[(error, count, totals.rejects[error]) for error, count in found.rejects.items()],
        distributions=distributions(store, totals.parts) if job.kind == "invert" else None,
        shown=[_shown_row(row) for row in shown.embedded],
        edits=list(dict.fromkeys(edit["edit"] for row in shown.embedded for edit in row["edits"])),
        left_out=shown.left_out,
        exact=shown.exact,
        rows=shown.rows,
        style=style,
        script=script,
        policy=Markup(_content_policy(style, script)),
    )


def public(value: Any) -> Any:
    """Return a text without the credentials in its URLs; any other value as it is."""
    return without_secrets(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def short(text: str) -> str:
    """Return at most MAX_CHARACTERS characters of a text, with an ellipsis if it is longer.

    Credentials are removed first, because a truncated URL may not be recognized.
    """
    text = without_secrets(text)
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "…"


def mark_changes(prompt: str, caption: str) -> Markup:
    """Return the prompt as HTML, with the words that are not in the caption in <mark>."""
    prompt, caption = without_secrets(prompt), without_secrets(caption)
    html, done = Markup(""), 0
    for _, new in changes(caption, prompt):
        if new.start < new.stop:
            html += escape(prompt[done : new.start]) + Markup("<mark>{}</mark>").format(prompt[new])
            done = new.stop
    return html + escape(prompt[done:])


def _content_policy(style: str, script: str) -> str:
    """Return a policy that allows only the images in the page, exactly this style and exactly this script."""
    digests = [base64.b64encode(sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _workers(totals: CommitTotals) -> list[dict[str, Any]]:
    return [
        {"host": host, "pid": pid, "device": device, "units": totals.units[worker], "images": totals.images[worker]}
        for worker in sorted(totals.units)
        for host, pid, device in [worker]
    ]


def _shown_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a shown row with its images as data: URIs and its prompts marked."""
    side, caption = max(_open(row["reconstruction"]).size), short(row["caption"])
    return {
        "small": side <= CELL // 2,
        "key": short(row["key"]),
        "caption": caption,
        "head": reconstruction_heading(row["exact"]),
        "source": None if row["source"] is None else _data_uri(row["source"]),
        "reconstruction": _data_uri(row["reconstruction"]),
        "edits": [
            {
                "edit": edit["edit"],
                "prompt": mark_changes(short(edit["prompt"]), caption),
                "image": _data_uri(edit["image"]),
                **{name: edit.get(name) for name in ("drift", "steps", "guidance_scale", "strength")},
            }
            for edit in row["edits"]
        ],
    }


def _data_uri(image: bytes) -> Markup:
    """Return an image file as a data: URI. It is Markup, because base64 needs no escaping and has no credentials."""
    return Markup("data:{};base64,{}").format(_open(image).get_format_mimetype(), base64.b64encode(image).decode())


def _open(image: bytes) -> ImageFile:
    return Image.open(io.BytesIO(image), formats=IMAGE_FORMATS)
