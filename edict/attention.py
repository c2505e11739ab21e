"""Prompt-to-prompt (Hertz et al., 2208.01626): an edit that keeps the attention maps of the picture it is an edit of.

A row's base, regenerated under its own caption, and its edits share a batch, and for the first steps an edit attends
as its base does. A base's rows are not touched: they take the same path through the same kernels as without control,
so they regenerate the same integers. This requires that a row's bits do not depend on its slot, because bases and
edits may be in any slots of a batch. UNets have this property on one CPU thread (`python -m tests.campaigns.slots`).
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch.utils.hooks import RemovableHandle
from transformers import CLIPTokenizer

from edict.guidance import expanded, joined
from edict.integration import Faults, Integration, Predict, RangeMonitor, solve
from edict.models import Conditions, DirectModel
from edict.models.components import expanded as expanded_placeholders
from edict.pair import Pair
from schemas.sampling import count_executed_steps

SD1_ATTN_TOKENS = 16 * 16
"""The limit of the paper's code, in pixels of an attention map, for Stable Diffusion 1 with its 64x64 latents."""


def max_attn_tokens(latents: int) -> int:
    """Return the largest number of attention tokens (pixels of a map) that self-attention and masks of words use.

    `latents` is the number of pixels of a latent. Finer layers draw the detail that an edit changes. The paper's code
    has 16x16 for 64x64 latents, a quarter of the side: SDXL's 128x128 give 32x32. Smaller models, such as the shipped
    one with 8x8, are controlled in every layer.
    """
    return max(SD1_ATTN_TOKENS, latents // 16)


def cross_steps(control: "Control", steps: int) -> int:
    """Return the number of an edit's `steps` that take the base's cross-attention: int(share * (steps + 1)).

    The paper's code does the same: its table of the window has one entry more than there are steps.
    """
    return min(steps, count_executed_steps(steps + 1, control.cross))


def self_steps(control: "Control", steps: int) -> int:
    """Return the number of an edit's `steps` that take the base's self-attention: int(share * steps)."""
    return count_executed_steps(steps, control.self_)


def without_effect(control: "Control", steps: int, latent_side: int, sides: Sequence[int]) -> str | None:
    """Return a part of a control that has no effect on an edit of `steps`, and the remedy; None if all have one.

    `sides` are the sides of the model's attention maps.
    """
    limit = max_attn_tokens(latent_side**2)
    within = [side for side in sides if side**2 <= limit]
    maps = ", ".join(f"{side}x{side}" for side in sides)
    too_fine = f"the model has no attention map of at most {limit} pixels (its maps: {maps})"
    if self_steps(control, steps) and not within:
        return f"self-attention has no effect: {too_fine}. Set it to 0"
    if isinstance(control.blend, Blend):
        if not within:
            return f"a mask of words has no effect: {too_fine}. Use a mask from files"
        if count_executed_steps(steps, control.blend.start) == steps:
            return f"the mask of words starts after all {steps} steps. Lower mask.start"
    if control.weights and not cross_steps(control, steps):
        return (
            f"weights have no effect: they act in the steps of cross-attention, and its share {control.cross:g} "
            f"gives 0 of {steps} steps. Raise the share"
        )
    if control.blend is None and not cross_steps(control, steps) and not self_steps(control, steps):
        return (
            f"the control has no effect: the shares {control.cross:g} (cross-attention) and {control.self_:g} "
            f"(self-attention) give 0 of {steps} steps, and there is no mask. Raise a share or the number of steps, or "
            "remove the control"
        )
    return None


def matches_earlier_versions(control: "Control", steps: int, latent_side: int, sides: Sequence[int]) -> bool:
    """Return whether an edit has the integers that earlier versions gave it.

    In earlier versions the window of cross-attention was int(share * steps), weights acted at every step, and the limit
    of maps was 16x16 for every model.
    """
    added = [side for side in sides if SD1_ATTN_TOKENS < side**2 <= max_attn_tokens(latent_side**2)]
    uses_maps = self_steps(control, steps) > 0 or isinstance(control.blend, Blend)
    return (
        cross_steps(control, steps) == count_executed_steps(steps, control.cross)
        and (not control.weights or cross_steps(control, steps) == steps)
        and not (added and uses_maps)
    )


class WordNotFound(ValueError):
    """A word that control names is in none of the texts it is looked for in."""


@dataclass(frozen=True)
class Blend:
    """A mask made from cross-attention maps (the paper's code, LocalBlend): what is outside it stays the base's.

    A pixel is inside where the map of `words`, averaged over heads, layers and the steps so far, in the base's caption
    or in the edit's, is above `threshold` times its maximum. `words` None is the words that the edit changes. It is
    applied after the first `start` of the steps.
    """

    words: tuple[str, ...] | None = None
    threshold: float = 0.3
    start: float = 0.2


@dataclass(frozen=True)
class Control:
    """How an edit is held to its base.

    `cross` and `self_` are the shares of the edit's steps, from the first, that take the base's cross- and
    self-attention probabilities: int(cross * (steps + 1)) and int(self_ * steps). `weights` multiply the attention to
    words of the edit's caption within the window of `cross` (the paper's re-weighting). `blend` is a Blend, or bool
    [E, H, W] at the latents' size for E edits, row after row: True where an edit may differ.
    """

    cross: float = 0.4
    self_: float = 0.6
    weights: Mapping[str, float] = field(default_factory=dict)
    blend: Blend | torch.Tensor | None = None

    def __post_init__(self) -> None:
        shares = {"cross": self.cross, "self_": self.self_}
        if isinstance(self.blend, Blend):
            shares |= {"blend.threshold": self.blend.threshold, "blend.start": self.blend.start}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}: a share lies between 0 and 1")


