"""A loaded checkpoint that inverts and generates exactly."""

import math
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, get_args, overload

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from edict import attention
from edict.attention import Control
from edict.batching import arrange
from edict.checkpoint import Checkpoint, ModelError, locate, locate_adapter, locate_file, locate_lora
from edict.determinism import enough_memory, make_deterministic
from edict.image_processor import Images, OutputType, from_decoded, to_pil
from edict.integration import Faults, Integration, Predict
from edict.lattice import NonFinite, of_sample, to_lattice
from edict.models import DirectModel, Model, PipelineModel, describe, of_pipeline
from edict.models.base import VAE_DTYPES, LoadOptions, VaeDtype
from edict.models.loading import QUANTIZATIONS
from edict.pair import Pair
from edict.samplers import SAMPLERS, resolved, sampling
from edict.samplers.base import BITS
from edict.schedule import Schedule
from schemas.sampling import Sampling

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

T = TypeVar("T")

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Settings(TypedDict, total=False):
    """The settings of `EDICT.invert`, with the defaults of schemas.sampling.Sampling.

    `sampler` is edict (which takes p), bdia (gamma), obelm, or ddim and ddim_euler, which are not exact. `steps_offset`
    replaces the checkpoint's. Guidance is limited to the noise levels in `guidance_interval`, (low, high].
    """

    steps: int
    strength: float
    guidance_scale: float
    bits: int | None
    sampler: str
    steps_offset: int | None
    guidance_interval: Sequence[float] | None
    p: float | None
    gamma: float | None


def sampling_of(settings: Settings) -> Sampling:
    """Return the settings of `EDICT.invert` as a `Sampling`. Raises ValueError."""
    given: dict[str, Any] = dict(settings)
    return sampling(name=given.pop("sampler", "edict"), **given)


