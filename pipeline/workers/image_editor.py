"""Make the images of edit requests: regenerate rows under their captions, then continue under the edits' prompts."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from edict import EDICT
from edict.control import WordNotFound, check_words
from edict.integration import Faults
from edict.lattice import NonFinite
from edict.pair import Pair
from pipeline.io.images import EXTENSIONS, encode
from pipeline.io.shard_writer import BadMemberName, check_member
from pipeline.messages import ExcludedSamples, Fault, to_fault
from pipeline.plan.control import to_control
from pipeline.store.latents import Latents
from pipeline.workers.edit_requests import EditRequest
from schemas.specs import EditImages

GPU_ENCODER_THREADS = 4  # each encodes 3 to 13 PNGs per second


@dataclass(frozen=True)
class EditedImage:
    """An edited image: its file, the drift of its pair, and the digest of the pair.

    `reconstruction_exact` says whether its row regenerated exactly in the same batch; None without attention control.
    """

    encoding: Future[bytes]
    drift: float
    digest: str
    reconstruction_exact: bool | None

    @property
    def file(self) -> bytes:
        """Return the file, after waiting until it is encoded."""
        return self.encoding.result()


@dataclass
class RegeneratedRows:
    """The rows of a unit, regenerated under their own captions to the step where the next edits begin.

    `pair` has the `rows` that are not excluded. `faults` has the fault of each row that is excluded or failed.
    """

    model: EDICT
    latents: Latents
    faults: dict[int, Fault]
    rows: list[int] = field(init=False)
    pair: Pair = field(init=False)

    def __post_init__(self) -> None:
        self.rows = [row for row in range(len(self.latents.pair)) if row not in self.faults]
        self.pair = self.latents.pair[self.rows]

    def regenerate_to(self, steps_left: int) -> None:
        """Regenerate the rows until `steps_left` steps are left."""
        captions, slots = self.latents.column("caption"), self.latents.slots
        self.pair, faults = self.model.integrate(
            self.pair,
            [captions[row] for row in self.rows],
            self.pair.schedule.num_steps - steps_left,
            slots=[slots[row] for row in self.rows],
        )
        self.faults |= {self.rows[i]: to_fault(error) for i, error in faults.items()}

    def pairs(self, rows: Sequence[int]) -> Pair:
        """Return the pairs of these rows; a row may occur several times."""
        position = {row: i for i, row in enumerate(self.rows)}
        return self.pair[[position[row] for row in rows]]


class ImageEditor:
    """Makes the images of edit requests with a loaded model, and encodes them in threads of its own."""

    def __init__(self, model: EDICT, images: EditImages, device: str) -> None:
        self.model, self.images, self.extension = model, images, EXTENSIONS[images.format]
        # A CPU worker has one core, which the network needs.
        self._encoder = ThreadPoolExecutor(GPU_ENCODER_THREADS if device == "cuda" else 1)

    def make(
        self, latents: Latents, requests: Sequence[EditRequest], excluded: ExcludedSamples
    ) -> list[EditedImage | Fault]:
        """Return the image, or the fault, of each request.

        All requests that begin at one step share the exact regeneration to it. Those with one guidance scale and one
        control also share batches.
        """
        results: dict[int, EditedImage | Fault] = {**self._invalid(latents, requests)}
        groups = defaultdict[tuple[int, float, str], list[int]](list)
        for i, request in enumerate(requests):
            if i not in results:
                groups[request.group].append(i)
        rows = RegeneratedRows(self.model, latents, dict(excluded))
        # Groups with the most steps come first, so that each step is reached from the one before.
        for (steps, _, _), members in sorted(groups.items(), reverse=True):
            if all(requests[i].row in rows.faults for i in members):
                continue
            rows.regenerate_to(steps)
            members = [i for i in members if requests[i].row not in rows.faults]
            if members:
                group = [requests[i] for i in members]
                start = rows.pairs([request.row for request in group])
                results |= dict(zip(members, self._make_group(start, latents, group), strict=True))
        return [results.get(i) or rows.faults[request.row] for i, request in enumerate(requests)]

    def _invalid(self, latents: Latents, requests: Sequence[EditRequest]) -> dict[int, Fault]:
        """Return the faults of invalid requests: control lacks a word or a mask, or no shard can have the name."""
        captions, keys, faults = latents.column("caption"), latents.column("key"), dict[int, Fault]()
        for i, request in enumerate(requests):
            if isinstance(request.mask, Fault):
                faults[i] = request.mask
                continue
            try:
                if request.name is not None:  # A reconstruction is not a member of a shard.
                    check_member(f"{request.name}/{keys[request.row]}", self.extension)
                if request.control is not None:
                    control, tokenizer = to_control(request.control), self.model.direct.tokenizer
                    check_words(captions[request.row], request.prompt, control, tokenizer)
            except (BadMemberName, WordNotFound) as error:
                faults[i] = to_fault(error)
        return faults

    def _make_group(self, start: Pair, latents: Latents, requests: Sequence[EditRequest]) -> list[EditedImage | Fault]:
        """Return the results of N requests of one group, which begin at the N pairs of `start`."""
        exact: Sequence[bool | None] = [None] * len(requests)
        if requests[0].control is None:
            clean, faults = self.model.integrate(
                start,
                [request.prompt for request in requests],
                start.schedule.num_steps,
                guidance_scale=requests[0].guidance_scale,
                negative_captions=[request.negative_prompt for request in requests],
                slots=[request.slot for request in requests],
            )
        else:
            clean, faults, exact = self._edit_with_control(start, latents, requests)
        states = zip(clean.to_float()[0], clean.drift().tolist(), clean.digests(), strict=True)
        results = list[EditedImage | Fault]()
        for i, (state, drift, digest) in enumerate(states):
            if i in faults:
                results.append(to_fault(faults[i]))
                continue
            try:
                results.append(EditedImage(self._encode(state), drift, digest, exact[i]))
            except NonFinite as error:
                results.append(to_fault(error))
        return results

    def _edit_with_control(
        self, start: Pair, latents: Latents, requests: Sequence[EditRequest]
    ) -> tuple[Pair, Faults, Sequence[bool | None]]:
        """Edit under attention control: N requests in the order of their rows, which begin at the N pairs of `start`.

        Return the N clean pairs, the faults, and whether the row of each request regenerated exactly in its batch.
        """
        captions, digests = latents.column("caption"), latents.column("digest")
        firsts = [i for i, request in enumerate(requests) if i == 0 or requests[i - 1].row != request.row]
        by_row = [requests[first:end] for first, end in pairwise([*firsts, len(requests)])]
        masks = [request.mask for request in requests if isinstance(request.mask, torch.Tensor)]
        control = requests[0].control
        assert control is not None
        edited, faults = self.model.edit(
            start[firsts],
            [captions[of_row[0].row] for of_row in by_row],
            [[request.prompt for request in of_row] for of_row in by_row],
            control=to_control(control, torch.stack(masks) if masks else None),
            guidance_scale=requests[0].guidance_scale,
            negative_prompts=[[request.negative_prompt for request in of_row] for of_row in by_row],
        )
        # `edited` has the reconstruction of each row before its edits.
        samples = [
            first + 1 + number + i
            for number, (first, of_row) in enumerate(zip(firsts, by_row, strict=True))
            for i in range(len(of_row))
        ]
        reconstructed = edited[[first + number for number, first in enumerate(firsts)]].digests()
        exact = [
            digest == digests[request.row]
            for digest, of_row in zip(reconstructed, by_row, strict=True)
            for request in of_row
        ]
        return edited[samples], {i: faults[sample] for i, sample in enumerate(samples) if sample in faults}, exact

    def _encode(self, latents: torch.Tensor) -> Future[bytes]:
        """Decode latents [C, H, W], and encode the image while the network continues. Raises NonFinite."""
        [image] = self.model.decode(latents[None])
        return self._encoder.submit(encode, image, self.images.format, self.images.quality)