BatchMember = tuple[int, int]
"""(row, 0) is the row's base, (row, j) its j-th edit, from 1."""


def batches(counts: Sequence[int], batch_size: int) -> list[list[BatchMember]]:
    """The base and the `counts[row]` edits of every row, in batches of at most `batch_size`.

    Every edit has its base in its batch: a row with more edits than fit has its base again in the next. Raises
    ValueError where none fits.
    """
    if batch_size < 2 and any(counts):
        raise ValueError(
            "batch_size is 1: with attention control an edit and its base share a batch; invert with 2 or more"
        )
    packed: list[list[BatchMember]] = [[]]
    for row, count in enumerate(counts):
        left = range(1, count + 1)
        while True:
            if batch_size - len(packed[-1]) < min(2, 1 + len(left)):
                packed.append([])
            room = batch_size - len(packed[-1]) - 1
            packed[-1] += [(row, 0), *((row, j) for j in left[:room])]
            left = left[room:]
            if not left:
                break
    return packed


Words = list[tuple[str, range]]
"""The words of a caption, each with the positions of its tokens."""


def split(tokenizer: CLIPTokenizer, caption: str) -> Words:
    """The words that the text encoder sees, as CLIP's byte pairs end them."""
    [written] = expanded_placeholders(tokenizer, [caption])
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(written, truncation=True).input_ids)[1:-1]
    added = tokenizer.added_tokens_encoder  # Each vector of a textual inversion is a word.
    ends = [i for i, token in enumerate(tokens, 1) if token.endswith("</w>") or token in added or i == len(tokens)]
    return [("".join(tokens[a:b]).removesuffix("</w>"), range(a + 1, b + 1)) for a, b in pairwise([0, *ends])]


def align(base: Words, edit: Words, length: int) -> torch.Tensor:
    """How the attention to a base's tokens becomes that to its edit's: float [length, length], base by edit.

    Words in both captions, in order, keep theirs (the paper's refinement); words that replace others get theirs, shared
    evenly among their tokens (its replacement); the end of the text and the padding go with the end and the padding.
    A column of zeros is a token that has no counterpart.
    """
    mapping = torch.zeros(length, length)
    for change, old, new in _changes(base, edit):
        if change in ("insert", "delete"):
            continue
        one_by_one = len(old) == len(new)  # or else a phrase for a phrase
        for these, those in zip(*(_spans(words, one_by_one) for words in (old, new)), strict=True):
            block = torch.eye(len(these)) if len(these) == len(those) else 1 / len(those)
            mapping[these.start : these.stop, those.start : those.stop] = block
    mapping[0, 0] = 1  # the start of the text
    for this, that in zip(range(_end(base), length), range(_end(edit), length), strict=False):
        mapping[this, that] = 1
    return mapping


