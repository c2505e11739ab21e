"""The two job specs, `invert` and `edit`: every field, its bounds and its default.

Types are strict (the text "50" is no number) and unknown fields are refused, so that a slip in a spec is an error and
never a default. Messages raised here complete the sentence "expected ...".
"""

import math
import posixpath
import string
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, Field, JsonValue, ValidationInfo, field_validator, model_validator

from schemas.locations import without_secrets
from schemas.sampling import Sampling, Strength
from schemas.sampling import Strict as Spec
from schemas.where import check_where


def _bare(location: str) -> str:
    if without_secrets(location) != location:
        raise ValueError(
            "a URL without credentials or a query, since it is stored with the job; "
            "credentials are taken from the environment"
        )
    if any(ord(character) < 32 for character in location):
        raise ValueError("a name without control characters")
    return location


def _writable(location: str) -> str:
    if location.startswith(("http://", "https://")):
        raise ValueError("a folder or an object-store URL; a web server can only be read, and not be listed")
    return location


def _table_name(location: str) -> str:
    if not location.lower().endswith(TABLES):
        raise ValueError(f"a file whose name ends in one of {', '.join(TABLES)}")
    return location


TABLES = (".csv", ".parquet", ".jsonl")
PRESETS: Mapping[str, dict[str, dict[str, Any]]] = {
    "paper": {  # as the authors' code edits: github.com/salesforce/EDICT, edict_functions.py, EDICT_editing
        "sampler": {"steps": 50, "strength": 0.8, "guidance_scale": 3.0, "p": 0.93, "steps_offset": 0},
        "image": {"resize": "bicubic", "posterior_seed": 1},
    }
}
TEXT_ARGUMENTS = {"prompt", "negative_prompt", "guidance_scale", "true_cfg_scale", "prompt_embeds", "generator"}
"""The arguments of a pipeline's call that the job itself gives: its captions, prompts, guidance and seed."""
MAX_VARIANTS = 10_000  # of a job: each has its name in memory, and in the plan's count of pictures

Dtype = Literal["float32", "bfloat16", "float16"]

Text = Annotated[str, Field(min_length=1)]
Location = Annotated[Text, AfterValidator(_bare)]
StoreLocation = Annotated[Location, AfterValidator(_writable)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Guidance = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Words = Annotated[str, Field(pattern=r"^\S(.*\S)?$")]


class LoRASpec(Spec):
    """LoRA weights that are added to the model's own."""

    path: Location = Field(description="A .safetensors file, a folder with one, or a hub id.")
    scale: float = Field(1.0, ge=-100, le=100, description="What they are multiplied by.")


class ModelSpec(Spec):
    """The diffusion model: a checkpoint of any text-to-image or text-to-video pipeline of diffusers."""

    path: Location = Field(
        "default",
        description="'default' for the model that ships with the package, a folder in the layout of diffusers, a hub "
        "id, or a .safetensors file (with `config`).",
    )
    config: Location | None = Field(
        None,
        description="Only for a .safetensors file: the folder or hub id with its configurations, and with the "
        "components that the file does not have.",
    )
    revision: Text | None = Field(
        None, description="Branch, tag or commit of a hub id; null takes the hub's default branch."
    )
    variant: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] | None = Field(
        None,
        description="Load the weight files of that name, such as fp16, of every component that has them; null: the "
        "plain files.",
    )
    lora: LoRASpec | None = Field(None, description="LoRA weights; null: none.")
    textual_inversion: Location | Annotated[list[Location], Field(min_length=1)] | None = Field(
        None,
        description="Textual inversions: a .safetensors file, a folder with one, or a hub id; or a list. null: none.",
    )
    quantization: Literal["int8", "int8_dynamic", "float8", "int4"] | None = Field(
        None,
        description="Quantize the weights of the network by torchao; int8_dynamic also quantizes its activations. The "
        "round trip is exact. null: no quantization.",
    )
    call: dict[Text, JsonValue] = Field(
        default_factory=dict,
        description="Further arguments of the pipeline's call, such as height, width and max_sequence_length.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of the network and the text encoders. The round trip is exact in all three. auto: "
        "bfloat16 on GPUs, float32 on CPUs.",
    )
    vae_dtype: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32",
        description="Precision of the autoencoder. tf32, only on GPUs, is float32 with the inputs of products rounded "
        "to TF32.",
    )
    channels_last: bool = Field(
        False,
        description="Lay out the weights of convolutions as [out, height, width, in], in the network and the "
        "autoencoder. It may be faster on GPUs.",
    )
    compile: bool = Field(
        False,
        description="Compile the network with torch.compile, which takes a compiler on every node, and time at the "
        "start. The round trip is as exact; there is no attention control.",
    )

    @field_validator("call")
    @classmethod
    def _check_call(cls, call: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(call.keys() & TEXT_ARGUMENTS):
            raise ValueError(f"no {', '.join(taken)}, which the job itself gives to the call")
        return call


class SamplerSpec(Sampling):
    """The sampler, and the steps of the noise schedule that it executes."""

    steps: Steps = Field(50, description=Sampling.model_fields["steps"].description)
    guidance_scale: Guidance = Field(3.0, description=Sampling.model_fields["guidance_scale"].description)
    steps_offset: int | None = Field(None, ge=0, lt=1000, description=Sampling.model_fields["steps_offset"].description)
    bits: int | None = Field(None, ge=4, le=20, description=Sampling.model_fields["bits"].description)


class ImageSpec(Spec):
    """How a picture becomes the model's input."""

    crop: Literal["center"] = Field(
        "center", description="The largest centred square is kept, then resized to the model's own size."
    )
    resize: Literal["lanczos", "bicubic"] = Field("lanczos", description="The filter of that resizing.")
    posterior_seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="null encodes the mode of the VAE's posterior; a number samples the posterior with that seed.",
    )


