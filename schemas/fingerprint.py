"""The fingerprint of a job: every setting that determines its rows. All rows of a store have the same fingerprint."""

from fractions import Fraction
from typing import Any, Literal

from pydantic import Field

from schemas.sampling import OWNERS, Sampling, Strict

Document = dict[str, Any]
"""The type of a JSON object."""

FORMAT = 3
"""The format of an inversion's fingerprint. Fingerprints in stores of format 1 and 2 have no `format`."""


EARLIER_FIELDS = (
    "weights",
    "dtype",
    "sampler",
    "steps",
    "timesteps",
    "alphas_cumprod",
    "guidance_scale",
    "crop",
    "batch_size",
)
"""The fields of an inversion's fingerprint in every earlier format."""

INTERPRETATION_FIELDS = ("placeholders", "latent_statistics")


class StoredSchedule(Strict):
    """The executed steps of a schedule, noisy end first: the fields of edict.schedule.Schedule."""

    timesteps: list[float]
    alphas_cumprod: list[float]
    sigmas: list[float] | None = None


class Fingerprint(Strict):
    """Every setting that determines the rows of an inversion.

    `weights` is the digest of the model's files: weights, configurations (also the scheduler's), tokenizers and LoRA.
    With the class of the pipeline and `sampling` it determines the schedule, which each part has in its footer.
    In `sampling`, the sampler's own parameter and `bits` are numbers, not None. `call` has further arguments of the
    pipeline's call.

    Fingerprints of earlier formats have a `schedule` and no `pipeline`. Some have an `interpretation`: settings of a
    checkpoint that even earlier versions ignored.
    """

    format: Literal[3] = 3
    input: str | list[str]
    pipeline: str | None
    weights: str
    dtype: Literal["float32", "bfloat16", "float16"]
    vae_dtype: Literal["float32", "tf32", "bfloat16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    quantization: str | None = None
    sampling: Sampling
    call: Document = Field(default_factory=dict)
    crop: Literal["center"]
    resize: Literal["lanczos", "bicubic"] = "lanczos"
    posterior_seed: int | None
    batch_size: int
    schedule: StoredSchedule | None = Field(None, exclude=True)
    interpretation: Document = Field(default_factory=dict, exclude=True)


def crop_and_resize(fingerprint: Fingerprint) -> tuple[str, str]:
    """Return the crop of the images of an inversion, and the filter of their resizing."""
    return fingerprint.crop, fingerprint.resize


class EditFingerprint(Strict):
    """Every setting that determines the images of an edit.

    `latents` is the fingerprint in the job.json of the latent store. `keys` is a digest. `format` and `quality` are
    those of the image files. `control` is "prompt-to-prompt" if earlier versions made other images from this edit,
    because it has attention control.
    """

    latents: Document
    where: str | None = None
    keys: str | None = None
    sample: Document | None = None
    limit: int | None = None
    edits: list[Document]
    format: str
    batch_size: int
    quality: int | None = None
    control: str | None = None


def read_fingerprint(document: Document, steps_offset: int | None = None) -> Fingerprint:
    """Return the fingerprint of an inversion from its JSON object, of any format.

    Earlier formats have the schedule and lack the `steps_offset` that determines it; give that of the job's spec.

    Raises:
        ValueError: A field is missing, unknown or invalid (`schemas.errors.fault` describes it).
    """
    if "format" in document:
        return Fingerprint.model_validate(document)
    if missing := [name for name in EARLIER_FIELDS if name not in document]:
        raise ValueError(f"lacks {', '.join(missing)}")
    fields = {name: value for name, value in document.items() if name in Fingerprint.model_fields}
    return Fingerprint(
        **fields | {"posterior_seed": document.get("posterior_seed")},
        pipeline=None,
        sampling=read_sampling(document, steps_offset),
        schedule=StoredSchedule(**{name: document[name] for name in StoredSchedule.model_fields if name in document}),
        interpretation={name: document[name] for name in INTERPRETATION_FIELDS if name in document},
    )


def read_sampling(document: Document, steps_offset: int | None = None) -> Sampling:
    """Return the settings of the sampler from a fingerprint or a footer of an earlier format, where p is "93/100".

    If the format is too early to name the sampler, the sampler is edict.
    """
    fields = {name: document[name] for name in Sampling.model_fields if name in document}
    fields |= {name: float(Fraction(document[name])) for name in OWNERS if name in document}
    return Sampling(**fields | {"name": document.get("sampler", "edict"), "steps_offset": steps_offset})
