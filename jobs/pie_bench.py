"""PIE-Bench's mapping_file.json: for each id, the path of the image, its prompts, the type of its edit, and a mask.

Ju et al., PnP Inversion, ICLR 2024, 2310.01506. Functions raise ValueError for an invalid file, with the entry's id.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline.io.masks import PIE_BENCH_SIZE

REMEDY = "Give PIE-Bench's mapping_file.json"


def parse_mapping(data: bytes) -> dict[str, dict[str, Any]]:
    """Return the entries of the file by id. Their fields are not checked yet.

    Raises:
        ValueError: The data is not a mapping file.
    """
    try:
        entries = json.loads(data)
    except ValueError as error:
        raise ValueError(f"is not valid JSON ({error}). {REMEDY}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"is not a JSON object. {REMEDY}")
    # This is checked first, because the messages about entries would show parts of any other file.
    if entries and not any(isinstance(entry, dict) and "image_path" in entry for entry in entries.values()):
        raise ValueError(f"has no entry with an image_path. {REMEDY}")
    return {key: entry if isinstance(entry, dict) else {} for key, entry in entries.items()}


def text_field(key: str, entry: dict[str, Any], name: str) -> str:
    """Return a field of an entry. Raises ValueError if it is not text."""
    if not isinstance(text := entry.get(name), str):
        raise ValueError(f"entry {key!r}: {name} is missing or not text. Correct the entry")
    return text


def mask_runs(key: str, entry: dict[str, Any]) -> list[int]:
    """Return the mask of an entry as runs of pixels, for `pipeline.io.masks.mask_of_runs`. Raises ValueError."""
    runs = entry.get("mask")
    if (
        not isinstance(runs, list)
        or len(runs) % 2
        or not all(type(number) is int and 0 <= number <= PIE_BENCH_SIZE**2 for number in runs)
    ):
        raise ValueError(f"entry {key!r}: mask is missing or not a list of runs (first pixel, length, ...)")
    return runs


def without_brackets(prompt: str) -> str:
    """Return a prompt without the brackets around the words that change."""
    return re.sub(r"[\[\]]", "", prompt)


def without_extension(image_path: str) -> str:
    """Return an image path without its extension, as in the keys of a dataset."""
    return re.sub(r"\.\w+$", "", image_path)


def find_entry(name: str, ids: Mapping[str, str]) -> str | None:
    """Return the id of the entry of a key or file name, or None. `ids` has the ids by name.

    Parent folders are ignored: if `ids` has 0_random_140/000000000000, then photos/0_random_140/000000000000 is found.
    """
    while name not in ids:
        _, slash, name = name.partition("/")
        if not slash:
            return None
    return ids[name]
