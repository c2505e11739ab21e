"""Hooks that give the edits of a batch the attention of their bases, and the mask from attention maps."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch.utils.hooks import RemovableHandle

from edict.control.batch import ControlBatch

AttentionMaps = dict[int, torch.Tensor]
"""The attention to the words of the mask, summed over heads, layers and steps: float32 [E, 2, Q] by a layer's pixels Q.

The second axis is that of `ControlBatch.words`.
"""


@contextmanager
def controlled_attention(
    unet: UNet2DConditionModel,
    batch: ControlBatch,
    max_tokens: int,
    *,
    cross: bool,
    self_: bool,
    maps: AttentionMaps | None = None,
) -> Iterator[None]:
    """Control the attention of the last B rows of each call of a UNet within the block.

    Edits take the cross-attention of their bases if `cross`, and their self-attention if `self_`. The attention to the
    words of the mask is added to `maps`. Self-attention and `maps` use only layers of at most `max_tokens` pixels.

    The control is made of hooks around the attention, which runs unchanged. The hooks are removed after the block.
    """
    with ExitStack() as hooks:
        for layer in unet.modules():
            if not isinstance(layer, Attention) or not len(batch.edits):
                continue
            if layer.is_cross_attention and (cross or maps is not None):
                for handle in _hook_cross(layer, batch, max_tokens, inject=cross, maps=maps):
                    hooks.enter_context(handle)
            elif self_ and not layer.is_cross_attention:
                for projection in (layer.to_q, layer.to_k):
                    hooks.enter_context(projection.register_forward_hook(_copy_base(batch.base, max_tokens)))
        yield


def _copy_base(base: torch.Tensor, max_tokens: int) -> Callable[..., torch.Tensor | None]:
    """Return a hook that replaces each row of a projection by that of its base.

    With the queries and keys of its base, a row has the self-attention of its base.
    """

    def hook(_: Any, __: Any, projected: torch.Tensor) -> torch.Tensor | None:
        if projected.shape[1] > max_tokens:
            return None
        unconditional = len(projected) - len(base)
        return torch.cat([projected[:unconditional], projected[unconditional:][base]])

    return hook


def _hook_cross(
    layer: Attention, batch: ControlBatch, max_tokens: int, *, inject: bool, maps: AttentionMaps | None
) -> Iterator[RemovableHandle]:
    """Register hooks that add the effect of the controlled probabilities to the output of a cross-attention layer.

    The hooks add a difference, which is zero for an edit in the state of its base. So its bits do not change.
    """
    captured: dict[str, torch.Tensor] = {}
    size, edits, bases = len(batch.base), batch.edits, batch.base[batch.edits]
    aligned = batch.mapping.any(1)[:, None, None]

    def capture(name: str) -> Callable[..., None]:
        def hook(_: Any, __: Any, projected: torch.Tensor) -> None:  # [.., Q or L, heads * D] -> [B, heads, Q or L, D]
            captured[name] = projected[-size:].unflatten(-1, (layer.heads, -1)).transpose(1, 2)

        return hook

    def correct(_: Any, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        query, key, value = (captured.pop(name) for name in ("query", "key", "value"))
        probabilities = (query.float() @ key.float().mT * layer.scale).softmax(-1)  # [B, heads, Q, L]
        of_edit, of_base = probabilities[edits], probabilities[bases]
        wanted = of_edit
        if inject:
            wanted = torch.where(aligned, of_base @ batch.mapping[:, None], of_edit) * batch.weights[:, None, None]
        if maps is not None and query.shape[2] <= max_tokens:
            both = torch.stack([of_base.sum(1), wanted.sum(1)], 1)  # [E, 2, Q, L]
            maps[query.shape[2]] = maps.get(query.shape[2], 0) + (both @ batch.words[..., None]).squeeze(-1)
        difference = ((wanted - of_edit).to(value.dtype) @ value[edits]).transpose(1, 2).flatten(2)
        attended = arguments[0].clone()
        attended[len(attended) - size + edits] += difference
        return (attended,)

    yield layer.to_q.register_forward_hook(capture("query"))
    yield layer.to_k.register_forward_hook(capture("key"))
    yield layer.to_v.register_forward_hook(capture("value"))
    yield layer.to_out[0].register_forward_pre_hook(correct)


def blend_mask(maps: AttentionMaps, threshold: float, size: tuple[int, int]) -> torch.Tensor:
    """Return the mask of each edit, bool [E, H, W] for `size` (H, W): True where it can differ from its base.

    It is the union of the masks from the base's map and from the edit's. A pixel is True where the finest map, widened
    by one of its pixels, exceeds `threshold` times its maximum (LocalBlend in the paper's code).
    """
    finest = maps[max(maps)]
    height = round((finest.shape[-1] * size[0] / size[1]) ** 0.5)
    widened = F.max_pool2d(finest.unflatten(-1, (height, -1)), 3, stride=1, padding=1)
    resized = F.interpolate(widened, size=size)
    return (resized > threshold * resized.amax((2, 3), keepdim=True)).any(1)


def keep_base(states: torch.Tensor, batch: ControlBatch, mask: torch.Tensor) -> torch.Tensor:
    """Return states, int64 [B, C, H, W], with each edit's integers outside its mask, bool [E, H, W], from its base."""
    of_edits, of_bases = states[batch.edits], states[batch.base[batch.edits]]
    return states.index_copy(0, batch.edits, torch.where(mask[:, None], of_edits, of_bases))
