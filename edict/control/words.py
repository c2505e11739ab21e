"""The words of captions and prompts, by the positions of their CLIP tokens, and the alignment of two texts."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise

import torch
from transformers import CLIPTokenizer

from edict.control.settings import Blend, Control
from edict.models.components import expand_placeholders

Words = list[tuple[str, range]]
"""The words of a text, each with the positions of its tokens."""


class WordNotFound(ValueError):
    """A word in the settings of attention control is missing from the texts."""


def split_words(tokenizer: CLIPTokenizer, text: str) -> Words:
    """Return the words that the text encoder reads. CLIP's byte pairs mark the end of each word.

    Each vector of a textual inversion is one word.
    """
    [expanded] = expand_placeholders(tokenizer, [text])
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(expanded, truncation=True).input_ids)[1:-1]
    added = tokenizer.added_tokens_encoder
    ends = [i for i, token in enumerate(tokens, 1) if token.endswith("</w>") or token in added or i == len(tokens)]
    return [("".join(tokens[a:b]).removesuffix("</w>"), range(a + 1, b + 1)) for a, b in pairwise([0, *ends])]


def align_words(base: Words, edit: Words, length: int) -> torch.Tensor:
    """Return the matrix that maps attention to the tokens of the base to the tokens of the edit.

    The matrix is float32 [length, length], with a row per token of the base and a column per token of the edit.

    Words in both texts, in order, keep their attention (the paper's refinement). A replacement takes the attention of
    the words that it replaces, in equal shares for its tokens (the paper's replacement). The end of the text and the
    padding map to the end and the padding. The column of a token without a counterpart is zero.
    """
    mapping = torch.zeros(length, length)
    for change, old, new in _changes(base, edit):
        if change in ("insert", "delete"):
            continue
        word_by_word = len(old) == len(new)  # otherwise one phrase replaces another
        spans = (_spans(words, word_by_word) for words in (old, new))
        for base_span, edit_span in zip(*spans, strict=True):
            equal = len(base_span) == len(edit_span)
            share = torch.eye(len(base_span)) if equal else 1 / len(edit_span)
            mapping[base_span.start : base_span.stop, edit_span.start : edit_span.stop] = share
    mapping[0, 0] = 1  # the start of the text
    for base_token, edit_token in zip(range(_end(base), length), range(_end(edit), length), strict=False):
        mapping[base_token, edit_token] = 1
    return mapping


def find_phrase(words: Words, phrase: Words) -> list[int]:
    """Return the positions of the tokens of a phrase, which is one or several words, at each of its occurrences."""
    texts, wanted = [word for word, _ in words], [word for word, _ in phrase]
    if not wanted:
        return []
    starts = [i for i in range(len(texts) - len(wanted) + 1) if texts[i : i + len(wanted)] == wanted]
    return [token for i in starts for token in _tokens(words[i : i + len(wanted)])]


def check_words(caption: str, prompt: str, control: Control, tokenizer: CLIPTokenizer) -> None:
    """Check that the words in the settings of a control are in the texts of an edit.

    Raises:
        WordNotFound: The prompt lacks a word with a weight, or neither text has a word of the mask.
    """
    base, edit = split_words(tokenizer, caption), split_words(tokenizer, prompt)
    weighted_tokens(edit, control, tokenizer)
    mask_tokens(base, edit, control, tokenizer)


def weighted_tokens(words: Words, control: Control, tokenizer: CLIPTokenizer) -> list[tuple[list[int], float]]:
    """Return the weights of an edit's prompt, each with the positions of its tokens.

    Raises:
        WordNotFound: The prompt lacks a word with a weight.
    """
    found = [
        (find_phrase(words, split_words(tokenizer, word)), word, weight) for word, weight in control.weights.items()
    ]
    if missing := [word for tokens, word, _ in found if not tokens]:
        raise WordNotFound(
            f"{_quoted(missing)} has a weight, but is not in the prompt, or only in a truncated part of it. Use "
            "words that the model reads"
        )
    return [(tokens, weight) for tokens, _, weight in found]


def mask_tokens(base: Words, edit: Words, control: Control, tokenizer: CLIPTokenizer) -> tuple[list[int], list[int]]:
    """Return the positions of the tokens whose attention makes the mask, in the caption and in the prompt.

    Raises:
        WordNotFound: Neither text has a word of the mask.
    """
    if not isinstance(control.blend, Blend):
        return [], []
    if control.blend.words is None:
        changes = [(old, new) for change, old, new in _changes(base, edit) if change != "equal"]
        changed = [word for old, _ in changes for word in old], [word for _, new in changes for word in new]
        return _tokens(changed[0]), _tokens(changed[1])
    phrases = [split_words(tokenizer, word) for word in control.blend.words]
    found = [[token for phrase in phrases for token in find_phrase(words, phrase)] for words in (base, edit)]
    if not any(found):
        raise WordNotFound(
            f"neither the caption nor the prompt has the words of the mask, {_quoted(control.blend.words)}. Use words "
            "of one of them"
        )
    return found[0], found[1]


def _changes(base: Words, edit: Words) -> list[tuple[str, Words, Words]]:
    """Return the changes from base to edit: equal, replace, insert or delete, with the words of either."""
    matcher = SequenceMatcher(None, [word for word, _ in base], [word for word, _ in edit], autojunk=False)
    return [(change, base[b0:b1], edit[e0:e1]) for change, b0, b1, e0, e1 in matcher.get_opcodes()]


def _spans(words: Words, word_by_word: bool) -> list[range]:
    """Return the span of tokens of each word, or the span of all words as one phrase."""
    spans = [tokens for _, tokens in words]
    return spans if word_by_word else [range(spans[0].start, spans[-1].stop)]


def _end(words: Words) -> int:
    """Return the position of the token that ends the text."""
    return words[-1][1].stop if words else 1


def _tokens(words: Words) -> list[int]:
    return [token for _, tokens in words for token in tokens]


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(map(repr, words))
