"""Inverting: a unit of samples in, a part of latent pairs and its commit out."""

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
from pipeline.plan.job import Job
from pipeline.store.parts import Row, overflows, to_parquet, to_table
from pipeline.store.plan import Unit, find_entries, read_entries
from pipeline.store.store import Store
from pipeline.workers.base import Attempt, Prefetcher, check_model, fitting, load_model
from pipeline.workers.heartbeat import IMAGE, STORAGE, beat
from schemas.rejects import Reject


@dataclass(frozen=True)
class Picture:
    """A sample with its image prepared for the model. `sample.image` is empty, to save memory."""

    sample: Sample
    image_sha256: str
    prepared: Prepared


def clean_pair(model: EDICT, task: Job, images: Sequence[Image.Image]) -> Pair:
    """The pair of these images that a task's inversion begins with."""
    return _prepared(model, task, _encoded(model, task, images))


def _encoded(model: EDICT, task: Job, images: Sequence[Image.Image]) -> Pair:
    made = task.fingerprint
    assert made.sampling.bits is not None  # resolved
    return model.encode(images, bits=made.sampling.bits, posterior_seed=made.posterior_seed)


def _prepared(model: EDICT, task: Job, start: Pair) -> Pair:
    return model.prepare(start, task.fingerprint.sampling, task.fingerprint.batch_size)


class InvertWorker:
    """A worker of the pool: holds the model, inverts one unit after the other."""

    def __init__(self, task: Job) -> None:
        self.task = task
        self.store = Store(task.spec.output)
        self.model = load_model(task.weights, task.machine)
        check_model(self.model, task.fingerprint.sampling, task.fingerprint.batch_size, task.schedule)
        self.ahead = Prefetcher(self._load)

    def process(self, unit: Unit, number: int, ahead: Unit | None, excluded: ExcludedSamples) -> UnitResult:
        """Invert a unit and commit it."""
        # a unit that begins within a batch would need one batch more
        assert unit.first % self.task.spec.workers.batch_size == 0, unit
        attempt = Attempt(self.store, unit, number, self.task.key)
        loaded = self._load(unit, excluded) if excluded else self.ahead.take(unit, ahead)
        attempt.spent("read")
        with fitting(self.task.spec.workers.batch_size, self.model.device):
            rows, pair, rejects = self._invert(unit, loaded)
        attempt.spent("compute")
        beat(STORAGE)
        if pair is not None:
            part = to_parquet(to_table(rows, pair, self.task.record.fingerprint))
            attempt.write(f"parts/{attempt.name}.parquet", part, len(rows))
        device = self.task.machine.device
        return attempt.commit(count=len(loaded), ok=len(rows), filtered=0, rejects=rejects, device=device)

    def probe(self, unit: Unit, number: int) -> None:
        """Invert the samples of a unit for nothing but to see whether this worker outlives it."""
        with fitting(self.task.spec.workers.batch_size, self.model.device):
            self._invert(unit, self._load(unit))

    def _load(self, unit: Unit, excluded: ExcludedSamples | None = None) -> list[Picture | Reject]:
        """Read and decode the samples of a unit.

        At most READ bytes of the shard (or one sample) are in memory at a time, and the prepared images of two units:
        this one and the one that is read ahead. A unit has at most UNIT_BATCHES batches.
        """
        image = self.task.spec.image
        loaded: list[Picture | Reject] = []
        beat(STORAGE)
        if unit.retry:  # the shard may have been repaired since it was planned
            version, entries = find_entries(self.store, unit)
        else:
            version, entries = Head(unit.size, unit.version), read_entries(self.store, unit)
        for place, fault in (excluded or {}).items():
            entry = entries[place]
            reject = Reject(unit.source, entry.index, entry.key, "invert", fault.error, fault.message)
            entries[place] = replace(entry, fault=reject)
        if unit.retry:
            entries = [entry for entry in entries if (entry.index, entry.key) in unit.only]
        for sample in read_samples(unit.source, size=version.size, etag=version.etag, entries=entries):
            beat(IMAGE)
            if isinstance(sample, Sample):
                try:
                    prepared = prepare(sample.image, self.model.size, image.crop, image.resize)
                    digest = sha256(sample.image).hexdigest()
                    loaded.append(Picture(replace(sample, image=b""), digest, prepared))
                except ImageError as error:
                    loaded.append(_reject(unit, sample, "decode", error))
            else:
                loaded.append(sample)
            beat(STORAGE)
        return loaded

    def _invert(self, unit: Unit, loaded: list[Picture | Reject]) -> tuple[list[Row], Pair | None, list[Reject]]:
        """Return the rows of a unit, their noise pair (None without rows), and the rejects."""
        rejects = [item for item in loaded if isinstance(item, Reject)]
        pictures, starts = list[Picture](), list[Pair]()
        for picture in (item for item in loaded if isinstance(item, Picture)):
            try:
                # one image at a time, so that latents that are not finite reject only this image
                starts.append(_encoded(self.model, self.task, [picture.prepared.image]))
                pictures.append(picture)
            except ArithmeticError as error:
                rejects.append(_reject(unit, picture.sample, "invert", error))
        if not pictures:
            return [], None, sorted(rejects, key=by_index)
        start = _prepared(self.model, self.task, join(starts))
        # a sample's slot does not depend on the other samples: the slot of a reject stays free
        slots = [picture.sample.index % start.batch_size for picture in pictures]
        pair, faults = self.model.integrate(start, [picture.sample.caption for picture in pictures], 0, slots=slots)
        faults = {**overflows(pair), **faults}
        rejects += [_reject(unit, pictures[i].sample, "invert", fault) for i, fault in faults.items()]
        digests = start.digests()
        sound = [i for i in range(len(pictures)) if i not in faults]
        rows = [self._row(unit, pictures[i], digests[i], slots[i]) for i in sound]
        return rows, pair[sound] if sound else None, sorted(rejects, key=by_index)

    def _row(self, unit: Unit, picture: Picture, digest: str, slot: int) -> Row:
        sample = picture.sample
        return Row(
            key=sample.key,
            shard=unit.source,
            index=sample.index,
            caption=sample.caption,
            caption_truncated=self.model.truncated(sample.caption),
            digest=digest,
            image_sha256=picture.image_sha256,
            width=picture.prepared.width,
            height=picture.prepared.height,
            json=sample.json,
            slot=slot,
        )


by_index = attrgetter("index")


def _reject(unit: Unit, sample: Sample, stage: str, error: Exception) -> Reject:
    return Reject(unit.source, sample.index, sample.key, stage, type(error).__name__, str(error))