def _changes(base: Words, edit: Words) -> list[tuple[str, Words, Words]]:
    """What makes the edit's words of the base's: equal, replace, insert or delete, and the words of either."""
    matcher = SequenceMatcher(None, [word for word, _ in base], [word for word, _ in edit], autojunk=False)
    return [(change, base[b0:b1], edit[e0:e1]) for change, b0, b1, e0, e1 in matcher.get_opcodes()]


def _spans(words: Words, one_by_one: bool) -> list[range]:
    spans = [tokens for _, tokens in words]
    return spans if one_by_one else [range(spans[0].start, spans[-1].stop)]


def _end(words: Words) -> int:
    """Where the end of the text stands."""
    return words[-1][1].stop if words else 1


def find(words: Words, phrase: Words) -> list[int]:
    """The positions of the tokens of a word, or of several in a row, wherever they occur."""
    texts, sought = [word for word, _ in words], [word for word, _ in phrase]
    places = [i for i in range(len(texts) - len(sought) + 1) if sought and texts[i : i + len(sought)] == sought]
    return [token for i in places for token in _tokens(words[i : i + len(sought)])]


def _tokens(words: Words) -> list[int]:
    return [token for _, tokens in words for token in tokens]


@dataclass(frozen=True)
class Rows:
    """What control asks of a batch of B rows of which E are edits, captions being L tokens long.

    `base` int64 [B] is the place of each row's base, its own for a base; `edits` int64 [E] are the places of the
    edits. Of each edit: `mapping` float32 [E, L, L] is `align`'s, `weights` float32 [E, L] multiply its attention,
    `words` float32 [E, 2, L] is 1 at the tokens, in the base's caption and in its own, that its mask is made from.
    """

    base: torch.Tensor
    edits: torch.Tensor
    mapping: torch.Tensor
    weights: torch.Tensor
    words: torch.Tensor


def rows(
    members: Sequence[BatchMember],
    captions: Sequence[str],
    control: Control,
    tokenizer: CLIPTokenizer,
    device: torch.device,
) -> Rows:
    """The Rows of a batch with these members, each under its caption. A place more than once is the batch's padding.

    Raises WordNotFound.
    """
    base = [members.index((row, 0)) for row, _ in members]
    edits = [i for i, (_, edit) in enumerate(members) if edit]
    length = tokenizer.model_max_length
    mapping = torch.zeros(len(edits), length, length)
    weights, words = torch.ones(len(edits), length), torch.zeros(len(edits), 2, length)
    for e, i in enumerate(edits):
        theirs, ours = split(tokenizer, captions[base[i]]), split(tokenizer, captions[i])
        mapping[e] = align(theirs, ours, length)
        for tokens, weight in _weighted(ours, control, tokenizer):
            weights[e, tokens] = weight
        for side, tokens in enumerate(_masked(theirs, ours, control, tokenizer)):
            words[e, side, tokens] = 1
    return Rows(
        torch.tensor(base, device=device),
        torch.tensor(edits, dtype=torch.long, device=device),
        mapping.to(device),
        weights.to(device),
        words.to(device),
    )


def check(caption: str, prompt: str, control: Control, tokenizer: CLIPTokenizer) -> None:
    """Raises WordNotFound where a word that `control` names is not in the prompt, or not in either text for a mask."""
    theirs, ours = split(tokenizer, caption), split(tokenizer, prompt)
    _weighted(ours, control, tokenizer)
    _masked(theirs, ours, control, tokenizer)


def _weighted(words: Words, control: Control, tokenizer: CLIPTokenizer) -> list[tuple[list[int], float]]:
    """The tokens of an edit's prompt that have a weight."""
    found = [(find(words, split(tokenizer, word)), word, weight) for word, weight in control.weights.items()]
    if missing := [word for tokens, word, _ in found if not tokens]:
        raise WordNotFound(f"{_quoted(missing)} has a weight, but is not in the prompt as far as the model reads it")
    return [(tokens, weight) for tokens, _, weight in found]


