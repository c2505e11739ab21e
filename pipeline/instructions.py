"""Instructions of edits: texts that describe the change, as in InstructPix2Pix's training data."""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from string import whitespace

WORD = re.compile(r"\w+|[^\w\s]")

MAX_MATCHED_WORDS = 200  # per text; the time grows with the cube of their number

_EDGES = whitespace + "\u00a0\u3000,;:"


def changes(caption: str, prompt: str) -> Iterator[tuple[slice, slice]]:
    """Yield the differences between a caption and a prompt in words: a slice of the caption and one of the prompt.

    One of the two is empty if words are only added or only removed. If a text has more than MAX_MATCHED_WORDS words,
    everything between the common beginning and the common end is one difference.
    """
    old, new = (list(WORD.finditer(text)) for text in (caption, prompt))
    before, after = ([word[0] for word in words] for words in (old, new))
    if max(len(old), len(new)) > MAX_MATCHED_WORDS:
        first = _common(before, after)
        last = _common(before[first:][::-1], after[first:][::-1])
        if before != after:
            yield _slice(old, first, len(old) - last), _slice(new, first, len(new) - last)
        return
    for tag, *bounds in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            yield _slice(old, *bounds[:2]), _slice(new, *bounds[2:])


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the common beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def instruction_of(template: str | None, caption: str, prompt: str, negative_prompt: str | None) -> str:
    """Return the instruction of an edit of one row.

    The `template` may have {caption}, {prompt}, {removed} (the words that the prompt lacks) and {added} (the words that
    it adds). Without a template the instruction is the difference of the texts, such as 'replace "dog" with "cat"'.
    """
    found = [(_trim(caption[old]), _trim(prompt[new])) for old, new in changes(caption, prompt)]
    if template is not None:
        removed, added = (", ".join(filter(None, side)) for side in zip(*found, strict=True)) if found else ("", "")
        return template.format(caption=caption, prompt=prompt, removed=removed, added=added)
    changed = [text for removed, added in found if (text := _describe(removed, added))]
    if not found and negative_prompt is not None:
        changed = [f'avoid "{negative_prompt}"']
    return ", ".join(changed) or f'change the image to "{prompt}"'


def _trim(text: str) -> str:
    return text.lstrip(_EDGES + ".").rstrip(_EDGES)


def _describe(removed: str, added: str) -> str:
    if removed and added:
        return f'replace "{removed}" with "{added}"'
    if added:
        return f'add "{added}"'
    return f'remove "{removed}"' if removed else ""


def _slice(words: list[re.Match[str]], first: int, last: int) -> slice:
    return slice(words[first].start(), words[last - 1].end()) if first < last else slice(0, 0)
