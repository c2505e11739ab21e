"""Batches of bases and edits, and the tensors that attention control needs for one batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import CLIPTokenizer

from edict.control.settings import Control
from edict.control.words import align_words, mask_tokens, split_words, weighted_tokens

BatchMember = tuple[int, int]
"""(row, 0) is the base of a row; (row, j) is its j-th edit, counted from 1."""


def make_batches(counts: Sequence[int], batch_size: int) -> list[list[BatchMember]]:
    """Return the base and the `counts[row]` edits of every row in batches of at most `batch_size`.

    An edit has its base in its batch. The base of a row with more edits than fit is in each of its batches.

    Raises:
        ValueError: `batch_size` is 1, so a batch cannot have both a base and an edit.
    """
    if batch_size < 2 and any(counts):
        raise ValueError(
            "batch_size is 1, but with attention control an edit and its base share a batch. Invert with 2 or more"
        )
    batches: list[list[BatchMember]] = [[]]
    for row, count in enumerate(counts):
        remaining = range(1, count + 1)
        while True:
            if batch_size - len(batches[-1]) < min(2, 1 + len(remaining)):
                batches.append([])
            free = batch_size - len(batches[-1]) - 1
            batches[-1] += [(row, 0), *((row, j) for j in remaining[:free])]
            remaining = remaining[free:]
            if not remaining:
                break
    return batches


@dataclass(frozen=True)
class ControlBatch:
    """The control of a batch of B rows that include E edits, with captions of L tokens.

    Attributes:
        base: int64 [B], the slot of each row's base. A base is its own.
        edits: int64 [E], the slots of the edits.
        mapping: float32 [E, L, L], the `align_words` of each edit.
        weights: float32 [E, L], the factors of the attention to each token.
        words: float32 [E, 2, L], 1 at the tokens of the mask, in the base's caption and in the edit's prompt.
    """

    base: torch.Tensor
    edits: torch.Tensor
    mapping: torch.Tensor
    weights: torch.Tensor
    words: torch.Tensor


def control_batch(
    members: Sequence[BatchMember],
    texts: Sequence[str],
    control: Control,
    tokenizer: CLIPTokenizer,
    device: torch.device,
) -> ControlBatch:
    """Return the control of a batch with these members and one text for each.

    The batch can be padded by copies of a member.

    Raises:
        WordNotFound: The texts of an edit lack a word of the control.
    """
    base = [members.index((row, 0)) for row, _ in members]
    edits = [i for i, (_, j) in enumerate(members) if j]
    length = tokenizer.model_max_length
    mapping = torch.zeros(len(edits), length, length)
    weights, words = torch.ones(len(edits), length), torch.zeros(len(edits), 2, length)
    for e, i in enumerate(edits):
        base_words, edit_words = split_words(tokenizer, texts[base[i]]), split_words(tokenizer, texts[i])
        mapping[e] = align_words(base_words, edit_words, length)
        for tokens, weight in weighted_tokens(edit_words, control, tokenizer):
            weights[e, tokens] = weight
        for side, tokens in enumerate(mask_tokens(base_words, edit_words, control, tokenizer)):
            words[e, side, tokens] = 1
    return ControlBatch(
        torch.tensor(base, device=device),
        torch.tensor(edits, dtype=torch.long, device=device),
        mapping.to(device),
        weights.to(device),
        words.to(device),
    )
