"""The `control` of an edit: attention control (prompt-to-prompt) and masks."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas.sampling import Strict
from schemas.specs.fields import Location, Share, Words


class MaskSpec(Strict):
    """The region that an edit may change. Outside it, the image stays exactly as it regenerates."""

    words: Literal["changed"] | Annotated[list[Words], Field(min_length=1)] | None = Field(
        None,
        description="The region where the caption or the prompt attends to these words, or to the changed words "
        "('changed'), as in prompt-to-prompt's local blend.",
    )
    threshold: Share = Field(
        0.3, description="Only with words: the share of the largest attention above which a point is in the region."
    )
    start: Share = Field(0.2, description="Only with words: the share of the edit's steps before the mask is applied.")
    file: Location | None = Field(
        None,
        description="A mask image per row, with {key} in its name for the row's key. It is white where the edit may "
        "change the image, and has the proportions of the source.",
    )
    pie_bench: Literal[True] | None = Field(
        None, description="Use the masks in the PIE-Bench mapping file of the edit."
    )

    @field_validator("file")
    @classmethod
    def _check_file(cls, file: str | None) -> str | None:
        if file is not None and "{key}" not in file:
            raise ValueError("the name of a mask file must contain {key}, which stands for the row's key")
        return file

    @model_validator(mode="after")
    def _check_one_given(self) -> Self:
        given = [name for name in ("words", "file", "pie_bench") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"a mask needs exactly one of words, file, pie_bench, but {found}")
        # Not the fields that were set, because job.json has the defaults of all fields.
        of_words = [
            name for name in ("start", "threshold") if getattr(self, name) != MaskSpec.model_fields[name].default
        ]
        if self.words is None and of_words:
            raise ValueError(f"{' and '.join(of_words)} can only be used with words; remove it")
        return self


class ControlSpec(Strict):
    """Attention control (prompt-to-prompt): the source's own attention preserves the layout of the image."""

    cross_attention: Share = Field(
        0.4,
        description="The share of the edit's steps, from the first, that take the source's cross-attention where words "
        "correspond: int(share * (steps + 1)) steps, as cross_replace_steps of prompt-to-prompt.",
    )
    self_attention: Share = Field(
        0.6,
        description="The share of the edit's steps that take the source's self-attention: int(share * steps) steps, as "
        "self_replace_steps. It acts on maps of up to a quarter of the latent's side, and always up to 16x16.",
    )
    weights: dict[Words, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default_factory=dict,
        description="Factors of the attention to words of the new prompt, in the steps of cross_attention. A prompt "
        "without one of the words is rejected.",
    )
    mask: MaskSpec | None = Field(None, description="The region that the edit may change. null: the whole image.")

    @property
    def mask_file(self) -> str | None:
        """The template of the mask files' locations; None if masks are not given by files."""
        return self.mask.file if self.mask else None