class Workers(Spec):
    """Worker processes, each with its own copy of the model."""

    count: int = Field(1, ge=1, description="Number of workers; on a cluster that grows, at most so many.")
    min_count: int | None = Field(
        None,
        ge=0,
        description="How many the cluster must have room for at the start, or the job is refused. null: all of them; "
        "0 on a cluster that starts machines when they are asked for.",
    )

    @property
    def needed(self) -> int:
        """How many the cluster must have room for at once."""
        return self.count if self.min_count is None else self.min_count

    @model_validator(mode="after")
    def _min_is_least(self) -> Self:
        if self.needed > self.count:
            raise ValueError(f"min_count of at most count, but {self.min_count} is more than {self.count}")
        return self


class WorkerSpec(Workers):
    """Workers of an inversion."""

    gpus: float = Field(0.0, ge=0, description="GPUs per worker; a fraction shares one, 0 runs on the CPU.")
    batch_size: int = Field(
        16, ge=1, le=1024, description="Images a batch. Part of the store's fingerprint: exactness holds at one shape."
    )


class EditWorkers(Workers):
    """Workers of an edit."""

    gpus: float | None = Field(
        None,
        ge=0,
        description="GPUs per worker; a fraction shares one, 0 runs on the CPU. null takes as many as the store's "
        "inversion had, which keeps regeneration exact to the bit.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Images a batch. null takes the store's own shape, which keeps regeneration exact to the bit.",
    )


class RejectsSpec(Spec):
    """The share of images that a job may reject and still count as a success."""

    max_share: Share | None = Field(
        None,
        description="The largest share of images that may be rejected. Above it the exit status is 1. Filtered images "
        "do not count. null: no limit.",
    )


class InvertSpec(Spec):
    """Invert every image of the input shards, once, to the pair of latents it regenerates from."""

    kind: Literal["invert"] = Field(description="The kind of job.")
    input: Location | Annotated[list[Location], Field(min_length=1)] = Field(
        description="WebDataset tar shards: one name or a list, local or URL; braces such as {00000..00031} expand."
    )
    output: StoreLocation = Field(description="The latent store to write: a folder or an object-store URL.")
    preset: Literal["paper"] | None = Field(
        None,
        description="Other defaults of sampler and image: paper, those of the authors' code. What is written wins.",
    )
    model: ModelSpec = Field(default_factory=ModelSpec, description="The model.")
    sampler: SamplerSpec = Field(default_factory=SamplerSpec, description="The sampler.")
    image: ImageSpec = Field(default_factory=ImageSpec, description="The preprocessing of images.")
    workers: WorkerSpec = Field(default_factory=WorkerSpec, description="The workers.")
    rejects: RejectsSpec = Field(default_factory=RejectsSpec, description="The limit on rejects.")

    @property
    def dtype(self) -> Dtype:
        """The precision of the network, with `auto` resolved."""
        if self.model.dtype == "auto":
            return "bfloat16" if self.workers.gpus else "float32"
        return self.model.dtype

    @field_validator("output")
    @classmethod
    def _output_is_not_input(cls, output: str, info: ValidationInfo) -> str:
        given = info.data.get("input", [])
        return _apart(output, [given] if isinstance(given, str) else given, "input")

    @model_validator(mode="before")
    @classmethod
    def _preset_under_what_is_written(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("preset"), str):
            return data
        merged = dict(data)
        for section, defaults in PRESETS.get(data["preset"], {}).items():
            written = data.get(section, {})
            if isinstance(written, dict):
                merged[section] = defaults | written
        return merged

    @model_validator(mode="after")
    def _tf32_needs_gpus(self) -> Self:
        if self.model.vae_dtype == "tf32" and not self.workers.gpus:
            raise ValueError("model.vae_dtype tf32 only with workers.gpus, because CPUs have no TF32")
        return self


