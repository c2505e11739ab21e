"""One case of the corpus."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Build = TypeVar("Build", bound=Callable[..., object])


@dataclass(frozen=True)
class Case(Generic[Build]):
    """An input: its name, its description, the function that builds it, and its results.

    `results` has one entry per sample of the input: "row", or "reject" with its stage and its error class. It is empty
    if all members are ignored. An input that stops a job has the one result "error" with its class. A damaged store
    has the one result "problem", which `edict verify` prints. `message` is a part of the message.
    """

    name: str
    description: str
    build: Build
    results: tuple[str, ...]
    message: str = ""
