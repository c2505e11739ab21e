"""The report: what a store says of its job, for a person, as one HTML file that needs no other."""

import base64
import io
import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image
from PIL.ImageFile import ImageFile

from pipeline.inspect.sheet import CELL, read_pictures, reconstruction_head
from pipeline.inspect.status import status
from pipeline.instructions import changes
from pipeline.io.images import IMAGE_FORMATS
from pipeline.store.files import READ_THREADS
from pipeline.store.store import Store
from schemas.contact_sheet import MAX_SHOWN
from schemas.locations import without_secrets
from schemas.rejects import Reject

EXAMPLES = 20  # rejects shown of a class
SAMPLED = 100  # parts read for the histograms, at most
BINS = 32
EMBEDDED_BYTES = 48 * 2**20  # of images in the page, at most
LONGEST = 1000  # characters shown of a caption, a prompt, a key: to mark and to search longer ones takes minutes

TEMPLATE, STYLE, SCRIPT = (Path(__file__).with_name(f"report.{kind}") for kind in ("html", "css", "js"))


@dataclass(frozen=True)
class Histogram:
    """Counts of BINS equal bins between the least and the greatest value, as heights from 0 to 1."""

    name: str
    meaning: str
    bars: list[float]
    least: float
    median: float
    greatest: float


@dataclass(frozen=True)
class Distributions:
    """Histograms over the rows of `read` parts of `parts`."""

    histograms: list[Histogram]
    rows: int
    read: int
    parts: int


@dataclass
class CommitTotals:
    """What the commits tell, added up: by worker (host, process, device) the units and images; EXAMPLES of each reject.

    There may be several versions of one package, where a run was finished after an upgrade.
    """

    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "compute": 0.0, "write": 0.0})
    units: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    images: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    versions: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    rejects: defaultdict[str, list[Reject]] = field(default_factory=lambda: defaultdict(list))
    parts: list[str] = field(default_factory=list)


@dataclass
class ShownEdits:
    """The rows that the page shows with their images, and the counts of all rows, exact rows, and edits left out."""

    embedded: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    exact: int = 0
    left_out: int = 0


def report(store: Store) -> str:
    """The HTML report of an inversion or an edit, complete or not, from the store alone.

    Raises StoreError and StorageError where there is no store, or a file that its commits name is absent or damaged.
    """
    job, found, told = store.job(), status(store), _told(store)
    shown = bounded(read_pictures(store))
    style, script = (Markup(path.read_text(encoding="utf-8")) for path in (STYLE, SCRIPT))
    # finalize sees every text that is written, so that no field can be forgotten
    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=public, trim_blocks=True)
    environment.filters["short"] = short
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        job=job,
        found=found,
        location=store.location,
        # a line break could separate a URL from its password
        spec=yaml.safe_dump(job.spec, sort_keys=False, allow_unicode=True, width=2**31),
        fingerprint=json.dumps(job.fingerprint, indent=2, ensure_ascii=False),
        latents=shlex.quote(without_secrets(job.spec["latents"] if job.kind == "edit" else store.location)),
        seconds=told.seconds,
        workers=[
            {"host": host, "pid": pid, "device": device, "units": told.units[worker], "images": told.images[worker]}
            for worker in sorted(told.units)
            for host, pid, device in [worker]
        ],
        versions={name: ", ".join(sorted(told.versions[name])) for name in sorted(told.versions)},
        rejects=[(error, count, told.rejects[error]) for error, count in found.rejects.items()],
        distributions=_distributions(store, told.parts) if job.kind == "invert" else None,
        pictures=[_pictured(row) for row in shown.embedded],
        edits=list(dict.fromkeys(edit["edit"] for row in shown.embedded for edit in row["edits"])),
        left_out=shown.left_out,
        exact=shown.exact,
        rows=shown.rows,
        style=style,
        script=script,
        policy=Markup(_policy(style, script)),
    )


def bounded(rows: Iterable[dict[str, Any]]) -> ShownEdits:
    """Keep the first rows, with at most MAX_SHOWN edited images and about EMBEDDED_BYTES of images in all.

    The last row may keep only some of its edits.
    """
    shown = ShownEdits()
    count, size, full = 0, 0, False
    for row in rows:
        shown.rows += 1
        shown.exact += row["exact"]
        shown.left_out += len(row["edits"]) + row["edits_left_out"]
        if full:
            continue
        size += len(row["source"] or b"") + len(row["reconstruction"])
        edits = []
        for edit in row["edits"]:
            size += len(edit["image"])
            if full := count == MAX_SHOWN or size > EMBEDDED_BYTES:
                break
            edits.append(edit)
            count += 1
        if edits or not full:
            shown.embedded.append({**row, "edits": edits})
            shown.left_out -= len(edits)
    return shown


