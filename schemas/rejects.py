"""The record of a sample that is not processed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reject:
    """The reason why one input sample was left out: one row of the rejects.

    `shard` is the location of its shard as the job spec names it. `index` is its position in the shard. `key` is its
    name in the shard, or "" if it is unknown. `stage` is the stage that found the error: "index" (the tar headers),
    "read" (the bytes), "decode" (the image), "invert" or "edit" (the model, or the end of the worker). `error` is the
    class of the error, by which rejects are counted. `message` says what is wrong and what to do, without secrets.
    """

    shard: str
    index: int
    key: str
    stage: str
    error: str
    message: str