class EDICT:
    """A checkpoint of any kind in `edict.models`: encode, invert, generate, decode.

    The network runs in `dtype`, the autoencoder in `vae_dtype`. The states are integers, so exactness depends on
    neither.

    `images` are PIL images, arrays, tensors or file names, as diffusers takes them (`edict.image_processor.Images`);
    one image or one caption needs no list. An argument out of its range raises ValueError.
    """

    def __init__(self, model: "Model | DiffusionPipeline", call: Mapping[str, Any] | None = None) -> None:
        """Wrap a pipeline of diffusers with all its adapters; `call` are arguments of every call.

        Raises:
            ModelError: the pipeline cannot invert images.
        """
        if isinstance(model, Model):
            self.model = model
        elif not hasattr(model, "scheduler"):
            raise ValueError(
                f"model is of type {type(model).__name__}: expected a pipeline of diffusers. For a folder or a hub id, "
                "use EDICT.from_pretrained"
            )
        else:
            make_deterministic()
            self.model = of_pipeline(model, call)
        self._progress_bar_config: Mapping[str, Any] = {}
        self.on_network_call: Callable[[], object] = lambda: None
        """A function that is called before the first network call of each batch, and after each network call."""

    def __repr__(self) -> str:
        model = self.model
        kind = model.kind.__name__ if isinstance(model, PipelineModel) else type(model).__name__
        return f"EDICT({str(model.folder)!r}, {kind}, {self.network.dtype} on {self.device})"

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        revision: str | None = None,
        variant: str | None = None,
        config: str | Path | None = None,
        lora: str | Path | None = None,
        lora_scale: float = 1.0,
        textual_inversion: str | Path | Sequence[str | Path] = (),
        quantization: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str = "cpu",
        compile: bool = False,
        channels_last: bool = False,
        vae_dtype: VaeDtype = "float32",
        call: Mapping[str, Any] | None = None,
    ) -> "EDICT":
        """Load a checkpoint: the shipped model (None), a folder of diffusers, a hub id, or a .safetensors file.

        Only safetensors are read, and nothing in a checkpoint runs code.

        Args:
            variant: take the weights of that name, such as fp16, of the components that have them.
            config: folder or hub id with the configurations, and the other components, of a .safetensors file.
            lora: a .safetensors file, a folder with one, or a hub id. It is added to the weights, times `lora_scale`.
            textual_inversion: the same of textual inversions, one or several.
            quantization: int8, int8_dynamic, float8 or int4, by torchao, of the network that predicts.
            dtype: of the network and the text encoders, a torch.dtype or its name.
            compile: compile the network at its first call of each shape, up to eight shapes. It is faster, and a pair
                of a compiled network regenerates exactly only by a compiled one.
            channels_last: store the weights of convolutions as [out, height, width, in]. It changes the last bits.
            vae_dtype: float32, tf32 (on GPUs) or bfloat16.
            call: arguments of every call of the pipeline. With them, or with `config`, `textual_inversion` or
                `quantization`, a checkpoint of any kind runs by its pipeline of diffusers.

        Raises:
            ModelError: the model or the compiler does not exist.
            RuntimeError: the device is absent or its name is unknown.
        """
        dtype, device = _dtype(dtype), str(torch.device(device))
        _check_choice("vae_dtype", vae_dtype, VAE_DTYPES)
        if quantization is not None:
            _check_choice("quantization", quantization, QUANTIZATIONS)
        several = [textual_inversion] if isinstance(textual_inversion, str | Path) else textual_inversion
        checkpoint = Checkpoint(
            locate(path if config is None else config, revision, variant),
            variant,
            None if config is None else locate_file(path),
            None if lora is None else locate_lora(lora, lora_scale),
            tuple(locate_adapter("textual_inversion", one) for one in several),
        )
        return cls.load(
            checkpoint,
            LoadOptions(
                dtype=dtype,
                device=device,
                quantization=quantization,
                call=call or {},
                compile=compile,
                channels_last=channels_last,
                vae_dtype=vae_dtype,
            ),
        )

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: LoadOptions) -> "EDICT":
        """Load the files of a checkpoint. Raises ModelError; RuntimeError if the device is absent."""
        model = describe(checkpoint, options)
        if options.device.startswith("cuda") and not torch.cuda.is_available():
            raise RuntimeError("device is 'cuda', but torch finds no CUDA device. Set device='cpu' to run without one")
        make_deterministic()
        return cls(model.load(checkpoint, options))

    @property
    def size(self) -> int:
        """The side of the model's images, in pixels."""
        return self.model.size

    @property
    def network(self) -> Any:
        """The network that predicts."""
        return self.model.network

    @property
    def direct(self) -> DirectModel:
        """The model, if its network is called directly. Raises ModelError for a pipeline of diffusers."""
        if not isinstance(self.model, DirectModel):
            raise ModelError(
                f"model {self.model.folder}: its network predicts only in the call of its pipeline of diffusers. Use "
                "`invert` and `generate`"
            )
        return self.model

    @property
    def device(self) -> torch.device:
        return self.model.device

    def set_progress_bar_config(self, **config: Any) -> None:
        """Set tqdm's options for the progress bars, as in a diffusers pipeline. `disable=True` hides them.

        `invert`, `generate`, `move` and `edit` count their network calls in a bar that appears after one second.
        """
        self._progress_bar_config = config

    @torch.inference_mode()
    def encode(
        self,
        images: Images,
        *,
        bits: int = BITS,
        posterior_seed: int | None = None,
    ) -> Pair:
        """Return the clean-end pair, x == y, of N images (any size: cropped to a centred square and resized).

        The latents are the mode of the autoencoder's posterior. With `posterior_seed` they are a sample of it, each
        image's with a new generator of that seed. No image's pair depends on its neighbours.

        Raises:
            NonFinite, LatticeOverflow: the latents of an image have NaN, infinity or a value that is too large. A note
                names the first such sample.
            ValueError: an image is of another kind than `Images`, or an argument is out of its range.
        """
        _check_whole("bits", bits, 1, 52)
        if posterior_seed is not None:
            _check_whole("posterior_seed", posterior_seed, 0)
        fitted = [
            ImageOps.fit(image.convert("RGB"), (self.size, self.size), Image.Resampling.LANCZOS)
            for image in to_pil(images)
        ]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in fitted])).to(self.device)
        with enough_memory(self.device):
            latents = self.model.encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, posterior_seed)
        end = self.model.clean()
        x = to_lattice(latents, end.scale(0), bits).contiguous()
        return Pair(
            x, x.clone(), end, 0, resolved(Sampling(guidance_scale=1.0, bits=bits), 0), self._batch_size(len(x))
        )

    @overload
    def decode(self, latents: torch.Tensor, *, output_type: Literal["pil"] = ...) -> list[Image.Image]: ...
    @overload
    def decode(self, latents: torch.Tensor, *, output_type: Literal["np"]) -> np.ndarray: ...
    @overload
    def decode(self, latents: torch.Tensor, *, output_type: Literal["pt"]) -> torch.Tensor: ...
    @torch.inference_mode()
    def decode(
        self, latents: torch.Tensor, *, output_type: Literal["pil", "np", "pt"] = "pil"
    ) -> list[Image.Image] | np.ndarray | torch.Tensor:
        """Return the RGB images of latents [N, ...] in the model's layout and scale, each independent of the others.

        `output_type` is "pil", or "np" or "pt" for floats on [0, 1]: [N, H, W, 3] or [N, 3, H, W].

        Raises:
            NonFinite: an image has NaN or infinity. A note names the first such sample.
            ValueError: `output_type` is unknown, or `latents` is not a tensor, or has too few or too many axes.
        """
        _check_choice("output_type", output_type, ("pil", "np", "pt"))
        ranks = (4,) if isinstance(self.model, DirectModel) else (3, 4, 5)
        if not isinstance(latents, torch.Tensor) or latents.ndim not in ranks:
            given = [*latents.shape] if isinstance(latents, torch.Tensor) else type(latents).__name__
            raise ValueError(f"latents is {given}: expected a tensor [N, ...], such as pair.to_float()[0]")
        with enough_memory(self.device):
            drawn = self.model.decode(latents.to(self.device, torch.float32).contiguous())
        for i, finite in enumerate(drawn.isfinite().flatten(1).all(1).tolist()):
            if not finite:
                raise of_sample(
                    NonFinite("the decoded image has NaN or infinity: check the autoencoder"), i, len(drawn)
                )
        return from_decoded(drawn, output_type)

    def invert(
        self,
        images: Images | Pair,
        captions: str | Sequence[str],
        *,
        batch_size: int | None = None,
        **settings: Unpack[Settings],
    ) -> Pair:
        """Return the noise pair of N images (or of a pair from `encode`), each under its caption.

        `batch_size` is the network's batch size; None: all N at once. The settings are those of `Settings`.

        Raises:
            LatticeOverflow, NonFinite: an image cannot be inverted. A note names the first such sample.
            ValueError: an argument is out of its range, or the sampler does not have it.
        """
        if strange := settings.keys() - Settings.__annotations__.keys():
            raise TypeError(
                f"invert has no argument {sorted(strange)[0]!r}. Its arguments are images, captions, batch_size, "
                f"{', '.join(Settings.__annotations__)}"
            )
        given = sampling_of(settings)
        self._check(given, batch_size)  # before the images are encoded, which takes longer
        if not isinstance(images, Pair):
            images, captions = to_pil(images), _texts("captions", captions)
            if len(images) != len(captions):
                raise ValueError(f"found {len(images)} images and {len(captions)} captions: give one caption per image")
            images = self.encode(images, bits=given.bits or SAMPLERS[given.name].bits)
        return _checked(*self.integrate(self.prepare(images, given, batch_size), captions, 0))

    def prepare(self, start: Pair, sampling: Sampling, batch_size: int | None = None) -> Pair:
        """Return a clean pair at the clean end of the schedule of its inversion.

        Raises:
            ValueError: the sampler begins from one state but x is not y; the pair has other bits; or there is a
                guidance interval but no classifier-free guidance.
        """
        plan = self._check(sampling, batch_size)
        if sampling.bits not in (None, start.bits):
            raise ValueError(f"bits is {sampling.bits}, and the pair has {start.bits}; leave bits out")
        if SAMPLERS[sampling.name].y_lead and not torch.equal(start.x, start.y):
            raise ValueError(
                f"x and y differ, as edict's edits do, and {sampling.name} begins from one state: give x as both"
            )
        return replace(
            start,
            schedule=plan,
            position=plan.num_steps,
            sampling=resolved(sampling.model_copy(update={"bits": start.bits}), plan.num_steps),
            batch_size=self._batch_size(len(start) if batch_size is None else batch_size),
        )

    def _batch_size(self, wanted: int) -> int:
        """Return the batch size of the network: 1 if the captions of a batch could change each other's bits."""
        return wanted if self.model.batched else 1

    def _check(self, sampling: Sampling, batch_size: int | None) -> Schedule:
        """Return the schedule of these settings. Raises ValueError if the model cannot run with them."""
        if batch_size is not None:
            _check_whole("batch_size", batch_size, 1)
        if sampling.guidance_interval is not None and self.model.guidance != "cfg":
            raise ValueError(uninterrupted(self.model))
        return self.model.schedule(sampling)

    @overload
    def generate(
        self,
        pair: Pair,
        captions: str | Sequence[str],
        *,
        guidance_scale: float | None = ...,
        output_type: Literal["pil"] = ...,
    ) -> list[Image.Image]: ...
    @overload
    def generate(
        self,
        pair: Pair,
        captions: str | Sequence[str],
        *,
        guidance_scale: float | None = ...,
        output_type: Literal["np"],
    ) -> np.ndarray: ...
    @overload
    def generate(
        self,
        pair: Pair,
        captions: str | Sequence[str],
        *,
        guidance_scale: float | None = ...,
        output_type: Literal["pt"],
    ) -> torch.Tensor: ...
    @overload
    def generate(
        self,
        pair: Pair,
        captions: str | Sequence[str],
        *,
        guidance_scale: float | None = ...,
        output_type: Literal["latent"],
    ) -> Pair: ...
    def generate(
        self,
        pair: Pair,
        captions: str | Sequence[str],
        *,
        guidance_scale: float | None = None,
        output_type: OutputType = "pil",
    ) -> list[Image.Image] | np.ndarray | torch.Tensor | Pair:
        """Denoise a pair to its clean end: the exact start under the captions of the inversion, an edit under others.

        `output_type` is that of `decode`, or "latent" for the clean pair itself.
        """
        _check_choice("output_type", output_type, get_args(OutputType))
        _check_pair(pair)
        clean = _checked(*self.integrate(pair, captions, pair.schedule.num_steps, guidance_scale=guidance_scale))
        return clean if output_type == "latent" else self.decode(clean.to_float()[0], output_type=output_type)

    @torch.inference_mode()
    def integrate(
        self,
        pair: Pair,
        captions: str | Sequence[str],
        position: int,
        *,
        guidance_scale: float | None = None,
        negative_captions: str | Sequence[str | None] | None = None,
        slots: Sequence[int | None] | None = None,
    ) -> tuple[Pair, Faults]:
        """Return the pair, inverted or generated to `position` of its schedule, and the faults by sample.

        A fault of one sample does not change the others. The states of samples with a fault are zeros, so that they can
        be decoded with the others. Guidance leads away from `negative_captions`, one per sample, if they are given;
        otherwise from the empty caption.

        `slots` has the slot of each sample in its batch, or None for any free slot. By default samples fill the slots
        in order. The last bits of a prediction can depend on the slot. So a subset of a pair's samples regenerates
        exactly only in the slots where they were inverted: sample i was in slot `i % batch_size`, unless `slots` was
        given.
        """
        _check_pair(pair)
        captions = _texts("captions", captions)
        if negative_captions is not None:
            negative_captions = _texts("negative_captions", negative_captions, optional=True)
        _one_each(pair, {"captions": captions, "negative captions": negative_captions, "slots": slots})
        if guidance_scale is not None:
            _check_guidance(guidance_scale)
        if not _is_whole(position) or not 0 <= position <= pair.schedule.num_steps:
            raise ValueError(f"position {position} is not on a schedule of {pair.schedule.num_steps} steps")
        pair = pair.to(self.device)
        guidance_scale = pair.guidance_scale if guidance_scale is None else guidance_scale
        xs, ys, faults = torch.empty_like(pair.x), torch.empty_like(pair.y), Faults()
        if pair.batch_size != self._batch_size(pair.batch_size):
            raise ValueError(
                f"the pair was inverted in batches of {pair.batch_size}, and `EDICT` runs this pipeline on one image "
                "at a time, so the result would not be exact. Use the scheduler that made the pair"
            )
        batches = arrange([None] * len(pair) if slots is None else slots, pair.batch_size)
        calls = len(batches) * len(SAMPLERS[pair.sampling.name].evaluated_steps(pair.schedule, pair.position, position))
        with self._progress_bar("invert" if position < pair.position else "generate", calls) as bar:
            for batch in batches:
                samples = [i for i in batch if i is not None]
                filled = [slot for slot, i in enumerate(batch) if i is not None]
                # Free slots get a copy of another sample, because a prediction does not depend on the other samples.
                rows = [samples[0] if i is None else i for i in batch]
                negative = None if negative_captions is None else [negative_captions[i] for i in rows]
                integration = Integration(pair[rows], position, on_answer=self._counted(bar))
                with enough_memory(self.device):
                    texts = [captions[i] for i in rows]
                    integration = self.model.solve(integration, texts, guidance_scale, negative)
                xs[samples], ys[samples] = integration.pair.x[filled], integration.pair.y[filled]
                found = integration.monitor.faults(pair.bits)
                faults |= {i: found[slot] for i, slot in zip(samples, filled, strict=True) if slot in found}
        return _zeroed(replace(pair, x=xs, y=ys, position=position), faults), faults

    @torch.inference_mode()
    def edit(
        self,
        pair: Pair,
        captions: str | Sequence[str],
        prompts: Sequence[Sequence[str]],
        *,
        control: Control,
        guidance_scale: float | None = None,
        steps: int | None = None,
        negative_prompts: Sequence[Sequence[str | None]] | None = None,
    ) -> tuple[Pair, Faults]:
        """Edit a pair under attention control. Return the clean pair of all rows and edits, and the faults by sample.

        The samples are in the order of the rows: each row under its caption, which is exact, and then its edits, one
        per prompt of `prompts[row]`. The edits begin at the pair's position. With `steps` they are only the last steps,
        and the steps before run under the captions. `guidance_scale` and `negative_prompts` apply to the edits; a row's
        own guidance is that of the pair. A fault of a row is also a fault of its edits.
        """
        if not self.model.controllable:
            raise ModelError(uncontrollable(self.model))
        if self.model.compiled:
            raise ModelError(COMPILED)
        _check_pair(pair)
        if not isinstance(control, Control):
            raise ValueError(f"control is of type {type(control).__name__}: expected a Control")
        depth = pair.schedule.num_steps
        captions = _texts("captions", captions)
        for name, lists in {"prompts": prompts, "negative_prompts": negative_prompts or ()}.items():
            if isinstance(lists, str) or any(isinstance(ours, str) for ours in lists):
                raise ValueError(f"{name}: give a list of texts per pair, such as [['a cat', 'a dog']] for one pair")
            for ours in lists:
                _texts(name, ours, optional=name == "negative_prompts")
        if guidance_scale is not None:
            _check_guidance(guidance_scale)
        counts = [len(ours) for ours in prompts]
        _one_each(pair, {"captions": captions, "lists of prompts": prompts})
        negatives = [[None] * count for count in counts] if negative_prompts is None else negative_prompts
        if [len(ours) for ours in negatives] != counts:
            raise ValueError("negative_prompts: give one per prompt, or None for a prompt without")
        if isinstance(control.blend, torch.Tensor) and control.blend.shape != (sum(counts), *pair.x.shape[2:]):
            raise ValueError(
                f"the mask is {[*control.blend.shape]}: make it {[sum(counts), *pair.x.shape[2:]]}, one mask per edit"
            )
        left = depth - pair.position
        if steps is not None and not (_is_whole(steps) and 0 < steps <= left):
            raise ValueError(
                f"steps is {steps}: expected a whole number from 1 to {left}, the steps that the pair has left"
            )
        sides = self.model.attention_sides
        if (reason := attention.without_effect(control, steps or left, pair.x.shape[2], sides)) is not None:
            raise ValueError(reason)
        pair, failed = pair.to(self.device), Faults()
        if steps is not None:
            pair, failed = self.integrate(pair, captions, depth - steps)
        states: dict[attention.BatchMember, tuple[torch.Tensor, torch.Tensor]] = {}
        faults: dict[attention.BatchMember, ArithmeticError] = {}
        batches = attention.batches(counts, pair.batch_size)
        calls = len(batches) * len(SAMPLERS[pair.sampling.name].evaluated_steps(pair.schedule, pair.position, depth))
        with self._progress_bar("edit", calls) as bar:
            for places in batches:
                filled = _filled(places, pair.batch_size)
                with enough_memory(self.device):
                    moved, found = self._edit_batch(
                        pair, captions, prompts, filled, control, guidance_scale, negatives, bar
                    )
                for i, (row, j) in enumerate(places):
                    states.setdefault((row, j), (moved.x[i], moved.y[i]))
                    fault = failed.get(row) or found.get(places.index((row, 0))) or found.get(i)
                    if fault is not None:
                        faults.setdefault((row, j), fault)
        order = [(row, j) for row, count in enumerate(counts) for j in range(count + 1)]
        x, y = (torch.stack([states[place][side] for place in order]) for side in (0, 1))
        by_sample = {i: faults[place] for i, place in enumerate(order) if place in faults}
        return _zeroed(replace(pair, x=x, y=y, position=depth), by_sample), by_sample

    def _edit_batch(
        self,
        pair: Pair,
        captions: Sequence[str],
        prompts: Sequence[Sequence[str]],
        places: list[attention.BatchMember],
        control: Control,
        guidance_scale: float | None,
        negatives: Sequence[Sequence[str | None]],
        bar: tqdm,
    ) -> tuple[Pair, Faults]:
        """Run one batch of `edit`. Return its pair, and its faults by slot."""
        of = [row for row, _ in places]
        masks = [sum(map(len, prompts[:row])) + j - 1 for row, j in places if j]
        texts = [prompts[row][j - 1] if j else captions[row] for row, j in places]
        rows = attention.rows(places, texts, control, self.direct.tokenizer, self.device)
        edited = pair.guidance_scale if guidance_scale is None else guidance_scale
        scales = [edited if j else pair.guidance_scale for _, j in places]
        predictor = partial(
            attention.guided,
            self.direct,
            self.direct.condition(texts),
            self.direct.negative_conditions([negatives[row][j - 1] if j else None for row, j in places]),
            scales,
            pair.guidance_scale,
            rows,
            pair.timesteps_without_cfg,
        )
        return attention.generate(
            pair[of],
            predictor,
            rows,
            control,
            control.blend[masks].to(self.device) if isinstance(control.blend, torch.Tensor) else None,
            self._counted(bar),
        )

    def _counted(self, bar: tqdm) -> Callable[[], None]:
        """Return a function that counts a network call, to be called after each one. Announce the first call."""

        def count() -> None:
            bar.update()
            self.on_network_call()

        self.on_network_call()
        return count

    def _progress_bar(self, name: str, calls: int) -> tqdm:
        return tqdm(
            **{"desc": name, "total": calls, "unit": "call", "delay": 1, "leave": False, **self._progress_bar_config}
        )

    def predictor(
        self,
        captions: Sequence[str],
        guidance_scale: float,
        negative_captions: Sequence[str | None] | None = None,
        timesteps_without_cfg: Container[float] = (),
    ) -> Predict:
        """Return the guided prediction under these captions, one per sample of the batch.

        At the timesteps `unguided` it is not guided.
        """
        return self.direct.predictor(captions, guidance_scale, negative_captions, timesteps_without_cfg)

    def truncated(self, caption: str) -> bool:
        """Return whether the text encoder takes only the beginning of a caption."""
        return self.model.truncated(caption)


