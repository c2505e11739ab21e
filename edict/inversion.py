"""Exact inversion, generation and editing by a loaded checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, get_args, overload

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from edict.arguments import (
    InvertKwargs,
    as_texts,
    check_choice,
    check_edit,
    check_guidance_scale,
    check_one_each,
    check_pair,
    check_position,
    check_whole,
    parse_dtype,
    sampling_from,
)
from edict.batching import arrange
from edict.checkpoint import Checkpoint
from edict.control.batch import BatchMember, make_batches
from edict.control.generation import ControlledEdits, edit_batch
from edict.control.settings import Control
from edict.determinism import enough_memory, make_deterministic
from edict.errors import ModelError
from edict.image_processor import Images, OutputType, from_decoded, to_pil
from edict.integration import Faults, Integration
from edict.lattice import NonFinite, note_sample, to_lattice
from edict.models import DirectModel, Model, PipelineModel, describe, from_pipeline
from edict.models.base import VAE_DTYPES, LoadOptions, VaeDtype
from edict.models.loading import QUANTIZATIONS
from edict.models.unsupported import NO_CONTROL_IF_COMPILED, no_control, no_guidance_interval
from edict.pair import Pair
from edict.samplers import SAMPLERS, with_defaults
from edict.samplers.base import BITS
from edict.schedule import Schedule
from schemas.sampling import Sampling

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

T = TypeVar("T")


class EDICT:
    """A loaded checkpoint that encodes, inverts, generates, edits and decodes images.

    The network runs in `dtype`, and the autoencoder in `vae_dtype`. The states are integers, so a round trip is exact
    in any dtype.

    `images` are PIL images, arrays, tensors or file names, as diffusers takes them (`edict.image_processor.Images`).
    One image or one caption needs no list.
    """

    def __init__(self, model: "Model | DiffusionPipeline", call: Mapping[str, Any] | None = None) -> None:
        """Wrap a pipeline of diffusers with all its adapters.

        Args:
            model: A pipeline of diffusers, or a model of `edict.models`.
            call: Arguments of every call of the pipeline.

        Raises:
            ModelError: The pipeline cannot invert images.
            ValueError: `model` is not a pipeline.
        """
        if isinstance(model, Model):
            self.backend = model
        elif not hasattr(model, "scheduler"):
            raise ValueError(
                f"model is of type {type(model).__name__}: expected a pipeline of diffusers. For a folder or a hub id, "
                "use EDICT.from_pretrained"
            )
        else:
            make_deterministic()
            self.backend = from_pipeline(model, call)
        self._progress_bar_config: Mapping[str, Any] = {}
        self.on_network_call: Callable[[], object] = lambda: None
        """A function that is called before the first network call of each batch and after each network call."""

    def __repr__(self) -> str:
        model = self.backend
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

        Only safetensors files are read, and no code in a checkpoint runs.

        Args:
            path: A folder, a hub id or a .safetensors file; None is the shipped model.
            revision: A branch, tag or commit of the hub.
            variant: The name of a variant of the weights, such as fp16. Components without it use the usual weights.
            config: A folder or hub id with the configurations and the other components of a .safetensors file.
            lora: A .safetensors file, a folder with one, or a hub id.
            lora_scale: The factor of the LoRA weights.
            textual_inversion: One or several of the same kinds as `lora`.
            quantization: int8, int8_dynamic, float8 or int4, by torchao, of the network that predicts.
            dtype: The torch.dtype, or its name, of the network and the text encoders.
            device: The device of all networks.
            compile: Compile the network at its first call of each shape, up to eight shapes. A pair of a compiled
                network regenerates exactly only in a compiled network.
            channels_last: Store the weights of convolutions as [out, height, width, in]. This changes the last bits.
            vae_dtype: float32, tf32 (on GPUs) or bfloat16.
            call: Arguments of every call of the pipeline. With `call`, `config`, `textual_inversion` or
                `quantization`, a checkpoint of any kind runs in its pipeline of diffusers.

        Raises:
            ModelError: The model does not exist or is not supported, or no network can be compiled.
            RuntimeError: The device is absent or its name is unknown.
            ValueError: An argument is out of its range.
        """
        dtype, device = parse_dtype(dtype), str(torch.device(device))
        check_choice("vae_dtype", vae_dtype, VAE_DTYPES)
        if quantization is not None:
            check_choice("quantization", quantization, QUANTIZATIONS)
        checkpoint = Checkpoint.locate(
            path,
            config=config,
            revision=revision,
            variant=variant,
            lora=None if lora is None else (lora, lora_scale),
            textual_inversion=textual_inversion,
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
        """Load the files of a checkpoint.

        Raises:
            ModelError: The checkpoint is incomplete or not supported, or no network can be compiled.
            RuntimeError: The device is absent.
        """
        model = describe(checkpoint, options)
        if options.device.startswith("cuda") and not torch.cuda.is_available():
            raise RuntimeError("device is 'cuda', but torch finds no CUDA device. Set device='cpu' to run without one")
        make_deterministic()
        return cls(model.load(checkpoint, options))

    @property
    def size(self) -> int:
        """The side of the model's images, in pixels."""
        return self.backend.size

    @property
    def network(self) -> Any:
        """The network that predicts."""
        return self.backend.network

    @property
    def direct(self) -> DirectModel:
        """The model, if its network is called directly.

        Raises:
            ModelError: The model is a pipeline of diffusers.
        """
        if not isinstance(self.backend, DirectModel):
            raise ModelError(
                f"model {self.backend.folder}: its network predicts only in the call of its pipeline of diffusers. Use "
                "`invert` and `generate`"
            )
        return self.backend

    @property
    def device(self) -> torch.device:
        return self.backend.device

    def set_progress_bar_config(self, **config: Any) -> None:
        """Set tqdm's options for the progress bars, as in a diffusers pipeline. `disable=True` hides them.

        `invert`, `generate`, `integrate` and `edit` count their network calls in a bar that appears after one second.
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
        """Return the clean pair, x == y, of N images of any size, cropped to a centred square and resized.

        The latents are the mode of the autoencoder's posterior. With `posterior_seed` they are a sample of it, with a
        new generator of that seed for each image. The pair of an image does not depend on the other images.

        Raises:
            NonFinite, LatticeOverflow: The latents of an image have NaN, infinity or a value that is too large. A note
                names the first such sample.
            ValueError: An image is not of a kind in `Images`, or an argument is out of its range.
        """
        check_whole("bits", bits, 1, 52)
        if posterior_seed is not None:
            check_whole("posterior_seed", posterior_seed, 0)
        fitted = [
            ImageOps.fit(image.convert("RGB"), (self.size, self.size), Image.Resampling.LANCZOS)
            for image in to_pil(images)
        ]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in fitted])).to(self.device)
        with enough_memory(self.device):
            latents = self.backend.encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, posterior_seed)
        end = self.backend.clean_end()
        x = to_lattice(latents, end.scale(0), bits).contiguous()
        return Pair(
            x, x.clone(), end, 0, with_defaults(Sampling(guidance_scale=1.0, bits=bits), 0), self._batch_size(len(x))
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
        """Return the RGB images of latents [N, ...] in the model's layout and scale. Each is decoded independently.

        `output_type` is "pil", or "np" or "pt" for floats on [0, 1]: [N, H, W, 3] or [N, 3, H, W].

        Raises:
            NonFinite: An image has NaN or infinity. A note names the first such sample.
            ValueError: `output_type` is unknown, or `latents` is not a tensor or has a wrong number of axes.
        """
        check_choice("output_type", output_type, ("pil", "np", "pt"))
        ranks = (4,) if isinstance(self.backend, DirectModel) else (3, 4, 5)
        if not isinstance(latents, torch.Tensor) or latents.ndim not in ranks:
            given = [*latents.shape] if isinstance(latents, torch.Tensor) else type(latents).__name__
            raise ValueError(f"latents is {given}: expected a tensor [N, ...], such as pair.to_float()[0]")
        with enough_memory(self.device):
            images = self.backend.decode(latents.to(self.device, torch.float32).contiguous())
        for i, finite in enumerate(images.isfinite().flatten(1).all(1).tolist()):
            if not finite:
                raise note_sample(
                    NonFinite("the decoded image has NaN or infinity: check the autoencoder"), i, len(images)
                )
        return from_decoded(images, output_type)

    def invert(
        self,
        images: Images | Pair,
        captions: str | Sequence[str],
        *,
        batch_size: int | None = None,
        **settings: Unpack[InvertKwargs],
    ) -> Pair:
        """Return the noise pair of N images, or of a clean pair from `encode`, each under its caption.

        `batch_size` is the batch size of the network; None means all N samples at once.

        Raises:
            LatticeOverflow, NonFinite: An image cannot be inverted. A note names the first such sample.
            TypeError: There is no such setting.
            ValueError: An argument is out of its range, or belongs to another sampler.
        """
        sampling = sampling_from(settings)
        schedule = self._schedule(sampling, batch_size)  # Its errors come before the images are encoded, which is slow.
        if not isinstance(images, Pair):
            images, captions = to_pil(images), as_texts("captions", captions)
            if len(images) != len(captions):
                raise ValueError(f"found {len(images)} images and {len(captions)} captions: give one caption per image")
            images = self.encode(images, bits=sampling.bits or SAMPLERS[sampling.name].bits)
        ready = self._at_clean_end(images, sampling, schedule, batch_size)
        return _raise_first(*self.integrate(ready, captions, 0))

    def prepare(self, start: Pair, sampling: Sampling, batch_size: int | None = None) -> Pair:
        """Return a clean pair at the clean end of the schedule of its inversion.

        Raises:
            ValueError: The model cannot run with these settings, the pair has other bits, or its states differ and the
                sampler begins from one state.
        """
        return self._at_clean_end(start, sampling, self._schedule(sampling, batch_size), batch_size)

    def _at_clean_end(self, start: Pair, sampling: Sampling, schedule: Schedule, batch_size: int | None) -> Pair:
        if sampling.bits not in (None, start.bits):
            raise ValueError(f"bits is {sampling.bits}, and the pair has {start.bits}; leave bits out")
        if SAMPLERS[sampling.name].y_lead and not torch.equal(start.x, start.y):
            raise ValueError(
                f"x and y differ, as after an edit by edict, but {sampling.name} starts from one state: give x as both"
            )
        return replace(
            start,
            schedule=schedule,
            position=schedule.num_steps,
            sampling=with_defaults(sampling.model_copy(update={"bits": start.bits}), schedule.num_steps),
            batch_size=self._batch_size(len(start) if batch_size is None else batch_size),
        )

    def _batch_size(self, wanted: int) -> int:
        """Return the batch size of the network: 1 if the captions of a batch could change each other's bits."""
        return wanted if self.backend.supports_batches else 1

    def _schedule(self, sampling: Sampling, batch_size: int | None) -> Schedule:
        """Return the schedule of an inversion with these settings.

        Raises:
            ValueError: The model cannot run with these settings.
        """
        if batch_size is not None:
            check_whole("batch_size", batch_size, 1)
        if sampling.guidance_interval is not None and self.backend.guidance != "cfg":
            raise ValueError(no_guidance_interval(self.backend))
        return self.backend.schedule(sampling)

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
        """Denoise a pair to its clean end. The captions of the inversion regenerate its start. Others make an edit.

        `output_type` is that of `decode`, or "latent" for the clean pair.

        Raises:
            LatticeOverflow, NonFinite: A sample cannot be generated. A note names the first one.
            ValueError: An argument is out of its range, or there is not one caption per sample.
        """
        check_choice("output_type", output_type, get_args(OutputType))
        check_pair(pair)
        clean = _raise_first(*self.integrate(pair, captions, pair.schedule.num_steps, guidance_scale=guidance_scale))
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
        be decoded with the others.

        Args:
            guidance_scale: None means the scale of the pair.
            negative_captions: The captions that guidance leads away from, one per sample. None means the empty caption.
            slots: The slot of each sample in its batch, or None for any free slot. By default, samples fill the slots
                in order. The last bits of a prediction can depend on the slot. So a subset of a pair regenerates
                exactly only in the slots of its inversion. By default, sample i was inverted in `i % batch_size`.

        Raises:
            ValueError: An argument is out of its range, or a list does not have one item per sample.
        """
        check_pair(pair)
        captions = as_texts("captions", captions)
        if negative_captions is not None:
            negative_captions = as_texts("negative_captions", negative_captions, optional=True)
        check_one_each(pair, {"captions": captions, "negative captions": negative_captions, "slots": slots})
        if guidance_scale is not None:
            check_guidance_scale(guidance_scale)
        check_position(pair, position)
        if pair.batch_size != self._batch_size(pair.batch_size):
            raise ValueError(
                f"the pair was inverted in batches of {pair.batch_size}, and `EDICT` runs this pipeline on one image "
                "at a time, so the result would not be exact. Use the scheduler that made the pair"
            )
        pair = pair.to(self.device)
        guidance_scale = pair.guidance_scale if guidance_scale is None else guidance_scale
        xs, ys, faults = torch.empty_like(pair.x), torch.empty_like(pair.y), Faults()
        batches = arrange([None] * len(pair) if slots is None else slots, pair.batch_size)
        name = "invert" if position < pair.position else "generate"
        with self._progress_bar(name, pair, position, len(batches)) as bar:
            for batch in batches:
                samples = [i for i in batch if i is not None]
                filled = [slot for slot, i in enumerate(batch) if i is not None]
                # Free slots get a copy of another sample, because a prediction does not depend on the other samples.
                rows = [samples[0] if i is None else i for i in batch]
                negative = None if negative_captions is None else [negative_captions[i] for i in rows]
                integration = Integration(pair[rows], position, on_answer=self._call_counter(bar))
                with enough_memory(self.device):
                    texts = [captions[i] for i in rows]
                    integration = self.backend.solve(integration, texts, guidance_scale, negative)
                xs[samples], ys[samples] = integration.pair.x[filled], integration.pair.y[filled]
                found = integration.monitor.faults(pair.bits)
                faults |= {i: found[slot] for i, slot in zip(samples, filled, strict=True) if slot in found}
        return _zero_faults(replace(pair, x=xs, y=ys, position=position), faults), faults

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

        The samples of the result are in the order of the rows: each row under its caption, which is exact, and then its
        edits. A fault of a row is also a fault of its edits.

        Args:
            captions: The caption of each row.
            prompts: The prompts of each row, one per edit.
            guidance_scale: The scale of the edits. The rows have that of the pair.
            steps: The number of last steps that run under the prompts. The steps before run under the captions. None
                means all steps from the pair's position.
            negative_prompts: A negative prompt, or None, for each prompt.

        Raises:
            ModelError: The model does not support attention control, or is compiled.
            ValueError: An argument is out of its range, or the control has no effect.
            WordNotFound: The texts of an edit lack a word of the control.
        """
        if not self.backend.controllable:
            raise ModelError(no_control(self.backend))
        if self.backend.compiled:
            raise ModelError(NO_CONTROL_IF_COMPILED)
        check_pair(pair)
        if not isinstance(control, Control):
            raise ValueError(f"control is of type {type(control).__name__}: expected a Control")
        if negative_prompts is None:
            negative_prompts = [[None] * len(texts) for texts in prompts]
        captions = as_texts("captions", captions)
        request = ControlledEdits(captions, prompts, negative_prompts, control, guidance_scale)
        check_edit(request, pair, steps, self.backend.attention_sides)
        end = pair.schedule.num_steps
        pair, row_faults = pair.to(self.device), Faults()
        if steps is not None:
            pair, row_faults = self.integrate(pair, captions, end - steps)
        states: dict[BatchMember, tuple[torch.Tensor, torch.Tensor]] = {}
        faults: dict[BatchMember, ArithmeticError] = {}
        batches = make_batches(request.counts, pair.batch_size)
        with self._progress_bar("edit", pair, end, len(batches)) as bar:
            for members in batches:
                padded = _pad(members, pair.batch_size)
                with enough_memory(self.device):
                    edited, found = edit_batch(self.direct, pair, request, padded, self._call_counter(bar))
                for slot, (row, j) in enumerate(members):
                    states.setdefault((row, j), (edited.x[slot], edited.y[slot]))
                    fault = row_faults.get(row) or found.get(members.index((row, 0))) or found.get(slot)
                    if fault is not None:
                        faults.setdefault((row, j), fault)
        order = [(row, j) for row, count in enumerate(request.counts) for j in range(count + 1)]
        x, y = (torch.stack([states[member][side] for member in order]) for side in (0, 1))
        by_sample = {i: faults[member] for i, member in enumerate(order) if member in faults}
        return _zero_faults(replace(pair, x=x, y=y, position=end), by_sample), by_sample

    def truncated(self, caption: str) -> bool:
        """Return whether the text encoder reads only the beginning of a caption."""
        return self.backend.truncated(caption)

    def _call_counter(self, bar: "tqdm[None]") -> Callable[[], None]:
        """Return a function that counts a network call, to be called after each one. Announce the first call."""

        def count() -> None:
            bar.update()
            self.on_network_call()

        self.on_network_call()
        return count

    def _progress_bar(self, name: str, pair: Pair, position: int, batches: int) -> "tqdm[None]":
        """Return the progress bar of the network calls that move a pair to `position` in this number of batches."""
        sampler = SAMPLERS[pair.sampling.name]
        calls = batches * len(sampler.evaluated_steps(pair.schedule, pair.position, position))
        return tqdm(
            **{"desc": name, "total": calls, "unit": "call", "delay": 1, "leave": False, **self._progress_bar_config}
        )


def _pad(items: Sequence[T], count: int) -> list[T]:
    """Return `count` items: these, and copies of the last."""
    return [*items, *[items[-1]] * (count - len(items))]


def _zero_faults(pair: Pair, faults: Faults) -> Pair:
    """Set the states of samples with a fault to zero, in place, because they are meaningless and can be huge."""
    pair.x[list(faults)] = pair.y[list(faults)] = 0
    return pair


def _raise_first(pair: Pair, faults: Faults) -> Pair:
    """Return the pair, or raise the fault of its first sample that has one."""
    if faults:
        i, fault = next(iter(faults.items()))
        raise note_sample(fault, i, len(pair))
    return pair
