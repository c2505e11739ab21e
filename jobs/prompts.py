"""Prompt edits: what a caption becomes under each variant of each edit."""

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyarrow.compute as pc

from jobs.tables import PromptTable, TableError, read_table
from pipeline.plan.edit_task import Edits
from schemas.specs import MAX_VARIANTS, ControlSpec, Edit

NOTHING: Mapping[str, Any] = MappingProxyType({})
_NAME_LENGTH = 100  # a variant's name becomes part of file names

# A word is one whose neighbours do not go on with it. Python's \w leaves out combining marks, without which most Indic
# words and decomposed accents end too early; and scripts written without spaces have no such boundary at all.
_MARKS = "".join(c for c in map(chr, range(0x10000)) if unicodedata.category(c).startswith("M"))
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_INSIDE = rf"(?![{_UNSPACED}])[\w{_MARKS}]"


@dataclass(frozen=True)
class PromptVariant:
    """One way to change captions: an edit, one combination of a replace edit's words, or one name of a table."""

    name: str
    edit: Edit
    words: tuple[tuple[str, str], ...] = ()
    row: str = ""

    @property
    def guidance_scale(self) -> float | None:
        return self.edit.guidance_scale

    @property
    def strength(self) -> float | None:
        return self.edit.strength

    @property
    def steps(self) -> int | None:
        return self.edit.steps

    @property
    def negative_prompt(self) -> str | None:
        return self.edit.negative_prompt

    @property
    def instruction(self) -> str | None:
        return self.edit.instruction

    @property
    def control(self) -> ControlSpec | None:
        return self.edit.control

    def rewrite(self, caption: str, listed: Mapping[str, str] = NOTHING) -> str | None:
        """The new prompt; None when it is the caption itself, so that there is nothing to edit.

        A template that is the caption itself changes the picture all the same where it has a negative prompt. `listed`
        are the prompts that tables give the row.
        """
        edit, prompt = self.edit, None
        if edit.prompt is not None:
            prompt = edit.prompt.format(caption=caption)
            if edit.negative_prompt is not None:
                return prompt
        elif edit.prompt_file is not None:
            prompt = listed.get(self.name)
        elif edit.regex is not None:
            prompt = _substituted(caption, edit.regex)
        elif edit.replace is not None:
            prompt = _replaced(caption, self.words)
        else:
            prompt = f"{edit.prefix or ''}{caption}{edit.suffix or ''}"
        return None if prompt == caption else prompt


def resolve(edits: Sequence[Edit], tables: Mapping[str, PromptTable] | None = None) -> Edits:
    """What a job runs on: its variants, how they make prompts, and what decides them.

    `tables` are those of the edits that have one, by the edit's name, read now if not given. Raises TableError.
    """
    tables = read_tables(edits) if tables is None else tables
    found = variants(edits, tables)
    named = {(variant.edit.name, variant.row): variant.name for variant in found}

    def listed(key: str) -> dict[str, str]:
        return {named[edit, row]: prompt for edit, table in tables.items() for row, prompt in table.of(key).items()}

    masked = [edit.name for edit in edits if edit.has_pie_bench_masks]

    def masks(key: str) -> dict[str, list[int]]:
        return {named[edit, row]: tables[edit].mask(key) for edit in masked for row in tables[edit].of(key)}

    digests = [
        {"pie_bench" if edit.table is None else "table": f"sha256:{tables[edit.name].digest}"}
        if edit.prompt_file
        else {}
        for edit in edits
    ]
    fingerprint = [_decides(edit) | digest for edit, digest in zip(edits, digests, strict=True)]
    return Edits(
        found,
        functools.partial(prompts, variants=found),
        listed if tables else None,
        masks if masked else None,
        fingerprint,
        sum(variant.edit.prompt_file is None for variant in found),
    )


def _decides(edit: Edit) -> dict[str, Any]:
    """Return the fields that determine an edit's images and the rows of its index.

    A job of an earlier version lacks `instruction`. Without the field in the spec, it continues.
    """
    return edit.model_dump(mode="json", exclude={"instruction"} if edit.instruction is None else None)


def read_tables(edits: Iterable[Edit]) -> dict[str, PromptTable]:
    """The tables of those edits that have one, by the edit's name. Raises TableError."""
    return {edit.name: read_table(edit) for edit in edits if edit.prompt_file is not None}


def variants(edits: Sequence[Edit], tables: Mapping[str, PromptTable] = NOTHING) -> list[PromptVariant]:
    """Every edit's variants, in order. A list of words fans out: {dog: [cat, fox]} of "breed": breed-cat, breed-fox.
    So do the names of a table, or the numbers of a key's rows in it.

    Names are unique over all edits and hold only a-z, 0-9, _ and -; a name the spec itself gives is never altered.
    Raises TableError where they are more than MAX_VARIANTS.
    """
    taken = {edit.name for edit in edits}
    if (count := sum(len(table.names) for table in tables.values())) > MAX_VARIANTS:
        raise TableError(f"edits: their tables have {count:,} names in all, expected at most {MAX_VARIANTS:,} variants")
    return [variant for edit in edits for variant in _fan_out(edit, taken, tables)]


def prompts(
    caption: str, listed: Mapping[str, str], variants: Iterable[PromptVariant]
) -> list[tuple[PromptVariant, str]]:
    """The variants that change `caption`, with their prompts. Of an edit's equal prompts only the first is kept:
    where one word of a fan-out is absent from the caption, its alternatives all come to the same."""
    first: dict[tuple[str, str], PromptVariant] = {}
    for variant in variants:
        prompt = variant.rewrite(caption, listed)
        if prompt is not None:
            first.setdefault((variant.edit.name, prompt), variant)
    return [(variant, prompt) for (_, prompt), variant in first.items()]


def _fan_out(edit: Edit, taken: set[str], tables: Mapping[str, PromptTable]) -> list[PromptVariant]:
    if edit.prompt_file is not None:
        rows = tables[edit.name].names
        return [PromptVariant(_unique(f"{edit.name}-{_slug(r)}", taken) if r else edit.name, edit, row=r) for r in rows]
    replace = edit.replace or {}
    fans = [key for key, words in replace.items() if isinstance(words, list)]
    choices = [words if isinstance(words, list) else [words] for words in replace.values()]
    found = []
    for words in itertools.product(*choices):
        pairs = tuple(zip(replace, words, strict=True))
        slugs = [_slug(word) for key, word in pairs if key in fans]
        name = _unique("-".join([edit.name, *slugs]), taken) if fans else edit.name
        found.append(PromptVariant(name, edit, pairs))
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


def _substituted(caption: str, regex: Mapping[str, str]) -> str:
    """One pattern after the other, by RE2 (as pyarrow brings it), whose time grows with the caption and no faster."""
    for pattern, replacement in regex.items():
        caption = pc.replace_substring_regex(caption, pattern=pattern, replacement=replacement).as_py()
    return caption
