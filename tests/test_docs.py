"""The documentation: its links lead somewhere, and the commands and files that it names exist."""

import json
import re
import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from docs.site.build import REPOSITORY_ONLY, commands_page
from edict import __all__ as PUBLIC
from schemas.commit import Commit
from schemas.edits import EDITS
from schemas.latents import Footer, latents_schema

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "examples", "edict", "deploy", ".github")
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(page for name in FOLDERS for page in (ROOT / name).rglob("*")))
    if path.suffix in (".md", ".ipynb")
)
SOURCES = sorted(
    path
    for name in ("benchmarks", "edict", "examples", "jobs", "pipeline", "schemas", "tests", "training")
    for path in (ROOT / name).rglob("*.py")
    if path != Path(__file__)
)
MARKDOWN = MarkdownIt("commonmark").enable("table")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    """Return the Markdown of a page or of a notebook's cells."""
    if path.suffix == ".md":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@cache
def tokens_of(path: Path) -> tuple[Token, ...]:
    """Return all tokens of a page, those inside of lines too."""
    blocks = MARKDOWN.parse(text_of(path))
    return tuple(token for block in blocks for token in (block, *(block.children or ())))


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def anchors_of(path: Path) -> frozenset[str]:
    tokens, found = tokens_of(path), list[str]()
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            text = "".join(part.content for part in token.children or () if part.type in ("text", "code_inline"))
            found.append(slug(text))
    numbered = [anchor if not (n := found[:i].count(anchor)) else f"{anchor}-{n}" for i, anchor in enumerate(found)]
    explicit = re.findall(r"<[^>]* (?:id|name)=\"([^\"]+)\"", text_of(path))
    return frozenset(numbered) | frozenset(explicit)


def links_of(path: Path) -> list[str]:
    """Return the targets of the links and images of a page that lead to files of the repository."""
    targets = [
        str(target)
        for token in tokens_of(path)
        for target in (token.attrs.get("href"), token.attrs.get("src"))
        if target is not None
    ]
    return [target for target in targets if not urlsplit(target).scheme]


def broken(path: Path, target: str) -> str | None:
    """Return the fault of a link, or None."""
    parts = urlsplit(target)
    file = path.parent / unquote(parts.path) if parts.path else path
    if not file.resolve().is_relative_to(ROOT) or not file.exists():
        return f"{target}: no such file"
    if parts.fragment and file.suffix == ".md" and unquote(parts.fragment) not in anchors_of(file.resolve()):
        return f"{target}: no such heading"
    return None


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    assert [fault for target in links_of(path) if (fault := broken(path, target))] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = ROOT / "docs" / "performance.md"
    assert broken(page, "nowhere.md") == "nowhere.md: no such file"
    assert broken(page, "#nowhere") == "#nowhere: no such heading"
    assert broken(page, "choosing.md#nowhere") == "choosing.md#nowhere: no such heading"
    assert broken(page, "../../elsewhere.md") == "../../elsewhere.md: no such file"
    assert broken(page, "choosing.md#not-tested") is None
    (tmp_path / "page.md").write_text(
        "# A `b`, c's\n\n## Same\n\n## Same\n\n[x](y.md) `[no](link.md)`\n\n![z](z.png)\n"
    )
    assert anchors_of(tmp_path / "page.md") == {"a-b-cs", "same", "same-1"}
    assert links_of(tmp_path / "page.md") == ["y.md", "z.png"]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_modules_in_commands_exist(path: Path) -> None:
    modules = set(re.findall(r"python -m ((?:benchmarks|tests|training|schemas|jobs)[\w.]*\w)", text_of(path)))
    files = {module: ROOT / module.replace(".", "/") for module in modules}
    assert [
        module
        for module, file in files.items()
        if not file.with_suffix(".py").is_file() and not (file / "__main__.py").is_file()
    ] == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_lists_begin_after_an_empty_line(path: Path) -> None:
    """The Markdown of the site needs it; GitHub's does not."""
    lines = ["", *text_of(path).splitlines()]
    depth, faults = 0, []
    for token in tokens_of(path):
        if token.type in ("bullet_list_open", "ordered_list_open"):
            if depth == 0 and token.map and lines[token.map[0]].strip():
                faults.append(lines[token.map[0] + 1])
            depth += 1
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            depth -= 1
    assert faults == []


def test_pages_named_in_the_code_exist() -> None:
    named = {(name_of(path), page) for path in SOURCES for page in re.findall(r"\bdocs/[\w/]+\.md\b", path.read_text())}
    assert [(source, page) for source, page in sorted(named) if not (ROOT / page).is_file()] == []


@pytest.mark.parametrize(
    ("heading", "fields"),
    [
        ("Columns of a latent row", latents_schema([4, 16, 16], {}, Footer.model_construct()).names),
        ("Columns of an edit row", EDITS.names),
        ("Footer of a part", list(Footer.model_fields)),
        ("Fields of a commit", list(Commit.model_fields)),
    ],
)
def test_architecture_lists_every_field(heading: str, fields: list[str]) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(name for cell in cells for name in re.findall(r"`(\w+)`", cell)) == sorted(fields)


def nav_titles() -> list[str]:
    """Return the titles of the pages in the navigation of the site."""
    sections = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    entries = [(title, value) for section in sections for title, value in section.items()]
    return [title for _, value in entries if isinstance(value, list) for page in value for title in page]


def test_the_page_of_commands_has_lists_and_full_texts() -> None:
    page = commands_page()
    assert "Exit status:\n\n- 0: complete\n- 1: " in page and "...\n" not in page.replace("[ARGS]...\n", "")
    assert "* `run`: Run a job. Run the same command again to continue an incomplete job.\n" in page
    assert "* `pie-bench`: Measure PIE-Bench&#x27;s metrics of edited images, by type of edit.\n" in page


def test_text_for_the_repository_only_is_not_in_the_site() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    assert "`make docs`" in page and "`make docs`" not in REPOSITORY_ONLY.sub("", page)


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    listed = pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    assert len(set(listed)) == len(listed)
    assert len(set(titles := nav_titles())) == len(titles)
    assert {name_of(path) for path in (ROOT / "docs").rglob("*.md")} <= set(listed)
    assert [page for page in listed if not (ROOT / page).is_file()] == ["docs/cli.md"]  # which the build generates


def test_api_reference_has_every_public_name() -> None:
    assert set(re.findall(r"^::: edict\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.M)) == set(PUBLIC)
