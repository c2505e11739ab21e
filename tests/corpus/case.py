"""What a case of the corpus is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Build = TypeVar("Build", bound=Callable[..., object])


@dataclass(frozen=True)
class Case(Generic[Build]):
    """An input: its `name`, what it is `input` in words, how it is made, and what it `gets`.

    `gets` has an outcome for each sample of the input: "row", or "reject", its stage and its error class; none where
    there is nothing but what is passed over. Or it is one "error", of which nothing runs, or one "problem", which
    `edict verify` tells. `says` stands in the message.
    """

    name: str
    input: str
    build: Build
    gets: tuple[str, ...]
    says: str = ""