def _policy(style: str, script: str) -> str:
    """The page may do nothing but show the pictures in it, in this very style, and run this very script."""
    digests = [base64.b64encode(sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def public(value: Any) -> Any:
    """Return a text without the credentials in its URLs; any other value as it is."""
    return without_secrets(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def marked(prompt: str, caption: str) -> Markup:
    """The prompt as HTML, its words that are not the caption's within <mark>."""
    prompt, caption = without_secrets(prompt), without_secrets(caption)
    html, done = Markup(""), 0
    for _, new in changes(caption, prompt):
        if new.start < new.stop:
            html += escape(prompt[done : new.start]) + Markup("<mark>{}</mark>").format(prompt[new])
            done = new.stop
    return html + escape(prompt[done:])


def _told(store: Store) -> CommitTotals:
    """One pass over the commits, which may be too many to keep."""
    told = CommitTotals()
    for commit in store.commits([]):
        for name in told.seconds:
            told.seconds[name] += getattr(commit.seconds, name)
        worker = (commit.worker["host"], commit.worker["pid"], commit.worker["device"])
        told.units[worker] += 1
        told.images[worker] += commit.ok
        for name, version in commit.versions.items():
            told.versions[name].add(version)
        for reject in commit.rejects:
            if len(told.rejects[reject.error]) < EXAMPLES:
                told.rejects[reject.error].append(reject)
        told.parts += [file.path for file in commit.files if file.path.startswith("parts/")]
    return told


def _distributions(store: Store, parts: Sequence[str]) -> Distributions | None:
    """How drift and std are distributed over a latent store's rows; None where it has none yet."""
    if not parts:
        return None
    count = min(SAMPLED, len(parts))
    chosen = [parts[i * len(parts) // count] for i in range(count)]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        table = pa.concat_tables(pool.map(lambda part: _numbers(store, part), chosen))
    histograms = [
        _histogram("drift", "how far x and y came apart: root mean square of x − y", table["drift"].to_numpy()),
        _histogram("std", "standard deviation of the noise: about 1 where the model knows it", table["std"].to_numpy()),
    ]
    return Distributions(histograms, table.num_rows, count, len(parts))


def _numbers(store: Store, part: str) -> pa.Table:
    """The drift and std of a part's rows, by range requests: the states, nearly all of a part, are not read."""
    with store.parquet(part) as file:
        return file.read(["drift", "std"], use_threads=False)


def _histogram(name: str, meaning: str, values: np.ndarray) -> Histogram:
    counts, _ = np.histogram(values, BINS)
    bars = (counts / counts.max()).tolist()
    return Histogram(name, meaning, bars, float(values.min()), float(np.median(values)), float(values.max()))


def short(text: str) -> str:
    """Return at most LONGEST characters of a text, with an ellipsis if it is longer.

    Credentials are removed first, because a truncated URL may not be recognized.
    """
    text = without_secrets(text)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _pictured(row: dict[str, Any]) -> dict[str, Any]:
    """A shown row, its pictures as data: URIs and its prompts marked."""
    side, caption = max(_open(row["reconstruction"]).size), short(row["caption"])
    return {
        "small": side <= CELL // 2,
        "key": short(row["key"]),
        "caption": caption,
        "head": reconstruction_head(row["exact"]),
        "source": None if row["source"] is None else _data_uri(row["source"]),
        "reconstruction": _data_uri(row["reconstruction"]),
        "edits": [
            {
                "edit": edit["edit"],
                "prompt": marked(short(edit["prompt"]), caption),
                "image": _data_uri(edit["image"]),
                **{name: edit.get(name) for name in ("drift", "steps", "guidance_scale", "strength")},
            }
            for edit in row["edits"]
        ],
    }


def _data_uri(image: bytes) -> Markup:
    """An image file as it is. It is Markup because base64 needs no escaping, and no search for credentials."""
    return Markup("data:{};base64,{}").format(_open(image).get_format_mimetype(), base64.b64encode(image).decode())


def _open(image: bytes) -> ImageFile:
    return Image.open(io.BytesIO(image), formats=IMAGE_FORMATS)
