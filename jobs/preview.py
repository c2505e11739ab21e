"""What a job would do and cost, told before anything runs."""

import threading
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby, islice
from operator import attrgetter
from typing import Any

from edict.checkpoint import locate
from edict.samplers import SAMPLERS
from edict.schedule import Schedule
from jobs.prompts import read_tables, resolve
from jobs.tables import PromptTable
from pipeline.cluster import machine_for
from pipeline.job import check_job, check_output, invert_fingerprint, schedule_of
from pipeline.keys import key_table
from pipeline.latents import read_columns
from pipeline.plan import Source, cut, expanded, index_shards, most_batches, parts_of
from pipeline.run import edit_task, note_float16
from pipeline.selection import SelectionError, count_listed, images_per_row, no_row, planned, read_selection
from pipeline.shards import ShardIndex
from pipeline.storage import local_path
from pipeline.store import Store, check_outside_stores
from pipeline.tasks import Variant, executed_steps
from pipeline.work import Machine
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
    from edict.models import describe

    note_float16(spec.dtype, spec.workers.gpus)
    folder = locate(spec.model.path, spec.model.revision, spec.model.variant)
    fingerprint = invert_fingerprint(spec, folder)
    done = _done(spec, fingerprint, machine_for(spec.workers.gpus), expanded(spec.input))
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
    schedule = schedule_of(fingerprint)
    depth = schedule.num_steps
    size = describe(folder).size
    sampler = spec.sampler.name
    parameters = "".join(f", {name} {fingerprint[name]}" for name in SAMPLERS[sampler].parameters)
    interval = spec.sampler.guidance_interval
    compiled = ", compiled" if spec.model.compile else ""
    within = "" if interval is None else " at noise levels from {:g} to {:g}".format(*interval)
    timesteps = SAMPLERS[sampler].evaluated_timesteps(schedule, depth, 0)
    cost = evaluations(timesteps, schedule.outside(interval), _branching(fingerprint, spec.sampler.guidance_scale))
    return [
        f"invert {samples} samples of {len(sources)} shards into {spec.output}",
        f"  sound         {sound} by their headers",
        f"  rejected      {faults.total()}" + "".join(f"  {name} {count}" for name, count in faults.most_common()),
        *(_rejected(reject) for name, _ in faults.most_common() for reject in shown[name]),
        *_repeated(*repeated),
        f"  units         {len(units)}, for {spec.workers.count} workers{done}",
        f"  model         {folder}, {spec.dtype}{compiled}, {size}x{size} pixels",
        f"  sampler       {sampler}, {depth} steps{parameters}, guidance {spec.sampler.guidance_scale:g}{within}",
        f"  network cost  {cost} evaluations a picture, {sound * cost:,} in all",
    ]


def _done(spec: InvertSpec | EditSpec, fingerprint: dict[str, Any], machine: Machine, inputs: Iterable[str]) -> str:
    """Return what to add to the number of units: how many are done. Raises StoreError, as a run does."""
    if (folder := local_path(spec.output)) is not None and not folder.is_dir():
        check_outside_stores(spec.output)
        return ""
    store = Store(spec.output)
    check_output(store, inputs)
    check_job(store, spec.kind, fingerprint, machine)
    done = len(store.committed([])) if store.has("job.json") else 0
    return f"; {done} are done already" if done else ""


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
    task, fingerprint = edit_task(spec, latents, edits, wanted)
    done = _done(spec, fingerprint, task.machine, [spec.latents, *spec.files])
    made, parts = fingerprint["latents"], parts_of(latents)
    schedule = schedule_of(made)
    unguided = schedule.outside(made.get("guidance_interval"))
    counts, pairs, sources, cost, listed_prompts = Counter[str](), Spread(), list[Source](), 0, 0
    for part, rows in planned(latents, parts, wanted, edits.listed, edits.masks):
        sources.append((part[0], rows.num_rows, part[2], part[3]))
        listed_prompts += count_listed(rows)
        captions = read_columns(latents, part, ["caption"])["caption"].take(rows["row"]).to_pylist()
        for caption, listed in zip(captions, rows["prompts"].to_pylist(), strict=True):
            changed = edits.prompts(caption, dict(listed or ()))
            cost += _edit_cost(changed, schedule, made, unguided)
            for variant, prompt in changed:
                counts[variant.name] += 1
                pairs.add((variant.name, caption, prompt))
    if not sources and spec.planned_rows:
        raise SelectionError(no_row(latents, parts))
    per_row = images_per_row(sources, edits.per_caption, listed_prompts)
    units = cut(sources, fingerprint["batch_size"], spec.workers.count, per_row=per_row)
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


def _edit_cost(
    changed: Sequence[tuple[Variant, str]], schedule: Schedule, made: Mapping[str, Any], unguided: Container[float]
) -> int:
    """Network evaluations of one row: each edit's own steps, and the base prompt's down to the last branch point.

    Edits of one depth, guidance and control are held to the row's own regeneration, which takes one place beside them.
    """
    depth, timesteps_of = schedule.num_steps, partial(SAMPLERS[made["sampler"]].evaluated_timesteps, schedule)
    last, cost, guidance_scale = depth, 0, _branching(made, made["guidance_scale"])
    seen = set[tuple[int, float, str]]()
    for variant, _ in changed:
        ran = executed_steps(variant, made["steps"], schedule, made["sampler"])
        timesteps = timesteps_of(depth - ran, depth)
        scale = guidance_scale if variant.guidance_scale is None else _branching(made, variant.guidance_scale)
        last = min(last, ran)
        if variant.control is None:
            cost += evaluations(timesteps, unguided, scale)
        else:
            group = ran, scale, variant.control.model_dump_json()
            cost += evaluations(timesteps, unguided, scale, guidance_scale) * (1 if group in seen else 2)
            seen.add(group)
    return cost + evaluations(timesteps_of(0, depth - last), unguided, guidance_scale)


def _branching(fingerprint: Mapping[str, Any], guidance_scale: float) -> float:
    """The scale, as far as it asks for branches: 1 with a model that is guided without any."""
    return 1.0 if "guidance" in fingerprint else guidance_scale


def evaluations(timesteps: Sequence[float], unguided: Container[float], *guidance_scales: float) -> int:
    """Return the number of network evaluations at timesteps, with the branches that these guidance scales need."""
    branches = len(set(guidance_scales)) if {0, 1}.issuperset(guidance_scales) else 2
    return sum(1 if timestep in unguided else branches for timestep in timesteps)
