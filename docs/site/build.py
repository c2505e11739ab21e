"""Build the documentation site from the pages of the repository: `python docs/site/build.py`, or `make docs`.

The pages keep their places in the repository, so their links need no change. `build/docs/pages` has a copy of
README.md, of the other pages, and of each file that they link to. Zensical makes `build/docs/site` from it, offline.
A warning, such as a broken link, is an error.
"""

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
        if source.is_file():
            shutil.copyfile(source, target)
        elif not (source / "README.md").exists():
            copy_folder(source, target)
    commands = [sys.executable, "-m", "typer", "jobs.cli", "utils", "docs", "--name", "edict", "--title", "Commands"]
    subprocess.run([*commands, "--output", PAGES / "docs" / "cli.md"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
