"""Prompt edits: what a caption becomes under each variant of each edit."""

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from schemas.specs import Edit

_NAME_LENGTH = 100  # a variant's name becomes part of file names

# A word is one whose neighbours do not go on with it. Python's \w leaves out combining marks, without which most Indic
# words and decomposed accents end too early; and scripts written without spaces have no such boundary at all.
_MARKS = "".join(c for c in map(chr, range(0x10000)) if unicodedata.category(c).startswith("M"))
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_INSIDE = rf"(?![{_UNSPACED}])[\w{_MARKS}]"


@dataclass(frozen=True)
class Variant:
    """One way to change captions: a template edit, or one combination of a replace edit's words."""

    name: str
    edit: str
    prompt: str | None
    replace: tuple[tuple[str, str], ...]
    guidance_scale: float | None
    strength: float | None
    steps: int | None

    def rewrite(self, caption: str) -> str | None:
        """The new prompt; None when it is the caption itself, so that there is nothing to edit."""
        template = self.prompt
        prompt = _replaced(caption, self.replace) if template is None else template.format(caption=caption)
        return None if prompt == caption else prompt


def variants(edits: Sequence[Edit]) -> list[Variant]:
    """Every edit's variants, in order. A list of words fans out: {dog: [cat, fox]} of "breed": breed-cat, breed-fox.

    Names are unique over all edits and hold only a-z, 0-9, _ and -; a name the spec itself gives is never altered.
    """
    taken = {edit.name for edit in edits}
    return [variant for edit in edits for variant in _fan_out(edit, taken)]


def prompts(caption: str, variants: Iterable[Variant]) -> list[tuple[Variant, str]]:
    """The variants that change `caption`, with their prompts. Of an edit's equal prompts only the first is kept:
    where one word of a fan-out is absent from the caption, its alternatives all come to the same."""
    first: dict[tuple[str, str], Variant] = {}
    for variant in variants:
        prompt = variant.rewrite(caption)
        if prompt is not None:
            first.setdefault((variant.edit, prompt), variant)
    return [(variant, prompt) for (_, prompt), variant in first.items()]


def _fan_out(edit: Edit, taken: set[str]) -> list[Variant]:
    replace = edit.replace or {}
    fans = [key for key, words in replace.items() if isinstance(words, list)]
    choices = [words if isinstance(words, list) else [words] for words in replace.values()]
    found = []
    for words in itertools.product(*choices):
        pairs = tuple(zip(replace, words, strict=True))
        slugs = [_slug(word) for key, word in pairs if key in fans]
        name = _unique("-".join([edit.name, *slugs]), taken) if fans else edit.name
        found.append(Variant(name, edit.name, edit.prompt, pairs, edit.guidance_scale, edit.strength, edit.steps))
    return found


def _slug(text: str) -> str:
    """`text` in a-z, 0-9, _ and -; "x" for text that has none of them, such as a word in Han script."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9_]+", "-", plain.lower()).strip("-") or "x"


def _unique(name: str, taken: set[str]) -> str:
    base = name[:_NAME_LENGTH]
    numbered = (f"{base}-{n}" for n in itertools.count(2))
    free = next(candidate for candidate in itertools.chain([base], numbered) if candidate not in taken)
    taken.add(free)
    return free


def _replaced(caption: str, pairs: tuple[tuple[str, str], ...]) -> str:
    ordered = sorted(pairs, key=lambda pair: len(pair[0]), reverse=True)

    def swap(match: re.Match[str]) -> str:
        key, word = ordered[(match.lastindex or 0) - 1]
        # A key written with a capital is a proper name: what replaces it is meant as written ("Tom" to "a man").
        capital = match[0][0].isupper() and not key[0].isupper()
        return word[0].upper() + word[1:] if capital else word

    # One pass over the caption, so that no replacement is itself replaced: {red: blue, blue: red} swaps.
    return _pattern(tuple(key for key, _ in ordered)).sub(swap, caption)


@functools.cache
def _pattern(keys: tuple[str, ...]) -> re.Pattern[str]:
    words = "|".join("(" + r"\s+".join(map(re.escape, key.split())) + ")" for key in keys)
    return re.compile(rf"(?<!{_INSIDE})(?:{words})(?!{_INSIDE})", re.IGNORECASE)
