"""The paths of files in a store, and what they contain: units, retries, attempts and blocks of units."""

import re

STAGING = "staging"
DATA = ("parts", "shards", "pictures")
"""The folders of the files that commits name."""
FOLDERS = (*DATA, STAGING, "plan", "commits", "retries", "ledger", "runs")

BLOCK_SIZE = 4096
"""Units per checkpoint: the commits of one block are copied to one file."""

COMMIT = re.compile(r"commits/(\d{8})\.json")
RETRY = re.compile(r"retries/(\d{8})\+(\d{4})\.json")
PLAN = re.compile(r"plan/units(?:\+(\d{4}))?\.parquet")
CHECKPOINT = re.compile(r"ledger/(\d{6})\.parquet")
PARTIAL_FILE = re.compile(r"\d{8}(?:\+\d{4})?(?:-\d+-[0-9a-f]+)?\.(?:parquet|tar|json)#\d+")
"""Name of a file that an interrupted local write left."""
ATTEMPT = re.compile(r"(?:parts|shards|pictures)/\d{8}(?:\+\d{4})?-\d+-(?:([0-9a-f]{8})?[0-9a-f]{8})\.(?:parquet|tar)")
"""Path of a file that an attempt wrote. Since format 2 it has the first 8 digits of the job's id."""


def unit_retry(unit: str, retry: int) -> str:
    """Return the name of a unit, or of its retry 1, 2, ...: the beginning of the names of its files and its commit."""
    return f"{unit}+{retry:04d}" if retry else unit


def attempt_name(unit: str, retry: int, number: int, job: str | None, random: str) -> str:
    """Return the name of an attempt and its files. It is unique, even if several drivers run the same job."""
    return f"{unit_retry(unit, retry)}-{number}-{(job or '')[:8]}{random}"


def unit_retry_of(path: str) -> str:
    """Return the `unit_retry` in the path of an attempt's file or of a commit."""
    return path.partition("/")[2].partition("-")[0].removesuffix(".json")


def unit_of(path: str) -> str:
    """Return the unit in the path of an attempt's file or of a commit."""
    return unit_retry_of(path).partition("+")[0]


def is_attempt_of(path: str, job: str | None) -> bool:
    """Return True if an attempt of this job wrote the file."""
    match = ATTEMPT.fullmatch(path)
    return match is not None and match[1] == (job and job[:8])


def commit_path(unit: str, retry: int = 0) -> str:
    return f"{'retries' if retry else 'commits'}/{unit_retry(unit, retry)}.json"


def units_path(extension: int) -> str:
    """Return the path of the plan's first units (`extension` 0), or of its extension 1, 2, ..."""
    return f"plan/units+{extension:04d}.parquet" if extension else "plan/units.parquet"


def checkpoint_path(block: int) -> str:
    return f"ledger/{block:06d}.parquet"


def block_of(unit: str) -> int:
    """Return the block of a unit."""
    return int(unit) // BLOCK_SIZE


def units_of_block(block: int) -> list[str]:
    return [f"{number:08d}" for number in range(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE)]