class MaskSpec(Spec):
    """Where an edit may change the picture; the rest stays as the picture regenerates, to the integer."""

    words: Literal["changed"] | Annotated[list[Words], Field(min_length=1)] | None = Field(
        None,
        description="Where the caption or the prompt attends to these words, or to the words that are 'changed': "
        "prompt-to-prompt's local blend.",
    )
    threshold: Share = Field(0.3, description="Of words: the share of the largest attention above which it is inside.")
    start: Share = Field(0.2, description="Of words: the share of the edit's steps that go by before it is applied.")
    file: Location | None = Field(
        None,
        description="A picture for each row, {key} in its name being the row's: white where the edit may change, at "
        "the source's proportions.",
    )
    pie_bench: Literal[True] | None = Field(None, description="The mask that the edit's PIE-Bench mapping file gives.")

    @field_validator("file")
    @classmethod
    def _keyed(cls, file: str | None) -> str | None:
        if file is not None and "{key}" not in file:
            raise ValueError("a name with {key} in it, which stands for the row's key")
        return file

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        given = [name for name in ("words", "file", "pie_bench") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"exactly one of words, file, pie_bench; {found}")
        of_words = [
            name for name in ("start", "threshold") if getattr(self, name) != MaskSpec.model_fields[name].default
        ]
        if self.words is None and of_words:  # job.json has the defaults of all fields
            raise ValueError(f"{' and '.join(of_words)} with words alone, whose attention has a scale")
        return self


class ControlSpec(Spec):
    """How an edit is held to its picture by the picture's own attention (prompt-to-prompt)."""

    cross_attention: Share = Field(
        0.4,
        description="The share of the edit's steps, from the first, that take the source image's cross-attention, "
        "where words correspond: int(share * (steps + 1)) steps, as cross_replace_steps of prompt-to-prompt.",
    )
    self_attention: Share = Field(
        0.6,
        description="The share of the steps that take the source image's self-attention: int(share * steps) steps, as "
        "self_replace_steps. It acts on maps of up to a quarter of the latent's side, and always up to 16x16.",
    )
    weights: dict[Words, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default_factory=dict,
        description="Multiply the attention to words of the new prompt, in the steps of cross_attention. A prompt that "
        "lacks one is rejected.",
    )
    mask: MaskSpec | None = Field(None, description="Where the edit may change the picture; null: everywhere.")

    @property
    def mask_file(self) -> str | None:
        """The template of the mask files' locations; None if masks are not given by files."""
        return self.mask.file if self.mask else None


