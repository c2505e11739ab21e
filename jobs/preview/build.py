"""Build the preview of a job from its spec. Nothing is loaded onto a device, and nothing is written."""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter

from edict.samplers import SAMPLERS, parameters
from jobs.preview.data import (
    EditPreview,
    InvertPreview,
    Preview,
    PromptExample,
    RejectExample,
    RepeatedKey,
    UnknownKeys,
)
from jobs.preview.network_calls import branching_scale, edit_calls, network_calls
from jobs.prompts import read_tables, resolve
from jobs.tables import PromptTable
from pipeline.io.locations import local_path
from pipeline.io.shard_index import ShardIndex
from pipeline.plan.edit_plan import count_listed_prompts, images_per_row, selected_rows
from pipeline.plan.edit_task import EditTask, edit_task
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

PROMPT_EXAMPLES = 10
REJECT_EXAMPLES = 3  # per error class
KEY_EXAMPLES = 3
UNKNOWN_KEY_EXAMPLES = 5


def preview(spec: InvertSpec | EditSpec) -> Preview:
    """Return the preview of a job.

    Raises:
        JobError, ModelError: The job could not run, for the same reason.
    """
    return _invert(spec) if isinstance(spec, InvertSpec) else _edit(spec)


def _invert(spec: InvertSpec) -> InvertPreview:
    # Imported here, because it imports torch and diffusers, which the preview of an edit does not need.
    from jobs.preview.image_size import planned_image_size

    note_float16(spec.dtype, spec.workers.gpus)
    job = invert_task(spec)
    model = job.model()
    record, units_done = _progress(job, expanded(spec.input))
    check_earlier_format(replace(job, record=record), model)
    batch_size, rejects = spec.workers.batch_size, _Rejects()
    with key_table() as keys:

        def index(shard: ShardIndex) -> int:
            keys.add(shard.url, [entry.key for entry in shard.entries if entry.fault is None])
            rejects.add([entry.fault for entry in shard.entries if entry.fault is not None])
            return most_batches(shard.entries, batch_size)

        sources, most = index_shards(spec.input, index)
        repeated_keys, repeated = keys.repeated(KEY_EXAMPLES)
    samples = sum(count for _, count, _, _ in sources)
    rejected = rejects.counts.total()
    sampling = job.fingerprint.sampling
    schedule = planned_schedule(model, sampling)
    interval, guidance_scale = sampling.guidance_interval, sampling.known_guidance_scale
    calls = network_calls(
        SAMPLERS[sampling.name].evaluated_timesteps(schedule, schedule.num_steps, 0),
        schedule.timesteps_outside(interval),
        branching_scale(model.has_negative, guidance_scale),
    )
    return InvertPreview(
        kind="invert",
        output=spec.output,
        shards=len(sources),
        samples=samples,
        accepted=samples - rejected,
        rejected=rejected,
        rejects=dict(rejects.counts.most_common()),
        reject_examples=rejects.examples(),
        repeated_keys=repeated_keys,
        repeated_key_examples=[RepeatedKey(*repeat) for repeat in repeated],
        units=len(cut(sources, batch_size, spec.workers.count, most)),
        units_done=units_done,
        workers=spec.workers.count,
        model=str(job.checkpoint.folder),
        dtype=spec.dtype,
        compiled=spec.model.compile,
        image_size=planned_image_size(model),
        sampler=sampling.name,
        steps=schedule.num_steps,
        parameters={name: float(value) for name, value in parameters(sampling).items()},
        guidance_scale=guidance_scale,
        guidance_interval=None if interval is None else list(interval),
        network_calls_per_image=calls,
        network_calls=(samples - rejected) * calls,
    )


class _Rejects:
    """The rejects of all shards: their counts, and the first of each class of error by shard and index.

    Shards are indexed by several threads.
    """

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self._first, self._lock = dict[str, list[Reject]](), threading.Lock()

    def add(self, rejects: Sequence[Reject]) -> None:
        with self._lock:
            self.counts.update(reject.error for reject in rejects)
            by_error = dict[str, list[Reject]]()
            for reject in rejects:
                by_error.setdefault(reject.error, []).append(reject)
            for error, found in by_error.items():
                known = [*self._first.get(error, []), *found[:REJECT_EXAMPLES]]
                self._first[error] = sorted(known, key=attrgetter("shard", "index"))[:REJECT_EXAMPLES]

    def examples(self) -> list[RejectExample]:
        """Return the first rejects of each class, the most frequent class first."""
        return [
            RejectExample(reject.error, reject.key, reject.shard, reject.message)
            for error, _ in self.counts.most_common()
            for reject in self._first[error]
        ]


