"""Build the documentation site from the pages of the repository: `python docs/site/build.py`, or `make docs`.

The pages keep their places in the repository, so their links need no change. `build/docs/pages` has a copy of
README.md, of the other pages, and of each file that they link to. Zensical makes `build/docs/site` from it, offline.
A warning, such as a broken link, is an error. Text between the comments "Only in the repository" and "End" is left out.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "build" / "docs" / "pages"
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
MARKDOWN = MarkdownIt("commonmark").enable("table")
REPOSITORY_ONLY = re.compile(r"<!-- Only in the repository -->.*?<!-- End -->\n*", re.DOTALL)


def targets_of(page: Path) -> set[Path]:
    """Return the files and folders of the repository to which a page links."""
    tokens = [token for block in MARKDOWN.parse(page.read_text()) for token in (block, *(block.children or ()))]
    links = [str(link) for token in tokens for link in (token.attrs.get("href"), token.attrs.get("src")) if link]
    paths = [unquote(urlsplit(link).path) for link in links if not urlsplit(link).scheme]
    return {(page.parent / path).resolve() for path in paths if path}


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a folder, and write a page that lists them."""
    target.mkdir(exist_ok=True)
    files = sorted(path for path in source.iterdir() if path.is_file())
    for path in files:
        shutil.copyfile(path, target / path.name)
    lines = [f"# {source.relative_to(ROOT)}", "", *(f"- [{path.name}]({path.name})" for path in files)]
    (target / "index.md").write_text("\n".join(lines))


def commands_page() -> str:
    """Return the Markdown of all commands, from their help texts."""
    command = [sys.executable, "-m", "typer", "jobs.cli", "utils", "docs", "--name", "edict", "--title", "Commands"]
    page = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return with_full_lists(page)


def with_full_lists(page: str) -> str:
    """Return Typer's page with the exit statuses as a list, and the whole first paragraph of each listed command."""
    page = re.sub(r"^Exit status:\n", "Exit status:\n\n", page, flags=re.MULTILINE)
    page = re.sub(r"^(\d+): ", r"- \1: ", page, flags=re.MULTILINE)
    sections = re.findall(r"^##+ `([^`]+)`\n\n(.+?)\n\n", page, re.MULTILINE | re.DOTALL)
    summaries = {name: " ".join(paragraph.split()) for name, paragraph in sections}
    lines, prefix, listing = list[str](), "edict", False
    for line in page.splitlines():
        if heading := re.fullmatch(r"##+ `([^`]+)`", line):
            prefix = heading[1]
        if line.startswith("**"):
            listing = line == "**Commands**:"
        if listing and (item := re.match(r"\* `([^`]+)`: ", line)):
            line = item[0] + summaries[f"{prefix} {item[1]}"]
        lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> int:
    shutil.rmtree(PAGES.parent, ignore_errors=True)
    pages = [*(ROOT / name for name in TOP if (ROOT / name).exists()), *(ROOT / "docs").rglob("*.md")]
    targets = {target: page for page in pages for target in targets_of(page)}
    if missing := [
        f"{page.relative_to(ROOT)} links to {target}" for target, page in targets.items() if not target.exists()
    ]:
        print("There is no such file:", *missing, sep="\n  ", file=sys.stderr)
        return 1
    for source in {*targets, *pages}:
        target = PAGES / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            target.write_text(REPOSITORY_ONLY.sub("", source.read_text()))
        elif source.is_file():
            shutil.copyfile(source, target)
        elif not (source / "README.md").exists():
            copy_folder(source, target)
    (PAGES / "docs" / "cli.md").write_text(commands_page())
    ended = subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=ROOT)
    if ended.returncode == 0:
        site = (PAGES.parent / "site").relative_to(ROOT)
        print(f"The search needs a web server: python -m http.server -d {site}. The pages also open from disk.")
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main())
