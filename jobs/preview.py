"""What a job would do and cost, told before anything runs."""

import threading
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
from operator import attrgetter

from edict.samplers import SAMPLERS, parameters
from jobs.prompts import read_tables, resolve
from jobs.tables import PromptTable
from pipeline.io.locations import local_path
from pipeline.io.shard_index import ShardIndex
from pipeline.plan.edit_plan import count_listed_prompts, images_per_row, selected_rows
from pipeline.plan.edit_task import EditTask, Variant, edit_task
from pipeline.plan.invert_task import (
    InvertTask,
    check_earlier_format,
    has_negative_prompt,
    invert_task,
    planned_schedule,
)
from pipeline.plan.job import check_job, check_output
from pipeline.plan.keys import key_table
from pipeline.plan.machine import note_float16
from pipeline.plan.selection import SelectionError, no_rows_message, read_selection
from pipeline.plan.units import cut, expanded, index_shards, most_batches
from pipeline.store.latents import read_columns
from pipeline.store.plan import Source, parts_of
from pipeline.store.store import Store, check_outside_stores
from schemas.job import JobRecord
from schemas.rejects import Reject
from schemas.specs import EditSpec, InvertSpec

SHOWN = 10  # prompt pairs
REJECTS, REPEATED = 3, 3  # the rejects per error and the repeated keys that are shown
by_error, by_place = attrgetter("error"), attrgetter("shard", "index")
LONGEST_KEY = 200  # characters of a key that are shown


def preview(spec: InvertSpec | EditSpec) -> str:
    """The plan of a job in words. Raises JobError, ModelError for what would also stop the run."""
    return "\n".join(_invert(spec) if isinstance(spec, InvertSpec) else _edit(spec))


def _invert(spec: InvertSpec) -> list[str]:
    note_float16(spec.dtype, spec.workers.gpus)
    job = invert_task(spec)
    model = job.model()
    record, done = _done(job, expanded(spec.input))
    check_earlier_format(replace(job, record=record), model)
    batch_size = spec.workers.batch_size
    faults, shown, lock = Counter[str](), dict[str, list[Reject]](), threading.Lock()
    with key_table() as keys:

        def take(index: ShardIndex) -> int:
            keys.add(index.url, [entry.key for entry in index.entries if entry.fault is None])
            rejects = [entry.fault for entry in index.entries if entry.fault is not None]
            with lock:
                faults.update(reject.error for reject in rejects)
                for error, of_error in groupby(sorted(rejects, key=by_error), by_error):
                    known = [*shown.get(error, []), *islice(of_error, REJECTS)]
                    shown[error] = sorted(known, key=by_place)[:REJECTS]
            return most_batches(index.entries, batch_size)

        sources, most = index_shards(spec.input, take)
        repeated = keys.repeated(REPEATED)
    samples = sum(count for _, count, _, _ in sources)
    units = cut(sources, batch_size, spec.workers.count, most)
    sound = samples - faults.total()
    sampling = job.fingerprint.sampling
    schedule = planned_schedule(model, sampling)
    depth = schedule.num_steps
    weights = "".join(f", {name} {value}" for name, value in parameters(sampling).items())
    interval = sampling.guidance_interval
    compiled = ", compiled" if spec.model.compile else ""
    size = "" if (side := model.planned_size) is None else f", {side}x{side} pixels"
    within = "" if interval is None else " at noise levels from {:g} to {:g}".format(*interval)
    timesteps = SAMPLERS[sampling.name].evaluated_timesteps(schedule, depth, 0)
    cost = evaluations(
        timesteps, schedule.timesteps_outside(interval), _branching(model.has_negative, sampling.known_guidance_scale)
    )
    return [
        f"invert {samples} samples of {len(sources)} shards into {spec.output}",
        f"  sound         {sound} by their headers",
        f"  rejected      {faults.total()}" + "".join(f"  {name} {count}" for name, count in faults.most_common()),
        *(_rejected(reject) for name, _ in faults.most_common() for reject in shown[name]),
        *_repeated(*repeated),
        f"  units         {len(units)}, for {spec.workers.count} workers{done}",
        f"  model         {job.checkpoint.folder}, {spec.dtype}{compiled}{size}",
        f"  sampler       {sampling.name}, {depth} steps{weights}, guidance {sampling.known_guidance_scale:g}{within}",
        f"  network cost  {cost} evaluations per image, {sound * cost:,} in all",
    ]


def _done(task: InvertTask | EditTask, inputs: Iterable[str]) -> tuple[JobRecord, str]:
    """Return the record of the job, and how many units are done, to add to their number.

    Raises StoreError, as a run does.
    """
    output = task.spec.output
    if (folder := local_path(output)) is not None and not folder.is_dir():
        check_outside_stores(output)
        return task.record, ""
    store = Store(output)
    check_output(store, inputs)
    record = check_job(store, task.record)
    done = 0 if record is task.record else len(store.committed_units([]))
    return record, f"; {done} are done already" if done else ""


def _rejected(reject: Reject) -> str:
    return f"    - {reject.error}: {_short(reject.key)!r} of {reject.shard}: {reject.message}"


def _repeated(count: int, examples: Sequence[tuple[str, str, str]]) -> list[str]:
    """Describe the keys that samples of several shards have."""
    if not count:
        return []
    some = [f"    - {_short(key)!r} in {first} and {last}" for key, first, last in examples]
    return [f"  repeated      {count} keys are in several shards; a list of `keys` takes every row of a key", *some]


def _short(key: str) -> str:
    return key if len(key) <= LONGEST_KEY else f"{key[:LONGEST_KEY]}..."


