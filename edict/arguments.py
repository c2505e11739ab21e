"""Checks of the arguments of `EDICT`'s methods. Each raises ValueError and names the argument."""

import math
from collections.abc import Collection, Mapping, Sequence, Sized
from typing import Any, TypedDict, overload

import numpy as np
import torch

from edict.control.generation import ControlledEdits
from edict.control.settings import ineffective_reason
from edict.pair import Pair
from edict.samplers import sampling
from schemas.sampling import Sampling

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""The dtypes that a network can run in."""


class InvertKwargs(TypedDict, total=False):
    """The settings of `EDICT.invert`, with the defaults of schemas.sampling.Sampling.

    `sampler` is edict (with p), bdia (with gamma) or obelm, or ddim or ddim_euler, which are not exact. `steps_offset`
    replaces that of the checkpoint. Guidance applies only to the noise levels in `guidance_interval`, (low, high].
    """

    # These are the fields of Sampling, with its `name` as `sampler`. They are repeated here for editors and mypy, which
    # need a TypedDict to know the keyword arguments of `invert`.
    steps: int
    strength: float
    guidance_scale: float
    bits: int | None
    sampler: str
    steps_offset: int | None
    guidance_interval: Sequence[float] | None
    p: float | None
    gamma: float | None


def sampling_from(kwargs: InvertKwargs) -> Sampling:
    """Return the settings of `EDICT.invert` as a `Sampling`.

    Raises:
        TypeError: `invert` has no such argument.
        ValueError: A setting is out of its range, or belongs to another sampler.
    """
    if unknown := kwargs.keys() - InvertKwargs.__annotations__.keys():
        raise TypeError(
            f"invert has no argument {sorted(unknown)[0]!r}. Its arguments are images, captions, batch_size, "
            f"{', '.join(InvertKwargs.__annotations__)}"
        )
    settings: dict[str, Any] = dict(kwargs)
    return sampling(name=settings.pop("sampler", "edict"), **settings)


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return the torch.dtype of a name, if a network can run in it."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    names = [str(known).removeprefix("torch.") for known in DTYPES]
    if found not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: expected {', '.join(names)}, or the torch.dtype of such a name")
    return found


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer of Python or NumPy. A bool is not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is an integer or a float of Python or NumPy."""
    return is_whole(value) or isinstance(value, float | np.floating)


def check_whole(name: str, value: Any, minimum: int, maximum: int | None = None) -> None:
    if not is_whole(value) or value < minimum or (maximum is not None and value > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        raise ValueError(f"{name} is {value!r}: expected a whole number of at least {minimum}{upper}")


def check_guidance_scale(value: Any) -> None:
    if not is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"guidance_scale is {value!r}: expected a number of at least 0")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {value!r}: expected {' or '.join(choices)}")


def check_position(pair: Pair, position: Any) -> None:
    steps = pair.schedule.num_steps
    if not is_whole(position) or not 0 <= position <= steps:
        raise ValueError(
            f"position {position} is not on a schedule of {steps} steps: give 0 (the noisy end) to {steps}"
        )


def check_pair(value: Any) -> None:
    if not isinstance(value, Pair):
        raise ValueError(f"pair is of type {type(value).__name__}: expected a Pair, such as `invert` returns")


def check_one_each(pair: Pair, items: Mapping[str, Sized | None]) -> None:
    """Check that each list has one item per sample of a pair.

    `items` has the lists by the names of their items. A list may be None.
    """
    for name, several in items.items():
        if several is not None and len(several) != len(pair):
            raise ValueError(
                f"the pair has {len(pair)} samples, but there are {len(several)} {name}: give one per sample"
            )


@overload
def as_texts(name: str, value: str | Sequence[str]) -> Sequence[str]: ...
@overload
def as_texts(name: str, value: str | Sequence[str | None], *, optional: bool) -> Sequence[str | None]: ...
def as_texts(name: str, value: str | Sequence[str | None], *, optional: bool = False) -> Sequence[str | None]:
    """Return one text or several as a list. `optional` texts may be None."""
    texts = [value] if isinstance(value, str | None) else list(value)
    for text in texts:
        if not isinstance(text, str) and not (optional and text is None):
            raise ValueError(f"{name} contains {text!r}: expected one text per sample")
    return texts


def check_edit(request: ControlledEdits, pair: Pair, steps: int | None, attention_sides: Sequence[int]) -> None:
    """Check the arguments of `EDICT.edit`. `attention_sides` are the sides of the model's attention maps."""
    for name, lists in {"prompts": request.prompts, "negative_prompts": request.negative_prompts}.items():
        if isinstance(lists, str) or any(isinstance(texts, str) for texts in lists):
            raise ValueError(
                f"{name} is not a list of lists: give a list of texts per sample, such as [['a cat', 'a dog']] for one"
            )
        for texts in lists:
            as_texts(name, texts, optional=name == "negative_prompts")
    if request.guidance_scale is not None:
        check_guidance_scale(request.guidance_scale)
    check_one_each(pair, {"captions": request.captions, "lists of prompts": request.prompts})
    if [len(texts) for texts in request.negative_prompts] != request.counts:
        raise ValueError(
            "negative_prompts and prompts have different lengths: give one negative prompt per prompt, or None"
        )
    blend, mask_shape = request.control.blend, [sum(request.counts), *pair.x.shape[2:]]
    if isinstance(blend, torch.Tensor) and [*blend.shape] != mask_shape:
        raise ValueError(f"the mask has the shape {[*blend.shape]}: expected {mask_shape}, one mask per edit")
    remaining = pair.schedule.num_steps - pair.position
    if steps is not None and not (is_whole(steps) and 0 < steps <= remaining):
        raise ValueError(
            f"steps is {steps}: expected a whole number from 1 to {remaining}, the steps after its position"
        )
    reason = ineffective_reason(request.control, steps or remaining, pair.x.shape[2], attention_sides)
    if reason is not None:
        raise ValueError(f"control: {reason}")