COMPILED = (
    "attention control changes the network's layers, which is not possible in a compiled network. Leave control out, "
    "or invert without compile"
)
"""The error for attention control with a compiled model."""


def uncontrollable(model: Model) -> str:
    """Return the error for attention control with a model that does not support it."""
    return (
        "attention control needs a UNet that attends to CLIP's tokens (Stable Diffusion 1, 2, XL), and "
        f"{model.folder} is a {type(model).__name__}: leave control out"
    )


def uninterrupted(model: Model) -> str:
    """Return the error for a guidance interval with a model that does not support it."""
    return (
        "guidance_interval needs a model that `EDICT` itself guides by classifier-free guidance, and "
        f"{model.folder} is not one. Leave it out"
    )


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return a dtype that a network can run in. Raises ValueError."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    names = [str(known).removeprefix("torch.") for known in DTYPES]
    if found not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: expected {', '.join(names)}, or the torch.dtype of such a name")
    return found


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float | np.floating)


def _check_whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    if not _is_whole(value) or value < least or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name} is {value!r}: expected a whole number of at least {least}{upper}")


def _check_number(name: str, value: Any, valid: Callable[[float], bool], expected: str) -> None:
    if not _is_number(value) or not valid(value):
        raise ValueError(f"{name} is {value!r}: expected a number {expected}")


