"""The preview of a job as data. `dataclasses.asdict` of it is the output of `edict plan --json`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RejectExample:
    """A sample that will be rejected, and the reason."""

    error: str
    key: str
    shard: str
    message: str


@dataclass(frozen=True)
class RepeatedKey:
    """A key that several shards have, with the first and the last of these shards."""

    key: str
    first_shard: str
    last_shard: str


@dataclass(frozen=True)
class InvertPreview:
    """The preview of an inversion.

    `samples` = `accepted` + `rejected`, judged by the headers of the shards only. `rejects` counts the rejects by class
    of error. `parameters` are the weights of the sampler: `p` of EDICT, `gamma` of BDIA. `image_size` is the side of
    the images in pixels, or None if only the loaded pipeline knows it. A network call is counted per image and per
    branch of guidance.
    """

    kind: Literal["invert"]
    output: str
    shards: int
    samples: int
    accepted: int
    rejected: int
    rejects: dict[str, int]
    reject_examples: list[RejectExample]
    repeated_keys: int
    repeated_key_examples: list[RepeatedKey]
    units: int
    units_done: int
    workers: int
    model: str
    dtype: str
    compiled: bool
    image_size: int | None
    sampler: str
    steps: int
    parameters: dict[str, float]
    guidance_scale: float
    guidance_interval: list[float] | None
    network_calls_per_image: int
    network_calls: int


@dataclass(frozen=True)
class PromptExample:
    """A caption of the store, and its prompt under an edit."""

    edit: str
    caption: str
    prompt: str


@dataclass(frozen=True)
class UnknownKeys:
    """The keys in the table of an edit that the latent store does not have: how many `of` all keys, and the first."""

    edit: str
    count: int
    of: int
    examples: list[str]


@dataclass(frozen=True)
class EditPreview:
    """The preview of an edit job.

    `rows` are the selected rows among `rows_in_store`. `images` counts the images that will be made, by edit, and
    `filtered` counts the combinations of row and edit in which the caption would not change. `unused` are the edits
    that change no caption. A network call is counted per image and per branch of guidance.
    """

    kind: Literal["edit"]
    latents: str
    output: str
    rows: int
    rows_in_store: int
    images: dict[str, int]
    filtered: int
    units: int
    units_done: int
    workers: int
    network_calls: int
    unused: list[str]
    unknown_keys: list[UnknownKeys]
    prompt_examples: list[PromptExample]


Preview = InvertPreview | EditPreview