def _masked(base: Words, edit: Words, control: Control, tokenizer: CLIPTokenizer) -> tuple[list[int], list[int]]:
    """The tokens of a base's and of its edit's caption that the mask is made from."""
    if not isinstance(control.blend, Blend):
        return [], []
    if control.blend.words is None:
        changes = [(old, new) for change, old, new in _changes(base, edit) if change != "equal"]
        sides = [word for old, _ in changes for word in old], [word for _, new in changes for word in new]
        return _tokens(sides[0]), _tokens(sides[1])
    phrases = [split(tokenizer, word) for word in control.blend.words]
    found = [[token for phrase in phrases for token in find(words, phrase)] for words in (base, edit)]
    if not any(found):
        raise WordNotFound(f"the mask is of {_quoted(control.blend.words)}, which neither caption nor prompt has")
    return found[0], found[1]


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(map(repr, words))


Maps = dict[int, torch.Tensor]
"""The attention to the mask's words, summed over heads, layers and steps: by a layer's pixels Q, float32 [E, 2, Q]."""


@contextmanager
def attending(
    unet: UNet2DConditionModel, rows: Rows, limit: int, *, cross: bool, self_: bool, maps: Maps | None = None
) -> Iterator[None]:
    """Inside, the last B rows of a call of the UNet attend as `rows` says; `maps`, where there are any, are added to.

    Self-attention is replaced, and maps are added to, where a map has at most `limit` pixels.
    By hooks around the attention, which itself runs as it always does. None of them outlives the block.
    """
    with ExitStack() as hooks:
        for layer in unet.modules():
            if not isinstance(layer, Attention) or not len(rows.edits):
                continue
            if layer.is_cross_attention and (cross or maps is not None):
                for handle in _hook_cross(layer, rows, limit, inject=cross, maps=maps):
                    hooks.enter_context(handle)
            elif self_ and not layer.is_cross_attention:
                for projection in (layer.to_q, layer.to_k):
                    hooks.enter_context(projection.register_forward_hook(_of_base(rows.base, limit)))
        yield


def _of_base(base: torch.Tensor, limit: int) -> Callable[..., torch.Tensor | None]:
    """Every row is projected as its base is: of queries and keys, its self-attention is then its base's."""

    def hook(_: Any, __: Any, projected: torch.Tensor) -> torch.Tensor | None:
        if projected.shape[1] > limit:
            return None
        skipped = len(projected) - len(base)
        return torch.cat([projected[:skipped], projected[skipped:][base]])

    return hook