def _progress(task: InvertTask | EditTask, inputs: Iterable[str]) -> tuple[JobRecord, int]:
    """Return the record of the job, and the number of units that are committed. Raises StoreError, as a run does."""
    output = task.spec.output
    if (folder := local_path(output)) is not None and not folder.exists():
        check_outside_stores(output)
        return task.record, 0
    store = Store(output)
    check_output(store, inputs)
    record = check_job(store, task.record)
    return record, 0 if record is task.record else len(store.committed_units([]))


def _edit(spec: EditSpec) -> EditPreview:
    latents, selection, tables = Store(spec.latents), read_selection(spec), read_tables(spec.edits)
    edits = resolve(spec.edits, tables)
    task = edit_task(spec, latents, edits, selection)
    _, units_done = _progress(task, [spec.latents, *spec.files])
    parts, guided = parts_of(latents), has_negative_prompt(task.inversion)
    counts, examples, sources = Counter[str](), _EvenSample(PROMPT_EXAMPLES), list[Source]()
    calls, listed_prompts = 0, 0
    for part, rows in selected_rows(latents, parts, selection, edits.listed, edits.masks):
        sources.append((part[0], rows.num_rows, part[2], part[3]))
        listed_prompts += count_listed_prompts(rows)
        captions = read_columns(latents, part, ["caption"])["caption"].take(rows["row"]).to_pylist()
        for caption, listed in zip(captions, rows["prompts"].to_pylist(), strict=True):
            changed = edits.prompts(caption, dict(listed or ()))
            calls += edit_calls(changed, task, guided)
            for variant, prompt in changed:
                counts[variant.name] += 1
                examples.add(PromptExample(variant.name, caption, prompt))
    if not sources and spec.planned_rows:
        raise SelectionError(no_rows_message(latents, parts))
    per_row = images_per_row(sources, edits.per_caption, listed_prompts)
    row_count = sum(count for _, count, _, _ in sources)
    return EditPreview(
        kind="edit",
        latents=spec.latents,
        output=spec.output,
        rows=row_count,
        rows_in_store=sum(count for _, count, _, _ in parts),
        images=dict(counts),
        filtered=row_count * len(edits.variants) - counts.total(),
        units=len(cut(sources, task.record.edit.batch_size, spec.workers.count, per_row=per_row)),
        units_done=units_done,
        workers=spec.workers.count,
        network_calls=calls,
        unused=[variant.name for variant in edits.variants if not counts[variant.name]],
        unknown_keys=_unknown_keys(latents, parts, tables),
        prompt_examples=examples.items(),
    )


class _EvenSample:
    """`size` of the items that are added, spread evenly over all of them. The memory does not grow with the number."""

    def __init__(self, size: int) -> None:
        self._size, self._kept = size, list[PromptExample]()
        self._every, self._added = 1, 0

    def add(self, item: PromptExample) -> None:
        if self._added % self._every == 0:
            self._kept.append(item)
        self._added += 1
        if len(self._kept) >= self._size**2:
            self._kept, self._every = self._kept[::2], self._every * 2

    def items(self) -> list[PromptExample]:
        """Return the sample, or every item if there are fewer."""
        count = min(self._size, len(self._kept))
        return [self._kept[i * len(self._kept) // count] for i in range(count)]


def _unknown_keys(latents: Store, parts: Sequence[Source], tables: Mapping[str, PromptTable]) -> list[UnknownKeys]:
    """Return the keys of tables that the latent store does not have."""
    if not tables:
        return []
    known: dict[str, set[str]] = {edit: set() for edit in tables}
    for part in parts:
        for key in read_columns(latents, part, ["key"])["key"].to_pylist():
            for edit, table in tables.items():
                if (table_key := table.key(key)) is not None:
                    known[edit].add(table_key)
    unknown = {edit: [key for key in table.first if key not in known[edit]] for edit, table in tables.items()}
    return [
        UnknownKeys(edit, len(keys), len(tables[edit].first), keys[:UNKNOWN_KEY_EXAMPLES])
        for edit, keys in unknown.items()
        if keys
    ]
