"""The file of a measurement: its results with the hardware, versions and arguments, and Markdown tables of them."""

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
from tabulate import tabulate

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
    """Write `content` as JSON, with the hardware, the versions, the arguments and the digests of the weights.

    `weights` are digests by name; by default, the digest is that of the default model. The versions are those of
    Python, torch, diffusers and `packages`. JSON has no nan and no infinity, so both are stored as null.
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
    """Return `content` as JSON with one line per field, and one line per object of a list."""
    fields = []
    for name, value in content.items():
        is_rows = isinstance(value, list) and value and isinstance(value[0], dict)
        rows = ",\n    ".join(json.dumps(row, allow_nan=False) for row in value) if is_rows else ""
        fields.append(
            f"  {json.dumps(name)}: " + (f"[\n    {rows}\n  ]" if rows else json.dumps(value, allow_nan=False))
        )
    return "{\n" + ",\n".join(fields) + "\n}\n"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table. A column with a number in any row is aligned to the right."""
    numeric = [any(re.match(r"-?\d", str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    align = ["right" if is_number else "left" for is_number in numeric]
    return tabulate(rows, head, tablefmt="pipe", disable_numparse=True, colalign=align)


def _finite(content: Any) -> Any:
    """Return `content` with None for nan and infinity, which JSON does not have."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
