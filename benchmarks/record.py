"""What a figure needs beside it: where it was measured, with what, and how to get it again."""

import argparse
import json
import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from edict.checkpoint import locate, weights_digest

RESULTS = Path(__file__).parent / "results"


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with what every program here takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="pictures a network call")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    return parser


def numbers(text: str) -> list[int]:
    """An argument such as 50,100,200."""
    return [int(number) for number in text.split(",")]


def save(name: str, arguments: argparse.Namespace, **content: Any) -> Path:
    """Write RESULTS/NAME.json: `content` with the hardware, versions, arguments and the default model's weights."""
    environment = {
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "diffusers")}},
        "weights": weights_digest(locate()),
        "arguments": vars(arguments),
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(environment | content, indent=2) + "\n")
    return file


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; columns with numbers to the right, others to the left."""
    columns = list(zip(*([str(cell) for cell in row] for row in (head, *rows)), strict=True))
    widths = [max(map(len, column)) for column in columns]
    left = [not any(re.match(r"-?\d", cell) for cell in column[1:]) for column in columns]
    rule = ["-" * width if to_left else "-" * (width - 1) + ":" for width, to_left in zip(widths, left, strict=True)]
    lines = [
        [
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        ]
        for line in zip(*columns, strict=True)
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))


def _cpu() -> str:
    """The processor's name; Python itself knows it on no Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return named[1] if named else platform.processor() or platform.machine()
