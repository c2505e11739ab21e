"""Edit units: regenerate the latent rows of a unit under other prompts, and commit a tar of images with an index."""

from pipeline.messages import ExcludedSamples, Fault, UnitResult
from pipeline.plan.edit_task import EditTask
from pipeline.store.latents import Latents
from pipeline.store.plan import Unit
from pipeline.store.store import Store
from pipeline.workers.attempt import Attempt
from pipeline.workers.edit_files import EditFiles
from pipeline.workers.edit_requests import EditRequest, RequestLoader
from pipeline.workers.heartbeat import STORAGE, beat
from pipeline.workers.image_editor import EditedImage, ImageEditor
from pipeline.workers.model import batch_errors, check_model, load_model
from pipeline.workers.prefetcher import Prefetcher
from schemas.rejects import Reject


class EditWorker:
    """A worker of the pool: it has the model, and edits the rows of one unit after the other."""

    def __init__(self, task: EditTask) -> None:
        self.task = task
        self.store = Store(task.spec.output)
        latents = Store(task.spec.latents)
        self.model = load_model(task.inversion.weights, task.machine)
        check_model(self.model, task.inversion.fingerprint.sampling, task.record.edit.batch_size)
        self.loader = RequestLoader(task, self.model, self.store, latents)
        self.editor = ImageEditor(self.model, task.spec.images, task.machine.device)
        self.files = EditFiles(task, latents, self.model.size)
        self.prefetcher = Prefetcher(self.loader.load)

    def process(self, unit: Unit, number: int, next_unit: Unit | None, excluded: ExcludedSamples) -> UnitResult:
        """Edit a unit and commit it, in its attempt `number`, while `next_unit` is read ahead.

        Edits that would not change a caption count as filtered.
        """
        attempt = Attempt(self.store, unit, number, self.task.key)
        loaded = self.prefetcher.take(unit, next_unit)
        latents, edits = loaded.latents, loaded.edits
        attempt.add_time("read")
        shown = loaded.reconstructions(self.task.shown.get(unit.unit, 0))
        with batch_errors(latents.pair.batch_size, self.model.device):
            results = self.editor.make(latents, edits + shown, excluded)
        attempt.add_time("compute")
        beat(STORAGE)
        edited = list(zip(edits, results, strict=False))  # The results of `shown` follow.
        made = [(edit, result) for edit, result in edited if isinstance(result, EditedImage)]
        rejects = [_reject(latents, edit, result) for edit, result in edited if isinstance(result, Fault)]
        reconstructions = zip(shown, results[len(edits) :], strict=True)
        for path, data, rows in self.files.build(attempt.name, latents, made, reconstructions):
            attempt.write(path, data, rows)
        count = len(edits) if unit.retry else unit.count * self.task.record.variants_per_row
        filtered = count - len(edits)
        device = self.task.machine.device
        return attempt.commit(count=count, ok=len(made), filtered=filtered, rejects=rejects, device=device)

    def probe(self, unit: Unit, number: int) -> None:
        """Edit the rows of a unit and build their files, without writing them, to test whether this worker survives."""
        loaded = self.loader.load(unit)
        with batch_errors(loaded.latents.pair.batch_size, self.model.device):
            results = self.editor.make(loaded.latents, loaded.edits, {})
        made = [
            (edit, result)
            for edit, result in zip(loaded.edits, results, strict=True)
            if isinstance(result, EditedImage)
        ]
        for _ in self.files.build(unit.unit, loaded.latents, made, ()):
            pass


def _reject(latents: Latents, edit: EditRequest, fault: Fault) -> Reject:
    index, key = edit.reject_key(latents)
    return Reject(latents.column("shard")[edit.row], index, key, "edit", fault.error, fault.message)
