"""The rows of a latent store: one exactly inverted image each. Every part has a footer."""

import json
from collections.abc import Mapping, Sequence
from typing import Literal

import pyarrow as pa

from schemas.fingerprint import Document, StoredSchedule, read_sampling
from schemas.sampling import Sampling, Strict

FINGERPRINT = b"edict.fingerprint"
NOISE = b"edict.noise"


class Footer(Strict):
    """The scale of a part's states, and the settings that made them: the JSON object under `edict.noise`.

    latent = integer * scale, where scale = 2^-bits * sqrt(alphas_cumprod); the alpha of a flow is 1. The scale of y is
    `scale_y`, which differs for samplers that keep y one step nearer to the clean end (bdia, obelm).

    The states are at `position` of the schedule: 0 is the noisy end. Footers of earlier formats have no `format`. They
    have the fields of `sampling` and `schedule` at the top level, and the alphas under `schedule`.
    """

    format: Literal[3] = 3
    scale: float
    scale_y: float
    bits: int
    alphas_cumprod: float
    batch_size: int
    position: int
    sampling: Sampling
    schedule: StoredSchedule


def read_footer(metadata: Mapping[bytes, bytes]) -> Footer:
    """Return the footer of a part, of any format, from the metadata of its schema.

    Raises:
        KeyError, ValueError: the metadata is not that of a part.
    """
    noise: Document = json.loads(metadata[NOISE])
    if "format" in noise:
        return Footer.model_validate(noise)
    if "steps" not in noise:  # still earlier versions had it only in the fingerprint
        made = json.loads(metadata[FINGERPRINT])
        noise |= {"steps": made["steps"], "strength": made["strength"]}
    names = ("scale", "bits", "alphas_cumprod", "batch_size", "position")
    return Footer(
        **{name: noise[name] for name in names},
        scale_y=noise["scale_y"] if "scale_y" in noise else noise["scale"],
        sampling=read_sampling(noise),
        schedule=StoredSchedule(
            timesteps=noise["timesteps"], alphas_cumprod=noise["schedule"], sigmas=noise.get("sigmas")
        ),
    )


def latents_schema(shape: Sequence[int], fingerprint: Document, footer: Footer) -> pa.Schema:
    """Return the Arrow schema of a part, of latents of any shape: [C, H, W], tokens [L, D], video [C, F, H, W].

    x and y are int32, nested lists of this shape (see `Footer`). The metadata has the footer under `edict.noise`, and
    the fingerprint of job.json under `edict.fingerprint`.

    `slot` is the row's position in the batch in which it was inverted, from 0 to `batch_size` - 1 (in the footer). The
    row regenerates exactly in this slot. Parts of earlier versions do not have this column. Their rows have the slot
    that is their position in the part modulo the batch size.
    """
    state: pa.DataType = pa.int32()
    for length in reversed(shape):
        state = pa.list_(state, length)
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("shard", pa.string(), nullable=False),
            pa.field("index", pa.int64(), nullable=False),
            pa.field("slot", pa.int32(), nullable=False),
            pa.field("caption", pa.string(), nullable=False),
            pa.field("caption_truncated", pa.bool_(), nullable=False),
            pa.field("x", state, nullable=False),
            pa.field("y", state, nullable=False),
            pa.field("digest", pa.string(), nullable=False),
            pa.field("drift", pa.float64(), nullable=False),
            pa.field("std", pa.float64(), nullable=False),
            pa.field("image_sha256", pa.string(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("json", pa.string()),
        ],
        metadata={FINGERPRINT: json.dumps(fingerprint), NOISE: footer.model_dump_json()},
    )
