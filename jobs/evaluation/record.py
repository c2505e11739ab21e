"""What a figure needs beside it: where it was measured, with what, and how to get it again."""

import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from edict.checkpoint import locate
from edict.model_files import weights_digest
from pipeline.workers.provenance import cpu


def save(
    file: Path,
    arguments: Mapping[str, Any],
    *,
    weights: Mapping[str, str] | None = None,
    packages: Sequence[str] = (),
    **content: Any,
) -> None:
    """Write `content` as JSON, with the hardware, versions, arguments and the weights that were measured (with).

    `weights` are digests by name, None the default model's. The versions are those of Python, torch, diffusers and
    `packages`. A number that is none, or is infinite, is null.
    """
    environment = {
        "hardware": {
            "cpu": cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "diffusers", *packages)},
        },
        "weights": weights_digest(locate()) if weights is None else weights,
        "arguments": arguments,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_laid_out(_finite(environment | content)))


def _laid_out(content: Mapping[str, Any]) -> str:
    """Return `content` as JSON: a line for each field, and for each object in a list of objects."""
    fields = []
    for name, value in content.items():
        is_rows = isinstance(value, list) and value and isinstance(value[0], dict)
        rows = ",\n    ".join(json.dumps(row, allow_nan=False) for row in value) if is_rows else ""
        fields.append(
            f"  {json.dumps(name)}: " + (f"[\n    {rows}\n  ]" if rows else json.dumps(value, allow_nan=False))
        )
    return "{\n" + ",\n".join(fields) + "\n}\n"


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


def _finite(content: Any) -> Any:
    """The same with null for what JSON has no number for."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