def _edit(spec: EditSpec) -> list[str]:
    latents, wanted, tables = Store(spec.latents), read_selection(spec), read_tables(spec.edits)
    edits = resolve(spec.edits, tables)
    task = edit_task(spec, latents, edits, wanted)
    _, done = _done(task, [spec.latents, *spec.files])
    parts, guided = parts_of(latents), has_negative_prompt(task.inversion)
    counts, pairs, sources, cost, listed_prompts = Counter[str](), Spread(), list[Source](), 0, 0
    for part, rows in selected_rows(latents, parts, wanted, edits.listed, edits.masks):
        sources.append((part[0], rows.num_rows, part[2], part[3]))
        listed_prompts += count_listed_prompts(rows)
        captions = read_columns(latents, part, ["caption"])["caption"].take(rows["row"]).to_pylist()
        for caption, listed in zip(captions, rows["prompts"].to_pylist(), strict=True):
            changed = edits.prompts(caption, dict(listed or ()))
            cost += _edit_cost(changed, task, guided)
            for variant, prompt in changed:
                counts[variant.name] += 1
                pairs.add((variant.name, caption, prompt))
    if not sources and spec.planned_rows:
        raise SelectionError(no_rows_message(latents, parts))
    per_row = images_per_row(sources, edits.per_caption, listed_prompts)
    units = cut(sources, task.record.edit.batch_size, spec.workers.count, per_row=per_row)
    total, rows_taken = sum(count for _, count, _, _ in parts), sum(count for _, count, _, _ in sources)
    of = "" if rows_taken == total else f" of the {total}"
    return [
        f"edit {rows_taken} rows{of} of {spec.latents} into {spec.output}",
        f"  pictures      {counts.total()}" + "".join(f"  {name} {count}" for name, count in counts.items()),
        f"  filtered      {rows_taken * len(edits.variants) - counts.total()} (the caption would not change)",
        f"  units         {len(units)}, for {spec.workers.count} workers{done}",
        f"  network cost  {cost:,} evaluations",
        *(f"  unused        {v.name}: changes no caption" for v in edits.variants if not counts[v.name]),
        *_strangers(latents, parts, tables),
        "",
        *(
            line
            for name, caption, prompt in pairs.kept()
            for line in (f"  {name}", f"    - {caption}", f"    + {prompt}")
        ),
    ]


class Spread:
    """Some of what is added, spread evenly over all of it, however much it is."""

    def __init__(self) -> None:
        self._kept, self._every, self._seen = list[tuple[str, str, str]](), 1, 0

    def add(self, pair: tuple[str, str, str]) -> None:
        if self._seen % self._every == 0:
            self._kept.append(pair)
        self._seen += 1
        if len(self._kept) >= SHOWN * SHOWN:
            self._kept, self._every = self._kept[::2], self._every * 2

    def kept(self) -> list[tuple[str, str, str]]:
        """SHOWN of them, or all where they are fewer."""
        count = min(SHOWN, len(self._kept))
        return [self._kept[i * len(self._kept) // count] for i in range(count)]


def _strangers(latents: Store, parts: Sequence[Source], tables: Mapping[str, PromptTable]) -> list[str]:
    """What tables have prompts for, and the store no row."""
    if not tables:
        return []
    met: dict[str, set[str]] = {edit: set() for edit in tables}
    for part in parts:
        for key in read_columns(latents, part, ["key"])["key"].to_pylist():
            for edit, table in tables.items():
                if (known := table.key(key)) is not None:
                    met[edit].add(known)
    lines = []
    for edit, table in tables.items():
        if strangers := [key for key in table.first if key not in met[edit]]:
            shown = ", ".join(strangers[:5]) + (", ..." if len(strangers) > 5 else "")
            lines.append(
                f"  no row        {edit}: for {len(strangers)} of {len(table.first)} keys of its table: {shown}"
            )
    return lines


def _edit_cost(changed: Sequence[tuple[Variant, str]], task: EditTask, guided: bool) -> int:
    """Return the network evaluations of one row: each edit's own steps, and the base prompt's to the last branch point.

    Edits of one depth, guidance and control share a batch with the row's own regeneration, which takes one slot.
    """
    sampling, schedule = task.inversion.fingerprint.sampling, task.schedule
    timesteps_without_cfg = schedule.timesteps_outside(sampling.guidance_interval)
    depth, timesteps_of = schedule.num_steps, partial(SAMPLERS[sampling.name].evaluated_timesteps, schedule)
    last, cost, guidance_scale = depth, 0, _branching(guided, sampling.known_guidance_scale)
    seen = set[tuple[int, float, str]]()
    for variant, _ in changed:
        ran = task.steps_of(variant)
        timesteps = timesteps_of(depth - ran, depth)
        scale = guidance_scale if variant.guidance_scale is None else _branching(guided, variant.guidance_scale)
        last = min(last, ran)
        if variant.control is None:
            cost += evaluations(timesteps, timesteps_without_cfg, scale)
        else:
            group = ran, scale, variant.control.model_dump_json()
            cost += evaluations(timesteps, timesteps_without_cfg, scale, guidance_scale) * (1 if group in seen else 2)
            seen.add(group)
    return cost + evaluations(timesteps_of(0, depth - last), timesteps_without_cfg, guidance_scale)


def _branching(has_negative_prompt: bool, guidance_scale: float) -> float:
    """Return the scale, or 1 for a model whose guidance has no second branch."""
    return guidance_scale if has_negative_prompt else 1.0


def evaluations(timesteps: Sequence[float], timesteps_without_cfg: Container[float], *guidance_scales: float) -> int:
    """Return the number of network evaluations at timesteps, with the branches that these guidance scales need."""
    branches = len(set(guidance_scales)) if {0, 1}.issuperset(guidance_scales) else 2
    return sum(1 if timestep in timesteps_without_cfg else branches for timestep in timesteps)
