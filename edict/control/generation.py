"""The generation of a batch of bases and edits under attention control."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from edict.control.attention import AttentionMaps, blend_mask, controlled_attention, keep_base
from edict.control.batch import BatchMember, ControlBatch, control_batch
from edict.control.settings import Blend, Control, cross_steps, max_attn_tokens, self_steps
from edict.guidance import broadcast_conditions, concat_conditions
from edict.integration import Faults, Integration, Predict, RangeMonitor, solve
from edict.models import Conditions, DirectModel
from edict.pair import Pair
from schemas.sampling import count_executed_steps


@dataclass(frozen=True)
class ControlledEdits:
    """The edits of a pair of N rows: a caption for each row, and a list of prompts and of negative prompts.

    `guidance_scale` applies to the edits; None means the scale of the pair.
    """

    captions: Sequence[str]
    prompts: Sequence[Sequence[str]]
    negative_prompts: Sequence[Sequence[str | None]]
    control: Control
    guidance_scale: float | None

    @property
    def counts(self) -> list[int]:
        """The number of edits of each row."""
        return [len(row) for row in self.prompts]

    def mask_index(self, member: BatchMember) -> int:
        """Return the index of an edit in a mask from files, which has all edits row after row."""
        row, j = member
        return sum(self.counts[:row]) + j - 1


@dataclass(frozen=True)
class ControlledGuidance:
    """Classifier-free guidance with one scale per row, and with attention control in the conditional branch.

    A base regenerates exactly only from network calls of the shape of its inversion, which depends on its `base_scale`:
    one call for both branches, or a call for one branch at scales 0 and 1. A branch that only the edits need is then a
    separate call. At `timesteps_without_cfg` every scale is 1.

    `text` are conditions of B rows, and `empty` of one row, or of B rows with negative captions.
    """

    model: DirectModel
    text: Conditions
    empty: Conditions
    guidance_scales: Sequence[float]
    base_scale: float
    batch: ControlBatch
    timesteps_without_cfg: Container[float] = field(default=())

    def predictor(self, *, cross: bool, self_: bool, maps: AttentionMaps | None) -> Predict:
        """Return the guided prediction. The arguments are those of `controlled_attention`."""
        model, text = self.model, self.text
        # The decisions below use the list, because reading a tensor would wait for the GPU at every step.
        needs_text = any(scale != 0 for scale in self.guidance_scales)
        needs_empty = any(scale != 1 for scale in self.guidance_scales)
        scales = torch.tensor(self.guidance_scales, dtype=torch.float32).to(model.device, non_blocking=True)
        scales = scales[:, None, None, None]
        unconditional = broadcast_conditions(self.empty, text)

        def predict(latents: torch.Tensor, timestep: float) -> torch.Tensor:
            max_tokens = max_attn_tokens(latents[0, 0].numel())
            controlled = partial(
                controlled_attention, model.network, self.batch, max_tokens, cross=cross, self_=self_, maps=maps
            )
            if timestep in self.timesteps_without_cfg:
                with controlled():
                    return model.predict(latents, timestep, text)
            if self.base_scale not in (0, 1):
                both = concat_conditions(unconditional, text)
                with controlled():
                    without, with_text = model.predict(torch.cat([latents, latents]), timestep, both).chunk(2)
            else:
                if needs_empty:
                    without = model.predict(latents, timestep, unconditional)
                if not needs_text:
                    return without
                with controlled():
                    with_text = model.predict(latents, timestep, text)
                if not needs_empty:
                    return with_text
            return torch.where(scales == 1, with_text, without + scales * (with_text - without))

        return predict


def edit_batch(
    model: DirectModel,
    pair: Pair,
    request: ControlledEdits,
    members: list[BatchMember],
    on_answer: Callable[[], object],
) -> tuple[Pair, Faults]:
    """Run one batch of a request from the pair's position. Return its clean pair, and its faults by slot.

    Raises:
        WordNotFound: The texts of an edit lack a word of the control.
    """
    control, base_scale = request.control, pair.guidance_scale
    edit_scale = base_scale if request.guidance_scale is None else request.guidance_scale
    texts = [request.prompts[row][j - 1] if j else request.captions[row] for row, j in members]
    negatives = [request.negative_prompts[row][j - 1] if j else None for row, j in members]
    guidance = ControlledGuidance(
        model,
        model.condition(texts),
        model.negative_conditions(negatives),
        [edit_scale if j else base_scale for _, j in members],
        base_scale,
        control_batch(members, texts, control, model.tokenizer, model.device),
        pair.timesteps_without_cfg,
    )
    mask = None
    if isinstance(control.blend, torch.Tensor):
        mask = control.blend[[request.mask_index(member) for member in members if member[1]]].to(model.device)
    return generate(pair[[row for row, _ in members]], guidance, control, mask, on_answer)


def generate(
    pair: Pair,
    guidance: ControlledGuidance,
    control: Control,
    mask: torch.Tensor | None,
    on_answer: Callable[[], object] | None = None,
) -> tuple[Pair, Faults]:
    """Generate a batch of bases and edits to the clean end. Return its pair, and its faults by slot.

    `mask`, bool [E, H, W], is a mask from files. `on_answer` is called after each network call. After each step, an
    edit's integers outside a mask become those of its base. They are copied, not averaged.
    """
    blend, monitor = control.blend, RangeMonitor(pair.x)
    steps = pair.schedule.num_steps - pair.position
    maps = AttentionMaps() if isinstance(blend, Blend) else None
    for step in range(steps):
        cross, self_ = step < cross_steps(control, steps), step < self_steps(control, steps)
        predict = guidance.predictor(cross=cross, self_=self_, maps=maps)
        pair = solve(Integration(pair, pair.position + 1, monitor, on_answer), predict)
        if isinstance(blend, Blend) and maps and step >= count_executed_steps(steps, blend.start):
            mask = blend_mask(maps, blend.threshold, (pair.x.shape[2], pair.x.shape[3]))
        if mask is not None:
            x, y = (keep_base(state, guidance.batch, mask) for state in (pair.x, pair.y))
            pair = replace(pair, x=x, y=y)
    return pair, monitor.faults(pair.bits)
