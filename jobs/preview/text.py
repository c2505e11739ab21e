"""The preview of a job as text."""

from jobs.preview.data import EditPreview, InvertPreview, Preview

MAX_KEY = 200  # characters of a key that are shown


def as_text(preview: Preview) -> str:
    """Return the preview as lines with a label each."""
    return "\n".join(_invert(preview) if isinstance(preview, InvertPreview) else _edit(preview))


def _invert(preview: InvertPreview) -> list[str]:
    counts = "".join(f"  {name} {count}" for name, count in preview.rejects.items())
    size = preview.image_size
    parameters = "".join(f", {name} {value:g}" for name, value in preview.parameters.items())
    interval = preview.guidance_interval
    within = "" if interval is None else " at noise levels from {:g} to {:g}".format(*interval)
    verb = "is" if preview.repeated_keys == 1 else "are"
    repeated = (
        f"{_count(preview.repeated_keys, 'key')} {verb} in several shards; a list of `keys` selects all their rows"
    )
    return [
        f"invert {_count(preview.samples, 'sample')} from {_count(preview.shards, 'shard')} into {preview.output}",
        f"  accepted      {preview.accepted}, judged by their headers",
        f"  rejected      {preview.rejected}{counts}",
        *(
            f"    - {reject.error}: {_shortened(reject.key)!r} of {reject.shard}: {reject.message}"
            for reject in preview.reject_examples
        ),
        *([f"  repeated      {repeated}"] if preview.repeated_keys else []),
        *(
            f"    - {_shortened(repeat.key)!r} in {repeat.first_shard} and {repeat.last_shard}"
            for repeat in preview.repeated_key_examples
        ),
        f"  units         {_units(preview)}",
        f"  model         {preview.model}, {preview.dtype}{', compiled' if preview.compiled else ''}",
        f"  image size    {'unknown until the pipeline is loaded' if size is None else f'{size} x {size} pixels'}",
        f"  sampler       {preview.sampler}, {_count(preview.steps, 'step')}{parameters}, "
        f"guidance scale {preview.guidance_scale:g}{within}",
        f"  network calls {preview.network_calls_per_image} per image, {preview.network_calls:,} in total",
    ]


def _edit(preview: EditPreview) -> list[str]:
    rows = _count(preview.rows, "row")
    if preview.rows != preview.rows_in_store:
        rows = f"{preview.rows} of {_count(preview.rows_in_store, 'row')}"
    images = "".join(f"  {name} {count}" for name, count in preview.images.items())
    return [
        f"edit {rows} of {preview.latents} into {preview.output}",
        f"  images        {sum(preview.images.values())}{images}",
        f"  filtered      {preview.filtered} (the caption would not change)",
        f"  units         {_units(preview)}",
        f"  network calls {preview.network_calls:,} in total",
        *(f"  unused        {name}: changes no caption" for name in preview.unused),
        *(
            f"  unknown keys  {unknown.edit}: {unknown.count} of the {_count(unknown.of, 'key')} in its table are not "
            f"in the store: {', '.join(unknown.examples)}{', ...' if unknown.count > len(unknown.examples) else ''}"
            for unknown in preview.unknown_keys
        ),
        "",
        *(
            line
            for example in preview.prompt_examples
            for line in (f"  {example.edit}", f"    - {example.caption}", f"    + {example.prompt}")
        ),
    ]


def _units(preview: Preview) -> str:
    done = f" ({preview.units_done} done already)" if preview.units_done else ""
    return f"{preview.units}{done}, for {_count(preview.workers, 'worker')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _shortened(key: str) -> str:
    return key if len(key) <= MAX_KEY else f"{key[:MAX_KEY]}..."
