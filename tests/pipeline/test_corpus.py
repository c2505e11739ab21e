"""Every input of the corpus has its documented result, without a traceback, a hang, much memory or a lost sample."""

import json
import re
import resource
import shutil
import signal
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from jobs.cli import app
from jobs.launch import run_spec
from pipeline.errors import JobError
from pipeline.inspect.status import status
from pipeline.io.samples import read_samples
from pipeline.io.shard_index import index_shard
from pipeline.store.store import Store
from pipeline.verify import run_verify
from schemas.specs import EditSpec, InvertSpec
from tests.corpus.__main__ import SECONDS, SECTIONS, page
from tests.corpus.case import Case
from tests.corpus.samples import HOSTILE, SAMPLES
from tests.corpus.shards import CHANGED, DAMAGED, END, UNUSABLE, WHOLE
from tests.corpus.specs import SPECS
from tests.corpus.stores import PARTS, RECORDS

Outcome = tuple[str, str]

MEMORY = 2 << 20  # KiB by which one case may increase the memory of this process


def ids(cases: list[Any]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """Fail a test that takes more than SECONDS, or more than MEMORY."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {SECONDS} s")

    before, handler = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """Return the store of one job with all samples, in one shard, and all damaged shards."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "samples.tar").write_bytes(b"".join(m for case in SAMPLES for m in case.build(case.name)) + END)
    for case in DAMAGED:
        (folder / f"{case.name}.tar").write_bytes(case.build())
    fields = {
        "kind": "invert",
        "input": [str(folder / f"{name}.tar") for name in ["samples", *(case.name for case in DAMAGED)]],
        "output": str(folder / "latents"),
        "sampler": {"steps": 1, "guidance_scale": 1.0},
        "workers": {"count": 1, "batch_size": 4},
    }
    ran = run_spec(InvertSpec.model_validate(fields))
    assert ran.failures == []
    assert ran.status.complete
    return folder / "latents"


@pytest.fixture(scope="module")
def rows(latents: Path) -> list[dict[str, Any]]:
    columns = ["key", "shard", "index", "caption", "caption_truncated", "json", "width", "height"]
    return [row for part in (latents / "parts").iterdir() for row in pq.read_table(part, columns=columns).to_pylist()]


@pytest.fixture(scope="module")
def outcomes(latents: Path, rows: list[dict[str, Any]]) -> dict[str, list[tuple[str, Outcome]]]:
    """Return the key and the outcome of every sample of each shard, in order."""
    found: dict[str, dict[int, tuple[str, Outcome]]] = defaultdict(dict)
    for row in rows:
        found[Path(row["shard"]).stem][row["index"]] = row["key"], ("row", "")
    for commit in Store(str(latents)).commits():
        for reject in commit.rejects:
            outcome = f"reject {reject.stage} {reject.error}", reject.message
            assert reject.index not in found[Path(reject.shard).stem]
            found[Path(reject.shard).stem][reject.index] = reject.key, outcome
    for shard, entries in found.items():
        assert sorted(entries) == list(range(len(entries))), f"lost in {shard}"
    return {shard: [entries[i] for i in sorted(entries)] for shard, entries in found.items()}


def check(case: Case[Any], found: list[Outcome]) -> None:
    assert tuple(result for result, _ in found) == case.results
    assert any(case.message in message for _, message in found) or not case.message


@ids(SAMPLES)
def test_a_sample_becomes_its_row_or_reject(case: Case[Any], outcomes: dict[str, list[tuple[str, Outcome]]]) -> None:
    named = re.compile(rf"(?<![\w-]){case.name}(?![\w-])")
    check(case, [outcome for key, outcome in outcomes["samples"] if named.search(key)])


@ids(DAMAGED)
def test_a_damaged_shard_gives_its_rows_and_rejects(
    case: Case[Any], outcomes: dict[str, list[tuple[str, Outcome]]]
) -> None:
    check(case, [outcome for _, outcome in outcomes.get(case.name, [])])


def test_status_counts_every_sample_once(latents: Path) -> None:
    expected = [result for case in [*SAMPLES, *DAMAGED] for result in case.results]
    counts = json.loads(CliRunner().invoke(app, ["status", "--json", str(latents)]).stdout)
    assert counts["complete"]
    assert counts["problems"] == []
    assert (counts["input"], counts["ok"], counts["filtered"]) == (len(expected), expected.count("row"), 0)
    assert counts["rejected"] == len(expected) - expected.count("row")


def test_rows_keep_unusual_captions_and_json(rows: list[dict[str, Any]]) -> None:
    of = {row["key"]: row for row in rows}
    assert of["caption-mark"]["caption"] == "a red heart"
    assert of["caption-nul"]["caption"] == "a red\0 heart\0"
    assert of["caption-html"]["caption"] == HOSTILE
    assert [key for key, row in of.items() if row["caption_truncated"]].count("caption-long") == 1
    assert len(of["json-huge"]["json"]) == (4 << 20) + 9
    assert of["json-twice"]["json"] == '{"a": 1, "a": 2}'
    assert (of["turned"]["width"], of["turned"]["height"]) == (32, 64)


class Tags(HTMLParser):
    """The tags of an HTML page, and the names of their attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.update(name for name, _ in attrs)


def is_harmless(report: Path, scripts: int) -> bool:
    """Return True if a page has only this number of scripts, and no event handlers."""
    page = Tags(report)
    return page.tags.count("script") == scripts and not any(name.startswith("on") for name in page.attributes)


def test_reports_and_edits_escape_captions_and_keys(latents: Path, tmp_path: Path) -> None:
    edits = [{"name": "snow", "prompt": "{caption}, in snow"}]
    fields = {"kind": "edit", "latents": str(latents), "output": str(tmp_path / "edits"), "edits": edits}
    ran = run_spec(EditSpec.model_validate(fields | {"contact_sheet": 64}))
    assert ran.status.complete
    assert ran.status.ok == status(Store(str(latents))).ok <= 64
    assert is_harmless(latents / "report.html", 0)
    assert "&lt;img src=x onerror=alert(4)&gt;" in (latents / "report.html").read_text()
    assert "&lt;img src=x onerror=alert(5)&gt;" in (latents / "report.html").read_text()
    assert is_harmless(tmp_path / "edits" / "report.html", 1)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in (tmp_path / "edits" / "report.html").read_text()
    assert (tmp_path / "edits" / "contact_sheet.png").stat().st_size > 0
    index = index_shard(str(next((tmp_path / "edits" / "shards").iterdir())))
    assert not [entry for entry in index.entries if entry.fault]


def edict(*arguments: str) -> Result:
    """Run the command line, which never prints a traceback."""
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert "Traceback" not in result.output
    return result


def error_of(case: Case[Any], *arguments: str) -> str:
    """Return the error that a command prints, after checking that it has the message of the case."""
    result = edict(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert case.message in result.stderr
    return result.stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("demo.tar").write_bytes(WHOLE)
    return tmp_path


@ids(UNUSABLE)
def test_an_unusable_shard_is_an_error_before_anything_runs(case: Case[Any], folder: Path) -> None:
    case.build(folder / "bad.tar")
    Path("spec.json").write_text(json.dumps({"kind": "invert", "input": ["demo.tar", "bad.tar"], "output": "latents"}))
    error = error_of(case, "plan", "spec.json")
    assert f"{folder}/bad.tar: " in error
    assert "1 of 2 shards cannot be used, nothing was run" in error
    assert not Path("latents").exists()


def test_one_error_names_all_unusable_shards(folder: Path) -> None:
    names = [f"{case.name}.tar" for case in UNUSABLE]
    for case in UNUSABLE:
        case.build(folder / f"{case.name}.tar")
    Path("spec.json").write_text(json.dumps({"kind": "invert", "input": names, "output": "latents"}))
    result = edict("run", "spec.json")
    assert result.exit_code == 2
    assert all(f"{folder}/{case.name}.tar: " in result.stderr and case.message in result.stderr for case in UNUSABLE)
    assert not Path("latents/plan/units.parquet").exists()


@ids(CHANGED)
def test_a_shard_that_changed_after_the_plan(case: Case[Any], folder: Path) -> None:
    index = index_shard("demo.tar", digests=True)
    samples = read_samples("demo.tar", size=index.size, etag=index.etag, entries=index.entries)
    planned = list(read_samples("demo.tar", size=index.size, etag=index.etag, entries=index.entries))
    case.build(folder / "demo.tar")
    if case.results[0] == "row":
        assert list(samples) == planned
        assert case.results == ("row",) * len(planned)
        return
    with pytest.raises(JobError, match=case.message) as error:
        list(samples)
    assert case.results == (f"error {error.type.__name__}",)


@ids(SPECS)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_an_invalid_spec_is_an_error(command: str, case: Case[Any], folder: Path) -> None:
    path = folder / ("spec.json" if case.name.startswith("json-") else "spec.yaml")
    case.build(path)
    before = set(folder.iterdir())
    error = error_of(case, command, str(path))
    assert "hunter2" not in error
    assert len(error) < 20_000
    made = {found.name for found in set(folder.iterdir()) - before}
    assert made <= ({"latents"} if command == "run" and case.results == ("error PlanError",) else set())


@pytest.fixture(scope="module")
def problems_of_parts(latents: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return the problems that `verify` finds for each damaged part, all in one store. The other parts are exact."""
    store = tmp_path_factory.mktemp("damaged") / "latents"
    shutil.copytree(latents, store)
    commits = [commit for commit in Store(str(store)).commits() if commit.files]
    for case, commit in zip(PARTS, commits, strict=False):
        case.build(store / commit.files[0].path, store / "commits" / f"{commit.unit}.json")
    intact = sum(commit.ok for commit in commits[len(PARTS) :])
    verified = run_verify(str(store), rows=None, count=1, gpus=0)
    # Missing parts, and parts of another size, are found without reading them.
    sizes = {path.name: path.stat().st_size for path in (store / "parts").iterdir()}
    now = [commit for commit in Store(str(store)).commits() if commit.files]
    unread = [commit.unit for commit in now if sizes.get(Path(commit.files[0].path).name) != commit.files[0].bytes]
    assert len(unread) >= len({"part-cut", "part-empty", "part-gone"})
    assert verified.rows == sum(commit.ok for commit in now if commit.unit not in unread)
    assert intact > 0
    assert verified.exact == intact + commits[len(PARTS) - 1].ok - 1
    return {
        case.name: [problem for problem in verified.problems if commit.files[0].path in problem]
        for case, commit in zip(PARTS, commits, strict=False)
    }


@ids(PARTS)
def test_verify_finds_a_damaged_part(case: Case[Any], problems_of_parts: dict[str, list[str]]) -> None:
    assert problems_of_parts[case.name]
    assert all(case.message in problem for problem in problems_of_parts[case.name])


@ids(RECORDS)
def test_a_damaged_record_is_an_error_or_a_problem(case: Case[Any], latents: Path, tmp_path: Path) -> None:
    store = tmp_path / "latents"
    shutil.copytree(latents, store)
    case.build(store)
    if case.results == ("error StoreError",):
        for command in ("status", "verify", "report"):
            assert str(store) in error_of(case, command, str(store))
    else:
        result = edict("verify", str(store))
        assert result.exit_code == 1
        assert re.search(f"^problem: .*{case.message}", result.stdout, re.MULTILINE)
        assert edict("status", str(store)).exit_code == 1


def test_the_page_of_the_documentation_is_up_to_date() -> None:
    names = [case.name for cases in SECTIONS.values() for case in cases]
    assert len(names) == len(set(names)) >= 45
    assert (Path(__file__).parents[2] / "docs" / "inputs.md").read_text() == page()