def _check_guidance(value: Any) -> None:
    _check_number("guidance_scale", value, lambda scale: 0 <= scale < math.inf, "of at least 0")


def _check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {value!r}: expected {' or '.join(choices)}")


def _check_pair(value: Any) -> None:
    if not isinstance(value, Pair):
        raise ValueError(f"pair is of type {type(value).__name__}: expected a Pair, such as `invert` returns")


@overload
def _texts(name: str, given: str | Sequence[str]) -> Sequence[str]: ...
@overload
def _texts(name: str, given: str | Sequence[str | None], *, optional: bool) -> Sequence[str | None]: ...
def _texts(name: str, given: str | Sequence[str | None], *, optional: bool = False) -> Sequence[str | None]:
    """Return texts as a list, one text as a list of one. An `optional` text may be None. Raises ValueError."""
    texts = [given] if isinstance(given, str | None) else list(given)
    for text in texts:
        if not isinstance(text, str) and not (optional and text is None):
            raise ValueError(f"{name}: found {text!r}, expected a text per pair")
    return texts


def _one_each(pair: Pair, given: dict[str, Sequence | None]) -> None:
    for kind, ones in given.items():
        if ones is not None and len(ones) != len(pair):
            raise ValueError(f"{len(pair)} pairs but {len(ones)} {kind}: give one per pair")


def _filled(given: Sequence[T], count: int) -> list[T]:
    return [*given, *[given[-1]] * (count - len(given))]


def _zeroed(pair: Pair, faults: Faults) -> Pair:
    """Set the states of samples with a fault to zero, in place, because they are meaningless and can be huge."""
    pair.x[list(faults)] = pair.y[list(faults)] = 0
    return pair


def _checked(pair: Pair, faults: Faults) -> Pair:
    if faults:
        i, fault = next(iter(faults.items()))
        raise of_sample(fault, i, len(pair))
    return pair
