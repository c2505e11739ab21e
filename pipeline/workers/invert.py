"""Invert units: read the samples of a unit, and commit a part of noise pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from operator import attrgetter

from PIL import Image

from edict import EDICT
from edict.pair import Pair, join
from pipeline.io.images import ImageError, Prepared, prepare
from pipeline.io.samples import Sample, read_samples
from pipeline.io.storage import Head
from pipeline.messages import ExcludedSamples, UnitResult
from pipeline.plan.invert_task import InvertTask
from pipeline.store.parts import Row, overflows, to_parquet, to_table
from pipeline.store.plan import Unit, find_entries, read_entries
from pipeline.store.store import Store
from pipeline.workers.attempt import Attempt
from pipeline.workers.heartbeat import IMAGE, STORAGE, beat
from pipeline.workers.model import batch_errors, check_model, load_model
from pipeline.workers.prefetcher import Prefetcher
from schemas.rejects import Reject


@dataclass(frozen=True)
class PreparedSample:
    """A sample with its image prepared for the model. `sample.image` is empty, to save memory."""

    sample: Sample
    image_sha256: str
    prepared: Prepared


class InvertWorker:
    """A worker of the pool: it has the model, and inverts one unit after the other."""

    def __init__(self, task: InvertTask) -> None:
        self.task = task
        self.store = Store(task.spec.output)
        self.model = load_model(task.weights, task.machine)
        check_model(self.model, task.fingerprint.sampling, task.fingerprint.batch_size, task.schedule)
        self.prefetcher = Prefetcher(self._load)

    def process(self, unit: Unit, number: int, next_unit: Unit | None, excluded: ExcludedSamples) -> UnitResult:
        """Invert a unit and commit it, in its attempt `number`, while `next_unit` is read ahead."""
        # A unit that begins within a batch would need one batch more.
        assert unit.first % self.task.spec.workers.batch_size == 0, unit
        attempt = Attempt(self.store, unit, number, self.task.key)
        loaded = self._load(unit, excluded) if excluded else self.prefetcher.take(unit, next_unit)
        attempt.add_time("read")
        with batch_errors(self.task.spec.workers.batch_size, self.model.device):
            rows, pair, rejects = self._invert(unit, loaded)
        attempt.add_time("compute")
        beat(STORAGE)
        if pair is not None:
            part = to_parquet(to_table(rows, pair, self.task.record.fingerprint))
            attempt.write(f"parts/{attempt.name}.parquet", part, len(rows))
        device = self.task.machine.device
        return attempt.commit(count=len(loaded), ok=len(rows), filtered=0, rejects=rejects, device=device)

    def probe(self, unit: Unit, number: int) -> None:
        """Invert the samples of a unit without writing anything, to test whether this worker survives them."""
        with batch_errors(self.task.spec.workers.batch_size, self.model.device):
            self._invert(unit, self._load(unit))

    def _load(self, unit: Unit, excluded: ExcludedSamples | None = None) -> list[PreparedSample | Reject]:
        """Read and decode the samples of a unit.

        Memory has at most MAX_REQUEST bytes of the shard (or one sample) at a time, and the prepared images of this
        unit and of the next one. A unit has at most UNIT_BATCHES batches.
        """
        image = self.task.spec.image
        loaded: list[PreparedSample | Reject] = []
        beat(STORAGE)
        if unit.retry:  # The shard may have been repaired since it was planned.
            version, entries = find_entries(self.store, unit)
        else:
            version, entries = Head(unit.size, unit.version), read_entries(self.store, unit)
        for position, fault in (excluded or {}).items():
            entry = entries[position]
            reject = Reject(unit.source, entry.index, entry.key, "invert", fault.error, fault.message)
            entries[position] = replace(entry, fault=reject)
        if unit.retry:
            entries = [entry for entry in entries if (entry.index, entry.key) in unit.only]
        for sample in read_samples(unit.source, size=version.size, etag=version.etag, entries=entries):
            beat(IMAGE)
            if isinstance(sample, Sample):
                try:
                    prepared = prepare(sample.image, self.model.size, image.crop, image.resize)
                    digest = sha256(sample.image).hexdigest()
                    loaded.append(PreparedSample(replace(sample, image=b""), digest, prepared))
                except ImageError as error:
                    loaded.append(_reject(unit, sample, "decode", error))
            else:
                loaded.append(sample)
            beat(STORAGE)
        return loaded

    def _invert(
        self, unit: Unit, loaded: Sequence[PreparedSample | Reject]
    ) -> tuple[list[Row], Pair | None, list[Reject]]:
        """Return the rows of a unit, their noise pair (None without rows), and the rejects."""
        rejects = [item for item in loaded if isinstance(item, Reject)]
        samples, starts = list[PreparedSample](), list[Pair]()
        for sample in (item for item in loaded if isinstance(item, PreparedSample)):
            try:
                # One image at a time, so that latents that are not finite reject only this image.
                starts.append(_encode(self.model, self.task, [sample.prepared.image]))
                samples.append(sample)
            except ArithmeticError as error:
                rejects.append(_reject(unit, sample.sample, "invert", error))
        if not samples:
            return [], None, sorted(rejects, key=by_index)
        start = _prepare(self.model, self.task, join(starts))
        # A sample's slot does not depend on the other samples: the slot of a reject stays free.
        slots = [sample.sample.index % start.batch_size for sample in samples]
        pair, faults = self.model.integrate(start, [sample.sample.caption for sample in samples], 0, slots=slots)
        faults = {**overflows(pair), **faults}
        rejects += [_reject(unit, samples[i].sample, "invert", fault) for i, fault in faults.items()]
        digests = start.digests()
        inverted = [i for i in range(len(samples)) if i not in faults]
        rows = [self._row(unit, samples[i], digests[i], slots[i]) for i in inverted]
        return rows, pair[inverted] if inverted else None, sorted(rejects, key=by_index)

    def _row(self, unit: Unit, item: PreparedSample, digest: str, slot: int) -> Row:
        sample = item.sample
        return Row(
            key=sample.key,
            shard=unit.source,
            index=sample.index,
            caption=sample.caption,
            caption_truncated=self.model.truncated(sample.caption),
            digest=digest,
            image_sha256=item.image_sha256,
            width=item.prepared.width,
            height=item.prepared.height,
            json=sample.json,
            slot=slot,
        )


def start_pair(model: EDICT, task: InvertTask, images: Sequence[Image.Image]) -> Pair:
    """Return the pair of N images with which a task's inversion begins."""
    return _prepare(model, task, _encode(model, task, images))


def _encode(model: EDICT, task: InvertTask, images: Sequence[Image.Image]) -> Pair:
    fingerprint = task.fingerprint
    assert fingerprint.sampling.bits is not None  # It is resolved.
    return model.encode(images, bits=fingerprint.sampling.bits, posterior_seed=fingerprint.posterior_seed)


def _prepare(model: EDICT, task: InvertTask, start: Pair) -> Pair:
    return model.prepare(start, task.fingerprint.sampling, task.fingerprint.batch_size)


by_index = attrgetter("index")


def _reject(unit: Unit, sample: Sample, stage: str, error: Exception) -> Reject:
    return Reject(unit.source, sample.index, sample.key, stage, type(error).__name__, str(error))
