"""What a job would do and cost, told before anything runs."""

from collections import Counter
from collections.abc import Sequence

from edict.checkpoint import image_size, locate
from jobs.prompts import Variant, prompts, variants
from pipeline.edit import executed_steps
from pipeline.job import invert_fingerprint
from pipeline.plan import cut, index_shards, part_units
from pipeline.run import edit_task
from pipeline.store import Store, read_table
from schemas.specs import EditSpec, InvertSpec

SHOWN = 10  # prompt pairs


def preview(spec: InvertSpec | EditSpec) -> str:
    """The plan of a job in words. Raises JobError, ModelError for what would also stop the run."""
    return "\n".join(_invert(spec) if isinstance(spec, InvertSpec) else _edit(spec))


def _invert(spec: InvertSpec) -> list[str]:
    folder = locate(spec.model.path, spec.model.revision)
    fingerprint = invert_fingerprint(spec, folder)

    sources, found = index_shards(
        spec.input, lambda index: Counter(entry.fault.error for entry in index.entries if entry.fault)
    )
    faults = sum(found, Counter[str]())
    samples = sum(count for _, count, _, _ in sources)
    units = cut(sources, spec.workers.batch_size, spec.workers.count)
    sound = samples - faults.total()
    depth = len(fingerprint["timesteps"])
    size = image_size(folder)
    return [
        f"invert {samples} samples of {len(sources)} shards into {spec.output}",
        f"  sound         {sound}",
        f"  rejected      {faults.total()}" + "".join(f"  {name} {count}" for name, count in faults.most_common()),
        f"  units         {len(units)}, for {spec.workers.count} workers",
        f"  model         {folder}, {spec.model.dtype}, {size}x{size} pixels",
        f"  sampler       {depth} steps, p {fingerprint['p']}, guidance {spec.sampler.guidance_scale:g}",
        f"  network cost  {_evaluations(depth, spec.sampler.guidance_scale)} evaluations a picture, "
        f"{sound * _evaluations(depth, spec.sampler.guidance_scale):,} in all",
    ]


def _edit(spec: EditSpec) -> list[str]:
    latents, found = Store(spec.latents), variants(spec.edits)
    _, fingerprint = edit_task(spec, latents, found, lambda caption: prompts(caption, found))
    made = fingerprint["latents"]
    depth = len(made["timesteps"])
    units = part_units(latents, fingerprint["batch_size"], spec.workers.count)
    counts, pairs, rows, cost = Counter[str](), list[tuple[str, str, str]](), 0, 0
    for part in dict.fromkeys(unit.source for unit in units):
        for caption in read_table(latents.get(part), part)["caption"].to_pylist():
            rows += 1
            changed = prompts(caption, found)
            cost += _edit_cost(changed, made["steps"], depth, made["guidance_scale"])
            for variant, prompt in changed:
                counts[variant.name] += 1
                pairs.append((variant.name, caption, prompt))
    shown = pairs[:: max(1, len(pairs) // SHOWN)][:SHOWN]
    return [
        f"edit {rows} rows of {spec.latents} into {spec.output}",
        f"  pictures      {counts.total()}" + "".join(f"  {name} {count}" for name, count in counts.items()),
        f"  filtered      {rows * len(found) - counts.total()} (the caption would not change)",
        f"  units         {len(units)}, for {spec.workers.count} workers",
        f"  network cost  {cost:,} evaluations",
        *(f"  unused        {v.name}: changes no caption" for v in found if not counts[v.name]),
        "",
        *(line for name, caption, prompt in shown for line in (f"  {name}", f"    - {caption}", f"    + {prompt}")),
    ]


def _edit_cost(changed: Sequence[tuple[Variant, str]], steps: int, depth: int, guidance_scale: float) -> int:
    """Network evaluations of one row: each edit's own steps, and the base prompt's down to the last branch point."""
    ran = [executed_steps(variant, steps, depth) for variant, _ in changed]
    own = sum(
        _evaluations(n, guidance_scale if variant.guidance_scale is None else variant.guidance_scale)
        for n, (variant, _) in zip(ran, changed, strict=True)
    )
    return own + _evaluations(depth - min(ran, default=depth), guidance_scale)


def _evaluations(steps: int, guidance_scale: float) -> int:
    """Two half-steps a step, and with guidance two branches each."""
    return steps * 2 * (1 if guidance_scale in (0, 1) else 2)
