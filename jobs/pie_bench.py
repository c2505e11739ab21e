"""PIE-Bench's mapping_file.json: by id the picture's path, its prompts, the type of its edit, and a mask.

Ju et al., PnP Inversion, ICLR 2024, 2310.01506. What is not as it should be raises ValueError, with the entry's name.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline.io.masks import PIE_BENCH_SIZE


def read_entries(data: bytes) -> dict[str, dict[str, Any]]:
    """The entries of the file by id; each field is checked when it is taken."""
    try:
        entries = json.loads(data)
    except ValueError as error:
        raise ValueError(f"is no JSON ({error}); expected PIE-Bench's mapping_file.json") from error
    if not isinstance(entries, dict):
        raise ValueError("expected a mapping of ids, as PIE-Bench's mapping_file.json is")
    # checked first, because the messages about entries would show parts of any other file
    if entries and not any(isinstance(entry, dict) and "image_path" in entry for entry in entries.values()):
        raise ValueError("has no entry with an image_path; expected PIE-Bench's mapping_file.json")
    return {key: entry if isinstance(entry, dict) else {} for key, entry in entries.items()}


def text_of(key: str, entry: dict[str, Any], name: str) -> str:
    """A field that is text."""
    if not isinstance(text := entry.get(name), str):
        raise ValueError(f"entry {key!r}: {name} is missing or not text")
    return text


def mask_of(key: str, entry: dict[str, Any]) -> list[int]:
    """The mask of what may change, as runs of pixels: pipeline.io.masks.mask_of_runs."""
    runs = entry.get("mask")
    if (
        not isinstance(runs, list)
        or len(runs) % 2
        or not all(type(number) is int and 0 <= number <= PIE_BENCH_SIZE**2 for number in runs)
    ):
        raise ValueError(f"entry {key!r}: found no mask, expected runs of pixels (the first, how many, ...)")
    return runs


def plain(prompt: str) -> str:
    """A prompt without the brackets about the words that change."""
    return re.sub(r"[\[\]]", "", prompt)


def stem(image_path: str) -> str:
    """An image path without its extension, which is what a data set's keys are made of."""
    return re.sub(r"\.\w+$", "", image_path)


def find_entry(name: str, ids: Mapping[str, str]) -> str | None:
    """Return the id of the entry of a key or file name in `ids`, also under further folders; None if there is none.

    With 0_random_140/000000000000 in `ids`, photos/0_random_140/000000000000 is found.
    """
    while name not in ids:
        _, slash, name = name.partition("/")
        if not slash:
            return None
    return ids[name]
