"""The report: what a store says of its job, for a person, as one HTML file that needs no other."""

import base64
import io
import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image
from PIL.ImageFile import ImageFile

from pipeline.images import FORMATS
from pipeline.sheet import CELL, read_pictures
from pipeline.status import status
from pipeline.storage import Reader
from pipeline.store import READERS, Store, StoreError
from schemas.commit import Commit, File
from schemas.rejects import Reject

EXAMPLES = 20  # rejects shown of a class
SAMPLED = 100  # parts read for the histograms, at most
BINS = 32

TEMPLATE = Path(__file__).with_name("report.html")

# A password may hold slashes and at signs; digits and a slash after the colon are a port.
PASSWORD = re.compile(r"(?<=://)[^\s/@:]*:(?!\d+/)[^\s@]*(?:@[^\s/@]*)*@")
TOKEN = re.compile(r"(https?://)[^\s/@]+@")
SIGNATURE = re.compile(r"([?&][\w.-]*(?:sig|signature|token|secret|password|key|credential)[\w.-]*=)[^\s&\"'<>]+", re.I)

WORD = re.compile(r"\w+|[^\w\s]")


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


def report(store: Store) -> str:
    """The HTML report of an inversion or an edit, complete or not, from the store alone.

    Raises StoreError and StorageError where there is no store, or a file that its commits name is absent or damaged.
    """
    job, found, commits = store.job(), status(store), list(store.commits().values())
    shown = read_pictures(store)
    # finalize sees every text that is written, so that no field can be forgotten
    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=public, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        job=job,
        found=found,
        location=store.location,
        # a fold could part a URL from its password
        spec=yaml.safe_dump(job["spec"], sort_keys=False, allow_unicode=True, width=2**31),
        fingerprint=json.dumps(job["fingerprint"], indent=2, ensure_ascii=False),
        latents=shlex.quote(public(job["spec"]["latents"] if job["kind"] == "edit" else store.location)),
        seconds={name: sum(getattr(c.seconds, name) for c in commits) for name in ("read", "compute", "write")},
        workers=_workers(commits),
        versions=_versions(commits),
        rejects=_rejects(commits),
        limit=EXAMPLES,
        distributions=_distributions(store, commits) if job["kind"] == "invert" else None,
        pictures=[_pictured(row) for row in shown],
        exact=sum(row["exact"] for row in shown),
    )


def public(value: Any) -> Any:
    """A text without what looks like a credential in its URLs: user:password@, and tokens in queries."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return SIGNATURE.sub(r"\1…", TOKEN.sub(r"\1", PASSWORD.sub("", value)))


def marked(prompt: str, caption: str) -> Markup:
    """The prompt as HTML, its words that are not the caption's within <mark>."""
    prompt = public(prompt)
    words = list(WORD.finditer(prompt))
    matcher = SequenceMatcher(None, WORD.findall(public(caption)), [word[0] for word in words], autojunk=False)
    html, done = Markup(""), 0
    for tag, _, _, first, last in matcher.get_opcodes():
        if tag in ("insert", "replace"):
            start, end = words[first].start(), words[last - 1].end()
            html += escape(prompt[done:start]) + Markup("<mark>{}</mark>").format(prompt[start:end])
            done = end
    return html + escape(prompt[done:])


def _workers(commits: Sequence[Commit]) -> list[dict[str, Any]]:
    """What each worker did, by host, process and device."""
    units, images = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for commit in commits:
        worker = tuple(commit.worker[name] for name in ("host", "pid", "device"))
        units[worker] += 1
        images[worker] += commit.ok
    return [
        {"host": worker[0], "pid": worker[1], "device": worker[2], "units": units[worker], "images": images[worker]}
        for worker in sorted(units)
    ]


def _versions(commits: Sequence[Commit]) -> dict[str, str]:
    """The versions that were at work; several of one package where a run was finished after an upgrade."""
    versions = defaultdict[str, set[str]](set)
    for commit in commits:
        for name, version in commit.versions.items():
            versions[name].add(version)
    return {name: ", ".join(sorted(versions[name])) for name in sorted(versions)}


def _rejects(commits: Sequence[Commit]) -> list[tuple[str, list[Reject]]]:
    """Rejects by error class, the most frequent first."""
    classes = defaultdict[str, list[Reject]](list)
    for commit in commits:
        for reject in commit.rejects:
            classes[reject.error].append(reject)
    return sorted(classes.items(), key=lambda item: (-len(item[1]), item[0]))


def _distributions(store: Store, commits: Sequence[Commit]) -> Distributions | None:
    """How drift and std are distributed over a latent store's rows; None where it has none yet."""
    parts = [file for commit in commits for file in commit.files if file.path.startswith("parts/")]
    if not parts:
        return None
    count = min(SAMPLED, len(parts))
    chosen = [parts[i * len(parts) // count] for i in range(count)]
    with ThreadPoolExecutor(READERS) as pool:
        table = pa.concat_tables(pool.map(lambda part: _numbers(store, part), chosen))
    histograms = [
        _histogram("drift", "how far x and y came apart: root mean square of x − y", table["drift"].to_numpy()),
        _histogram("std", "standard deviation of the noise: about 1 where the model knows it", table["std"].to_numpy()),
    ]
    return Distributions(histograms, table.num_rows, count, len(parts))


def _numbers(store: Store, part: File) -> pa.Table:
    """The drift and std of a part's rows, by range requests: the states, nearly all of a part, are not read."""
    reader = Reader(f"{store.location.rstrip('/')}/{part.path}")
    try:
        # without threads, since a Reader has one position
        file = pq.ParquetFile(pa.PythonFile(reader, mode="r"), page_checksum_verification=True, pre_buffer=False)
        return file.read(["drift", "std"], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{store.location}: {part.path} is damaged ({error})") from error


def _histogram(name: str, meaning: str, values: np.ndarray) -> Histogram:
    counts, _ = np.histogram(values, BINS)
    bars = (counts / counts.max()).tolist()
    return Histogram(name, meaning, bars, float(values.min()), float(np.median(values)), float(values.max()))


def _pictured(row: dict[str, Any]) -> dict[str, Any]:
    """A shown row, its pictures as data: URIs and its prompts marked."""
    side = max(_open(row["reconstruction"]).size)
    return {
        "small": side <= CELL // 2,
        "key": row["key"],
        "caption": row["caption"],
        "exact": row["exact"],
        "source": None if row["source"] is None else _data_uri(row["source"]),
        "reconstruction": _data_uri(row["reconstruction"]),
        "edits": [
            {"edit": edit["edit"], "prompt": marked(edit["prompt"], row["caption"]), "image": _data_uri(edit["image"])}
            for edit in row["edits"]
        ],
    }


def _data_uri(image: bytes) -> Markup:
    """An image file as it is. It is Markup because base64 needs no escaping, and no search for credentials."""
    return Markup("data:{};base64,{}").format(_open(image).get_format_mimetype(), base64.b64encode(image).decode())


def _open(image: bytes) -> ImageFile:
    return Image.open(io.BytesIO(image), formats=FORMATS)
