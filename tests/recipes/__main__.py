"""Generate docs/pipelines.md: `python -m tests.recipes > docs/pipelines.md`."""

import inspect
from collections.abc import Iterator

import diffusers

from edict.models import family_of
from tests.recipes.excluded import EXCLUDED
from tests.recipes.families import NO_IMAGES
from tests.recipes.trial import recipes

TEXT_TO_IMAGE = {"latents", "prompt"}
"""The arguments that the call of a pipeline has if it makes images or videos from text."""
PAGE = """# Pipelines of diffusers

{exact} pipeline classes of diffusers {version} invert and regenerate exactly with `EDICTScheduler`, `BDIAScheduler` and
`OBELMScheduler` ([how to use them](diffusers.md)). {images} of them also invert and generate images with `EDICT(pipe)`.
For {excluded} other classes the table has the reason why they do not work or were not tested. All remaining classes
were not tested. Also not tested: trained checkpoints of the tested classes, and GPUs.

| class | result | class in `edict.models` for images |
|---|---|---|
{rows}

## Tests

Each class runs unmodified, with a small random network, in float32 and bfloat16. The tests use odd and even numbers of
steps, with and without guidance. "Exact" means that all integers are equal after a round trip.

For `EDICT(pipe)`, the tests give embeddings of text instead of captions. They check that decoded images differ from
those of the pipeline by at most 1e-4, and that round trips are exact. A video pipeline generates one frame.

## Classes for images

The last column of the table names the class that converts between images and the latents of the pipeline's loop. With
`PipelineModel` the latents have the layout of the autoencoder and the scale of its configuration, which is the common
convention.

`python -m tests.recipes` generates this page from the recipes in `tests/recipes/`, and a test compares both.
"""


def classes() -> Iterator[str]:
    """Yield the name of every pipeline class of diffusers whose call takes a prompt and latents."""
    for name in sorted(dir(diffusers)):
        kind = getattr(diffusers, name, None) if "Pipeline" in name else None
        if inspect.isclass(kind) and issubclass(kind, diffusers.DiffusionPipeline):
            parameters = inspect.signature(kind.__call__).parameters.keys()
            if parameters >= TEXT_TO_IMAGE and "scheduler" in inspect.signature(kind.__init__).parameters:
                yield name


def page() -> str:
    """Return the text of docs/pipelines.md."""
    variants: dict[str, list[str]] = {}
    for name in recipes():
        kind, _, variant = name.partition(" ")
        variants.setdefault(kind, []).extend([variant] if variant else [])
    rows = []
    for name in sorted({*classes(), *variants, *EXCLUDED}):
        if name in variants:
            also = f"; also {', '.join(variants[name])}" if variants[name] else ""
            images = f"no: {NO_IMAGES[name]}" if name in NO_IMAGES else f"`{family_of(name).__name__}`"
            rows.append(f"| {name} | exact{also} | {images} |")
        else:
            rows.append(f"| {name} | {EXCLUDED.get(name, 'not tested')} | |")
    counts = {"exact": len(variants), "excluded": len(EXCLUDED), "images": len(variants.keys() - NO_IMAGES.keys())}
    return PAGE.format(**counts, version=diffusers.__version__, rows="\n".join(rows))


if __name__ == "__main__":
    print(page(), end="")
