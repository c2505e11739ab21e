"""Prompt edits: the variants of each edit, and the prompts that they make of a caption."""

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyarrow.compute as pc

from jobs.tables import PromptTable, TableError, read_prompts
from pipeline.plan.edit_task import Edits
from schemas.specs import MAX_VARIANTS, ControlSpec, Edit

EMPTY: Mapping[str, Any] = MappingProxyType({})
MAX_NAME = 100  # characters of a variant's name, which is part of file names

# A word must not be part of a longer word. Python's \w does not match combining marks, so Indic words and decomposed
# accents would end too early. Scripts that are written without spaces have no word boundaries.
_MARKS = "".join(c for c in map(chr, range(0x10000)) if unicodedata.category(c).startswith("M"))
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_INSIDE = rf"(?![{_UNSPACED}])[\w{_MARKS}]"


@dataclass(frozen=True)
class PromptVariant:
    """One way to change captions: an edit, one combination of the words of `replace`, or one name of a table."""

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

    def rewrite(self, caption: str, listed: Mapping[str, str] = EMPTY) -> str | None:
        """Return the prompt for a caption, or None if it is the caption itself, so that there is nothing to edit.

        A template with a negative prompt may give the caption itself, because the negative prompt changes the image.
        `listed` are the prompts of the row in tables, by the name of the variant.
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
    """Return the edits of a job in the form that planning and workers use.

    `tables` are the tables of the edits, by the name of the edit. They are read if they are not given.

    Raises:
        TableError: A table cannot be used, or there are too many variants.
    """
    tables = read_tables(edits) if tables is None else tables
    found = variants(edits, tables)
    name_of = {(variant.edit.name, variant.row): variant.name for variant in found}

    def listed(key: str) -> dict[str, str]:
        return {
            name_of[edit, row]: prompt
            for edit, table in tables.items()
            for row, prompt in table.prompts_of(key).items()
        }

    masked = [edit.name for edit in edits if edit.has_pie_bench_masks]

    def masks(key: str) -> dict[str, list[int]]:
        return {name_of[edit, row]: tables[edit].mask(key) for edit in masked for row in tables[edit].prompts_of(key)}

    digests = [
        {"pie_bench" if edit.table is None else "table": f"sha256:{tables[edit.name].digest}"}
        if edit.prompt_file
        else {}
        for edit in edits
    ]
    fingerprint = [_fingerprint(edit) | digest for edit, digest in zip(edits, digests, strict=True)]
    return Edits(
        found,
        functools.partial(prompts, variants=found),
        listed if tables else None,
        masks if masked else None,
        fingerprint,
        sum(variant.edit.prompt_file is None for variant in found),
    )


def _fingerprint(edit: Edit) -> dict[str, Any]:
    """Return the fields that determine an edit's images and the rows of its index.

    A job of an earlier version lacks `instruction`. Without the field in the spec, it continues.
    """
    return edit.model_dump(mode="json", exclude={"instruction"} if edit.instruction is None else None)


def read_tables(edits: Iterable[Edit]) -> dict[str, PromptTable]:
    """Return the tables of the edits that have one, by the name of the edit. Raises TableError."""
    return {edit.name: read_prompts(edit) for edit in edits if edit.prompt_file is not None}


def variants(edits: Sequence[Edit], tables: Mapping[str, PromptTable] = EMPTY) -> list[PromptVariant]:
    """Return the variants of every edit, in order.

    A list of words gives one variant per word: {dog: [cat, fox]} of the edit "breed" gives breed-cat and breed-fox. A
    table gives one variant per name, or per number if a key has several rows. Names are unique in the job, and only
    have a-z, 0-9, _ and -. The name of an edit in the spec is never changed.

    Raises:
        TableError: The tables have more than MAX_VARIANTS names.
    """
    taken = {edit.name for edit in edits}
    if (count := sum(len(table.names) for table in tables.values())) > MAX_VARIANTS:
        raise TableError(
            f"edits: the tables have {count:,} names in total, expected at most {MAX_VARIANTS:,}. Use fewer names"
        )
    return [variant for edit in edits for variant in _fan_out(edit, taken, tables)]


def prompts(
    caption: str, listed: Mapping[str, str], variants: Iterable[PromptVariant]
) -> list[tuple[PromptVariant, str]]:
    """Return the variants that change a caption, with their prompts.

    If variants of an edit give the same prompt, only the first is returned. This happens if the caption does not have
    the word that a list of words replaces.
    """
    first: dict[tuple[str, str], PromptVariant] = {}
    for variant in variants:
        prompt = variant.rewrite(caption, listed)
        if prompt is not None:
            first.setdefault((variant.edit.name, prompt), variant)
    return [(variant, prompt) for (_, prompt), variant in first.items()]


def _fan_out(edit: Edit, taken: set[str], tables: Mapping[str, PromptTable]) -> list[PromptVariant]:
    """Return the variants of an edit. Their names are not in `taken`, and are added to it."""
    if edit.prompt_file is not None:
        rows = tables[edit.name].names
        return [PromptVariant(_unique(f"{edit.name}-{_slug(r)}", taken) if r else edit.name, edit, row=r) for r in rows]
    replace = edit.replace or {}
    fanned = [key for key, words in replace.items() if isinstance(words, list)]
    choices = [words if isinstance(words, list) else [words] for words in replace.values()]
    found = []
    for words in itertools.product(*choices):
        pairs = tuple(zip(replace, words, strict=True))
        slugs = [_slug(word) for key, word in pairs if key in fanned]
        name = _unique("-".join([edit.name, *slugs]), taken) if fanned else edit.name
        found.append(PromptVariant(name, edit, pairs))
    return found


def _slug(text: str) -> str:
    """Return `text` in a-z, 0-9, _ and -, or "x" if nothing of it is left, as of a word in Han script."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9_]+", "-", plain.lower()).strip("-") or "x"


def _unique(name: str, taken: set[str]) -> str:
    """Return the name, with a number if it is taken, and add it to `taken`."""
    base = name[:MAX_NAME]
    numbered = (f"{base}-{n}" for n in itertools.count(2))
    free = next(candidate for candidate in itertools.chain([base], numbered) if candidate not in taken)
    taken.add(free)
    return free


def _replaced(caption: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """Replace words in a caption. The longest word comes first, and a capital initial is kept."""
    ordered = sorted(pairs, key=lambda pair: len(pair[0]), reverse=True)

    def swap(match: re.Match[str]) -> str:
        key, word = ordered[(match.lastindex or 0) - 1]
        # A key with a capital is a proper name, so its replacement stays as written ("Tom" to "a man").
        capital = match[0][0].isupper() and not key[0].isupper()
        return word[0].upper() + word[1:] if capital else word

    # A single pass does not replace a replacement: {red: blue, blue: red} swaps the two words.
    return _pattern(tuple(key for key, _ in ordered)).sub(swap, caption)


@functools.cache
def _pattern(keys: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern with one group per key, which matches whole words in any case."""
    words = "|".join("(" + r"\s+".join(map(re.escape, key.split())) + ")" for key in keys)
    return re.compile(rf"(?<!{_INSIDE})(?:{words})(?!{_INSIDE})", re.IGNORECASE)


def _substituted(caption: str, regex: Mapping[str, str]) -> str:
    """Replace one pattern after the other, by the RE2 of pyarrow, whose time is linear in the length of the caption."""
    for pattern, replacement in regex.items():
        caption = pc.replace_substring_regex(caption, pattern=pattern, replacement=replacement).as_py()
    return caption