class Edit(Spec):
    """One change of the prompt: a template, words or patterns to replace, words around it, or a table of prompts."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64, description="Names the edit's output; distinct within a spec."
    )
    prompt: str | None = Field(
        None, description="Template of the new prompt; {caption} stands for the old one, literal braces are doubled."
    )
    replace: dict[Words, Words | Annotated[list[Words], Field(min_length=1)]] | None = Field(
        None,
        min_length=1,
        description="Whole words of the caption to replace, all at once; lists fan out over every combination.",
    )
    regex: dict[Text, str] | None = Field(
        None,
        min_length=1,
        description="Patterns in RE2 syntax and what they become, one after the other; \\1 is what group 1 holds.",
    )
    prefix: Text | None = Field(None, description="Put before the caption, as it is written.")
    suffix: Text | None = Field(None, description="Put after the caption, as it is written.")
    table: Annotated[Location, AfterValidator(_table_name)] | None = Field(
        None,
        description="A CSV, Parquet or JSONL file of prompts with the columns key and prompt; where it also has the "
        "column name, or a key several rows, they are so many edits. Rows whose key it lacks are left out.",
    )
    pie_bench: Location | None = Field(
        None, description="PIE-Bench's mapping_file.json as it is: keys are its ids, or image paths without .jpg."
    )
    negative_prompt: Text | None = Field(
        None, description="Takes the place of the empty caption that guidance leads away from."
    )
    instruction: Text | None = Field(
        None,
        description="What the edit changes, in words, for a dataset of instructions: {caption} and {prompt} stand for "
        "the two texts, {removed} and {added} for the words in which they differ. null: their difference.",
    )
    control: ControlSpec | None = Field(
        None, description="Attention control; null: none. It needs batches of two or more, and twice the work."
    )
    guidance_scale: Guidance | None = Field(
        None, description="Guidance under the new prompt; null takes the store's own."
    )
    strength: Strength | None = Field(
        None,
        description="Where on the schedule the new prompt takes over, 1 being pure noise; null: the store's own.",
    )
    steps: Steps | None = Field(
        None, description="The same said in steps: how many of the last steps run under the new prompt."
    )

    @property
    def listed(self) -> str | None:
        """The file that its prompts stand in; None where captions make them."""
        return self.table if self.pie_bench is None else self.pie_bench

    @property
    def masked(self) -> bool:
        """Whether its masks are those of its PIE-Bench mapping file."""
        return bool(self.control and self.control.mask and self.control.mask.pie_bench)

    @property
    def variants(self) -> int:
        """How many edits it fans out to, as far as the spec alone tells."""
        return math.prod(len(words) for words in (self.replace or {}).values() if isinstance(words, list))

    @field_validator("prompt")
    @classmethod
    def _prompt_template(cls, prompt: str | None) -> str | None:
        return _template(prompt, ("caption",))

    @field_validator("instruction")
    @classmethod
    def _instruction_template(cls, instruction: str | None) -> str | None:
        return _template(instruction, ("caption", "prompt", "removed", "added"))

    @field_validator("replace")
    @classmethod
    def _distinct(cls, replace: dict[str, str | list[str]] | None) -> dict[str, str | list[str]] | None:
        for key, words in (replace or {}).items():
            if isinstance(words, list) and (twice := _repeated(words)) is not None:
                raise ValueError(f"words without repeats, and {twice!r} is listed twice under {key!r}")
        if (twice := _repeated([key.casefold() for key in replace or {}])) is not None:
            raise ValueError(f"keys that differ in more than case, and {twice!r} is there twice")
        return replace

    @field_validator("regex")
    @classmethod
    def _patterns(cls, regex: dict[str, str] | None) -> dict[str, str] | None:
        for pattern, replacement in (regex or {}).items():
            try:
                pc.replace_substring_regex("", pattern=pattern, replacement=replacement)
            except pa.ArrowInvalid as error:
                raise ValueError(
                    f"patterns in RE2 syntax and what they become, and {pattern!r}: {replacement!r} is not ({error})"
                ) from error
        return regex

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        around = self.prefix if self.suffix is None else self.suffix
        kinds = {"prompt": self.prompt, "replace": self.replace, "regex": self.regex, "prefix or suffix": around}
        kinds |= {"table": self.table, "pie_bench": self.pie_bench}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"exactly one of {', '.join(kinds)}; {found}")
        if self.negative_prompt is not None and self.guidance_scale == 1:
            raise ValueError("a guidance_scale other than 1 with negative_prompt, which guidance alone heeds")
        if self.masked and self.pie_bench is None:
            raise ValueError("pie_bench with control.mask.pie_bench, whose mapping file has the masks")
        if self.strength is not None and self.steps is not None:
            raise ValueError("strength or steps, which say the same thing; both are given")
        return self


class EditImages(Spec):
    """How edited pictures are written."""

    format: Literal["png", "jpeg", "webp"] = Field(
        "png", description="File format of the edited images; png is lossless."
    )
    quality: int | None = Field(
        None, ge=1, le=100, description="Of jpeg and webp, which lose less the higher it is; null: 95. png takes none."
    )

    @model_validator(mode="after")
    def _png_has_no_quality(self) -> Self:
        if self.format == "png" and self.quality is not None:
            raise ValueError(f"no quality with png, which is lossless, and {self.quality} is given; take jpeg or webp")
        return self


class SampleSpec(Spec):
    """A draw of rows, the same whenever it is made."""

    count: int = Field(ge=1, description="How many rows; all, where there are fewer.")
    seed: int = Field(0, ge=0, lt=2**63, description="Another number draws other rows.")


class EditSpec(Spec):
    """Edit the rows of a latent store: regenerate each under changed prompts."""

    kind: Literal["edit"] = Field(description="The kind of job.")
    latents: StoreLocation = Field(description="The latent store to read: a folder or an object-store URL.")
    output: StoreLocation = Field(description="The image shards to write: a folder or an object-store URL.")
    where: Annotated[Text, Field(max_length=20_000), AfterValidator(check_where)] | None = Field(
        None,
        description="Only rows of which this is true: SQL over key, shard, index, caption, width, height, drift, std "
        "and json, which is the sample's own (json->>'field').",
    )
    keys: Location | Annotated[list[Text], Field(min_length=1)] | None = Field(
        None, description="Only rows with these keys: a list, or a text file with a key a line, local or URL."
    )
    sample: SampleSpec | None = Field(None, description="Of those, only a draw.")
    limit: int | None = Field(None, ge=1, description="Of those, only the first so many.")
    edits: list[Edit] = Field(min_length=1, description="The edits; every row gets each one that changes its caption.")
    images: EditImages = Field(default_factory=EditImages, description="The format of the edited images.")
    workers: EditWorkers = Field(default_factory=EditWorkers, description="The workers.")
    rejects: RejectsSpec = Field(default_factory=RejectsSpec, description="The limit on rejects.")
    contact_sheet: int = Field(
        8,
        ge=0,
        le=64,
        description="Rows shown in contact_sheet.png, each also reconstructed under its own caption; 0 for none.",
    )

    @property
    def planned_rows(self) -> bool:
        """True if the plan lists rows, because some are selected, have entries in tables, or have mask files."""
        chosen = (self.where, self.keys, self.sample, self.limit) != (None,) * 4
        return chosen or any(edit.listed or (edit.control and edit.control.mask_file) for edit in self.edits)

    @property
    def files(self) -> list[str]:
        """The locations of all files that the job reads, except for the latent store."""
        masks = [edit.control.mask.file for edit in self.edits if edit.control and edit.control.mask]
        given = [self.keys if isinstance(self.keys, str) else None, *(edit.listed for edit in self.edits), *masks]
        return [location for location in given if location is not None]

    @field_validator("output")
    @classmethod
    def _output_is_not_latents(cls, output: str, info: ValidationInfo) -> str:
        return _apart(output, [info.data["latents"]] if "latents" in info.data else [], "latents")

    @field_validator("edits")
    @classmethod
    def _distinct_names(cls, edits: list[Edit]) -> list[Edit]:
        if (twice := _repeated([edit.name for edit in edits])) is not None:
            raise ValueError(f"edits with distinct names, and {twice!r} is there twice")
        if (count := sum(edit.variants for edit in edits)) > MAX_VARIANTS:
            raise ValueError(f"edits of at most {MAX_VARIANTS:,} variants in all; combined, these lists make {count:,}")
        return edits


JobSpec = Annotated[InvertSpec | EditSpec, Field(discriminator="kind")]

KINDS: Mapping[str, type[InvertSpec] | type[EditSpec]] = {"invert": InvertSpec, "edit": EditSpec}


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of one kind of job, `invert` or `edit`. Raises KeyError for any other."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **KINDS[kind].model_json_schema()}


def _template(text: str | None, names: tuple[str, ...]) -> str | None:
    """Return a template, checked to have only these placeholders."""
    try:
        fields = list(string.Formatter().parse(text or ""))
    except ValueError as error:
        raise ValueError(f"a template with literal braces written twice, {{{{ and }}}} ({error})") from error
    for _, name, form, conversion in fields:
        if name is not None and (name not in names or form or conversion):
            written = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            known = ", ".join(f"{{{name}}}" for name in names)
            raise ValueError(
                f"no placeholder other than {known}, but there is {{{written}}}. Write a literal brace twice"
            )
    return text


def _apart(output: str, others: list[str], field: str) -> str:
    if any(posixpath.normpath(output) == posixpath.normpath(other) for other in others):
        raise ValueError(f"a place other than {field}")
    return output


def _repeated(words: list[str]) -> str | None:
    """The first word that is there twice."""
    return next((word for word, count in Counter(words).items() if count > 1), None)
