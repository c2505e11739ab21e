"""The README, followed to the letter."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from pipeline.io.samples import Sample, read_samples
from pipeline.io.shard_index import index_shard

ROOT = Path(__file__).parents[1]


def block(title: str) -> str:
    """The commands of a section, as they are typed."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    return textwrap.dedent(found)


def test_a_newcomers_own_edit(tmp_path: Path) -> None:
    """With a picture of the demo and a photograph's size and format; `source .venv/...` is what runs this already."""
    (tmp_path / "photos").mkdir()
    index = index_shard(str(ROOT / "jobs" / "demo" / "shards" / "demo-00000.tar"))
    for i, sample in enumerate(read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries[:2])):
        assert isinstance(sample, Sample)
        (tmp_path / "photos" / f"cat{i}.txt").write_text(sample.caption)
        (tmp_path / "drawn.png").write_bytes(sample.image)
        Image.open(tmp_path / "drawn.png").resize((640, 480)).save(tmp_path / "photos" / f"cat{i}.jpg")
    first, *commands = block("From the demo to an edit of your own").splitlines()
    assert first == "source .venv/bin/activate"
    assert len(commands) <= 10
    # the page's own but for its 50 steps, which take a minute
    commands[commands.index("edict run invert.yaml")] += " -s sampler.steps=5"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    ran = subprocess.run(
        ["bash", "-e"], input="\n".join(commands), cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert "pictures      4  night 2  held 2" in ran.stdout
    with Image.open(tmp_path / "edits" / "contact_sheet.png") as sheet:
        assert sheet.width > sheet.height > 300
    assert (tmp_path / "edits" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text()))
def test_what_it_links_to_is_there(link: str) -> None:
    assert (ROOT / link).exists()
