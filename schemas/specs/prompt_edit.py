"""One entry of the `edits` of an edit job: a change of the prompt."""

import math
from typing import Annotated, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from schemas.sampling import Strength, Strict
from schemas.specs.control import ControlSpec
from schemas.specs.fields import Guidance, Location, Steps, TableLocation, Text, Words, check_template, first_repeated

MAX_VARIANTS = 10_000
"""Variants of a job. Each has its name in memory, and in the plan's count of images."""


class Edit(Strict):
    """One change of the prompt: a template, words or patterns to replace, a prefix or suffix, or a table of prompts."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64, description="Name of the edit's output, unique in the spec."
    )
    prompt: str | None = Field(
        None, description="Template of the new prompt. {caption} is the caption; write literal braces twice."
    )
    replace: dict[Words, Words | Annotated[list[Words], Field(min_length=1)]] | None = Field(
        None,
        min_length=1,
        description="Whole words of the caption and their replacements, applied all at once. Lists make one edit for "
        "every combination.",
    )
    regex: dict[Text, str] | None = Field(
        None,
        min_length=1,
        description="Patterns in RE2 syntax and their replacements, applied in order. \\1 is the text of group 1.",
    )
    prefix: Text | None = Field(None, description="Text before the caption, exactly as written.")
    suffix: Text | None = Field(None, description="Text after the caption, exactly as written.")
    table: TableLocation | None = Field(
        None,
        description="A CSV, Parquet or JSONL file of prompts with the columns key and prompt. A column `name`, or "
        "several rows with one key, make several edits. Rows of the store that are not in the table are left out.",
    )
    pie_bench: Location | None = Field(
        None,
        description="The mapping_file.json of PIE-Bench, unchanged. Keys are its ids, or its image paths without .jpg.",
    )
    negative_prompt: Text | None = Field(
        None, description="Negative prompt: it replaces the empty caption in classifier-free guidance."
    )
    instruction: Text | None = Field(
        None,
        description="The instruction for instruction-tuning datasets. {caption} and {prompt} are the two texts, and "
        "{removed} and {added} the words in which they differ. null: made from that difference.",
    )
    control: ControlSpec | None = Field(
        None, description="Attention control. It needs batches of two or more, and doubles the work. null: none."
    )
    guidance_scale: Guidance | None = Field(
        None, description="Guidance scale under the new prompt. null: that of the store."
    )
    strength: Strength | None = Field(
        None,
        description="Share of the schedule that runs under the new prompt; 1 begins at pure noise. null: the strength "
        "of the store.",
    )
    steps: Steps | None = Field(
        None, description="Number of the last steps that run under the new prompt. It replaces strength."
    )

    @property
    def prompt_file(self) -> str | None:
        """The file with the prompts; None if they are made from captions."""
        return self.table if self.pie_bench is None else self.pie_bench

    @property
    def has_pie_bench_masks(self) -> bool:
        """True if the masks are those in the PIE-Bench mapping file."""
        return bool(self.control and self.control.mask and self.control.mask.pie_bench)

    @property
    def variants(self) -> int:
        """The number of edits that the lists in `replace` make."""
        return math.prod(len(words) for words in (self.replace or {}).values() if isinstance(words, list))

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: str | None) -> str | None:
        return check_template(prompt, ("caption",))

    @field_validator("instruction")
    @classmethod
    def _check_instruction(cls, instruction: str | None) -> str | None:
        return check_template(instruction, ("caption", "prompt", "removed", "added"))

    @field_validator("replace")
    @classmethod
    def _check_replace(cls, replace: dict[str, str | list[str]] | None) -> dict[str, str | list[str]] | None:
        for key, words in (replace or {}).items():
            if isinstance(words, list) and (twice := first_repeated(words)) is not None:
                raise ValueError(f"{twice!r} is listed twice under {key!r}; list each word once")
        if (twice := first_repeated([key.casefold() for key in replace or {}])) is not None:
            raise ValueError(f"{twice!r} occurs twice, because upper and lower case do not differ; remove one")
        return replace

    @field_validator("regex")
    @classmethod
    def _check_regex(cls, regex: dict[str, str] | None) -> dict[str, str] | None:
        for pattern, replacement in (regex or {}).items():
            try:
                pc.replace_substring_regex("", pattern=pattern, replacement=replacement)
            except pa.ArrowInvalid as error:
                raise ValueError(
                    f"{pattern!r}: {replacement!r} is not valid in RE2 syntax ({error}); correct it"
                ) from error
        return regex

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        around = self.prefix if self.suffix is None else self.suffix
        kinds = {"prompt": self.prompt, "replace": self.replace, "regex": self.regex, "prefix or suffix": around}
        kinds |= {"table": self.table, "pie_bench": self.pie_bench}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"an edit needs exactly one of {', '.join(kinds)}, but {found}")
        if self.negative_prompt is not None and self.guidance_scale == 1:
            raise ValueError("negative_prompt has no effect at guidance_scale 1; remove it, or set another scale")
        if self.has_pie_bench_masks and self.pie_bench is None:
            raise ValueError("control.mask.pie_bench needs the masks in the mapping file of pie_bench; set pie_bench")
        if self.strength is not None and self.steps is not None:
            raise ValueError("strength and steps have the same meaning, and both are given; remove one")
        return self