def _hook_cross(
    layer: Attention, rows: Rows, limit: int, *, inject: bool, maps: Maps | None
) -> Iterator[RemovableHandle]:
    """Add to what a layer attended to for an edit the difference that other probabilities make; nothing to a base.

    So an edit that has its base's states is left with them, to the last bit.
    """
    seen: dict[str, torch.Tensor] = {}
    size, edits, bases = len(rows.base), rows.edits, rows.base[rows.edits]
    aligned = rows.mapping.any(1)[:, None, None]

    def keep(name: str) -> Callable[..., None]:
        def hook(_: Any, __: Any, projected: torch.Tensor) -> None:  # [.., Q or L, heads * D] -> [B, heads, Q or L, D]
            seen[name] = projected[-size:].unflatten(-1, (layer.heads, -1)).transpose(1, 2)

        return hook

    def correct(_: Any, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        query, key, value = (seen.pop(name) for name in ("query", "key", "value"))
        everyone = (query.float() @ key.float().mT * layer.scale).softmax(-1)  # [B, heads, Q, L]
        own, of_base = everyone[edits], everyone[bases]
        wanted = own
        if inject:
            wanted = torch.where(aligned, of_base @ rows.mapping[:, None], own) * rows.weights[:, None, None]
        if maps is not None and query.shape[2] <= limit:
            both = torch.stack([of_base.sum(1), wanted.sum(1)], 1)  # [E, 2, Q, L]
            maps[query.shape[2]] = maps.get(query.shape[2], 0) + (both @ rows.words[..., None]).squeeze(-1)
        difference = ((wanted - own).to(value.dtype) @ value[edits]).transpose(1, 2).flatten(2)
        attended = arguments[0].clone()
        attended[len(attended) - size + edits] += difference
        return (attended,)

    yield layer.to_q.register_forward_hook(keep("query"))
    yield layer.to_k.register_forward_hook(keep("key"))
    yield layer.to_v.register_forward_hook(keep("value"))
    yield layer.to_out[0].register_forward_pre_hook(correct)


def mask(maps: Maps, threshold: float, size: tuple[int, int]) -> torch.Tensor:
    """Where each edit may differ, bool [E, H, W] for `size` (H, W): the union of its base's map and its own.

    Where the finest maps, widened by a pixel of theirs, are above `threshold` of their largest value, as in LocalBlend.
    """
    finest = maps[max(maps)]
    height = round((finest.shape[-1] * size[0] / size[1]) ** 0.5)
    widened = F.max_pool2d(finest.unflatten(-1, (height, -1)), 3, stride=1, padding=1)
    drawn = F.interpolate(widened, size=size)
    return (drawn > threshold * drawn.amax((2, 3), keepdim=True)).any(1)


def guided(
    model: DirectModel,
    text: Conditions,
    empty: Conditions,
    guidance_scales: Sequence[float],
    base_scale: float,
    rows: Rows,
    timesteps_without_cfg: Container[float] = (),
    *,
    cross: bool,
    self_: bool,
    maps: Maps | None,
) -> Predict:
    """`guidance.guided` with a scale per row, and `attending` in the conditional branch.

    A base comes back exactly from calls of the shape it was inverted in, and that is what its `base_scale` decides:
    both branches in one call, or, at 0 and 1, one; the branch that only the edits need is then a call of its own.
    At the timesteps `unguided` every scale is 1.
    """
    # The decisions below use the list, because a tensor's values would wait for the GPU at every step.
    scales = torch.tensor(guidance_scales, dtype=torch.float32).to(model.device, non_blocking=True)[:, None, None, None]
    unconditional = expanded(empty, text)
    needs_text, needs_empty = any(scale != 0 for scale in guidance_scales), any(scale != 1 for scale in guidance_scales)

    def predict(latents: torch.Tensor, timestep: float) -> torch.Tensor:
        limit = max_attn_tokens(latents[0, 0].numel())
        inject = partial(attending, model.network, rows, limit, cross=cross, self_=self_, maps=maps)
        if timestep in timesteps_without_cfg:
            with inject():
                return model.predict(latents, timestep, text)
        if base_scale not in (0, 1):
            with inject():
                twice = torch.cat([latents, latents])
                without, with_text = model.predict(twice, timestep, joined(unconditional, text)).chunk(2)
        else:
            if needs_empty:
                without = model.predict(latents, timestep, unconditional)
            if not needs_text:
                return without
            with inject():
                with_text = model.predict(latents, timestep, text)
            if not needs_empty:
                return with_text
        return torch.where(scales == 1, with_text, without + scales * (with_text - without))

    return predict


def generate(
    pair: Pair,
    predictor: Callable[..., Predict],
    rows: Rows,
    control: Control,
    allowed: torch.Tensor | None,
    on_answer: Callable[[], object] | None = None,
) -> tuple[Pair, Faults]:
    """Generate a batch of bases and edits to the clean end, step by step. Return its pair, and its faults by row.

    `predictor` is `guided` but for its keywords; `allowed` bool [E, H, W], or None, is the mask where one is given.
    `on_answer` is called after each network call. Outside a mask an edit's integers become its base's, after each
    step; no mean is taken.
    """
    depth, blend, monitor = pair.schedule.num_steps, control.blend, RangeMonitor(pair.x)
    steps = depth - pair.position
    maps = Maps() if isinstance(blend, Blend) else None
    for done in range(steps):
        cross, self_ = done < cross_steps(control, steps), done < self_steps(control, steps)
        predict = predictor(cross=cross, self_=self_, maps=maps)
        pair = solve(Integration(pair, pair.position + 1, monitor, on_answer), predict)
        if isinstance(blend, Blend) and maps and done >= count_executed_steps(steps, blend.start):
            allowed = mask(maps, blend.threshold, (pair.x.shape[2], pair.x.shape[3]))
        if allowed is not None:
            pair = replace(pair, x=blended(pair.x, rows, allowed), y=blended(pair.y, rows, allowed))
    return pair, monitor.faults(pair.bits)


def blended(states: torch.Tensor, rows: Rows, allowed: torch.Tensor) -> torch.Tensor:
    """int64 [B, C, H, W] with each edit's integers outside its mask, bool [E, H, W], replaced by its base's."""
    ours, theirs = states[rows.edits], states[rows.base[rows.edits]]
    return states.index_copy(0, rows.edits, torch.where(allowed[:, None], ours, theirs))
