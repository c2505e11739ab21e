"""The spec of an edit job."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from schemas.sampling import Strict
from schemas.specs.fields import Location, StoreLocation, Text, check_not_input, first_repeated
from schemas.specs.prompt_edit import MAX_VARIANTS, Edit
from schemas.specs.rejects import RejectsSpec
from schemas.specs.workers import EditWorkers
from schemas.where import check_where


class EditImages(Strict):
    """The format of edited images."""

    format: Literal["png", "jpeg", "webp"] = Field(
        "png", description="File format of the edited images; png is lossless."
    )
    quality: int | None = Field(
        None, ge=1, le=100, description="Quality of jpeg and webp, from 1 to 100. null: 95. png has none."
    )

    @model_validator(mode="after")
    def _check_quality(self) -> Self:
        if self.format == "png" and self.quality is not None:
            raise ValueError("quality has no effect with png, which is lossless; remove it, or use jpeg or webp")
        return self


class SampleSpec(Strict):
    """A random sample of rows. The same seed gives the same rows."""

    count: int = Field(ge=1, description="Number of rows; all rows if there are fewer.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the sample.")


class EditSpec(Strict):
    """Edit the rows of a latent store: regenerate each row under changed prompts."""

    kind: Literal["edit"] = Field(description="The kind of job.")
    latents: StoreLocation = Field(description="The latent store to read: a folder or an object-store URL.")
    output: StoreLocation = Field(description="The image shards to write: a folder or an object-store URL.")
    where: Annotated[Text, Field(max_length=20_000), AfterValidator(check_where)] | None = Field(
        None,
        description="Edit only rows for which this SQL expression is true. Its columns are key, shard, index, caption, "
        "width, height, drift, std and json, the sample's own metadata (json->>'field').",
    )
    keys: Location | Annotated[list[Text], Field(min_length=1)] | None = Field(
        None,
        description="Edit only rows with these keys: a list, or a text file with one key per line, local or URL.",
    )
    sample: SampleSpec | None = Field(None, description="Edit only a random sample of these rows.")
    limit: int | None = Field(None, ge=1, description="Edit at most this number of these rows: the first ones.")
    edits: list[Edit] = Field(min_length=1, description="The edits. Every row gets each edit that changes its caption.")
    images: EditImages = Field(default_factory=EditImages, description="The format of the edited images.")
    workers: EditWorkers = Field(default_factory=EditWorkers, description="The workers.")
    rejects: RejectsSpec = Field(default_factory=RejectsSpec, description="The limit on rejects.")
    contact_sheet: int = Field(
        8,
        ge=0,
        le=64,
        description="Number of rows in contact_sheet.png, each also reconstructed under its own caption. 0: no sheet.",
    )

    @property
    def planned_rows(self) -> bool:
        """True if the plan lists rows, because some are selected, have entries in tables, or have mask files."""
        chosen = (self.where, self.keys, self.sample, self.limit) != (None,) * 4
        return chosen or any(edit.prompt_file or (edit.control and edit.control.mask_file) for edit in self.edits)

    @property
    def files(self) -> list[str]:
        """The locations of all files that the job reads, except for the latent store."""
        masks = [edit.control.mask.file for edit in self.edits if edit.control and edit.control.mask]
        given = [self.keys if isinstance(self.keys, str) else None, *(edit.prompt_file for edit in self.edits), *masks]
        return [location for location in given if location is not None]

    @field_validator("output")
    @classmethod
    def _check_output(cls, output: str, info: ValidationInfo) -> str:
        return check_not_input(output, [info.data["latents"]] if "latents" in info.data else [], "latents")

    @field_validator("edits")
    @classmethod
    def _check_edits(cls, edits: list[Edit]) -> list[Edit]:
        if (twice := first_repeated([edit.name for edit in edits])) is not None:
            raise ValueError(f"two edits have the name {twice!r}; rename one")
        if (count := sum(edit.variants for edit in edits)) > MAX_VARIANTS:
            raise ValueError(
                f"the lists in replace make {count:,} edits; the limit is {MAX_VARIANTS:,}: use fewer words"
            )
        return edits
