"""Submitting a job to a cluster through Ray Jobs: its driver runs there, and outlives this terminal."""

import asyncio
import hashlib
import os
import re
import shlex
import sys
import time
from contextlib import suppress

import aiohttp
import yaml
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from pipeline.errors import JobError
from pipeline.io.locations import local_path
from pipeline.progress import LOG_INTERVAL
from schemas.errors import last_line
from schemas.locations import without_secrets
from schemas.specs import EditSpec, InvertSpec

SILENCE = 2 * LOG_INTERVAL  # seconds without a line of the log after which the connection counts as broken
PAUSE = 2.0  # seconds between two questions after the job
PATIENCE = 600.0  # seconds for which a cluster that does not answer is asked again
LONGEST = 120_000  # bytes of a command; Linux takes 128 KiB

# What Ray's client raises, beside the errors of requests, which are OSErrors.
_FAILED = (RuntimeError, OSError, aiohttp.ClientError, AuthenticationError)


class SubmitError(JobError):
    """A cluster that cannot be reached, or that refuses the job: nothing was run."""


class DisconnectedError(JobError):
    """A job that was lost sight of: whether it goes on is not known."""


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster that has its dashboard at `address`. Raises SubmitError."""
    shown = without_secrets(address)
    if not address.startswith(("http://", "https://")):
        raise SubmitError(f"{shown}: is no dashboard's address, which is as http://head:8265")
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray's client would let RAY_ADDRESS win over what it is given
    try:
        return JobSubmissionClient(address)
    except _FAILED as error:
        raise SubmitError(
            f"{shown}: no Ray cluster answers there ({last_line(error)}); "
            "give the address of its dashboard, as http://head:8265"
        ) from error


def entrypoint(spec: InvertSpec | EditSpec) -> str:
    """The driver's command, with the spec in it: no working_dir, which each node would have to fetch for its workers.

    `edict` is found there as `ray` is: pip has put the two into one folder. Raises SubmitError for a spec too long.
    """
    text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, width=120)
    command = f"printf %s {shlex.quote(text)} | edict run /dev/stdin"
    if len(command.encode()) > LONGEST:
        raise SubmitError("the spec is too long to be handed over; name shards with braces, {00000..00031}.tar")
    return command


def start(client: JobSubmissionClient, spec: InvertSpec | EditSpec) -> tuple[str, bool]:
    """Start the job, or find it running: its submission id, and whether it was started now.

    A job is named after its store, so that one store has one driver; a run that has ended is followed by another under
    the next number, which finishes what is missing. Raises SubmitError, also where a job of another spec is running.
    """
    command = entrypoint(spec)
    store = str(local_path(spec.output) or spec.output.rstrip("/"))
    name = f"edict-{hashlib.sha256(store.encode()).hexdigest()[:12]}"
    try:
        while True:
            runs = _runs(client, name)
            for job in runs.values():
                if not job.status.is_terminal():
                    if job.entrypoint != command:
                        raise SubmitError(
                            f"{spec.output}: {job.submission_id} is running there with another spec; wait for it, or "
                            f"stop it: ray job stop {job.submission_id}"
                        )
                    return str(job.submission_id), False
            number = max(runs, default=0) + 1
            try:
                new = client.submit_job(
                    entrypoint=command, submission_id=f"{name}-{number}", metadata={"output": store}
                )
                return new, True
            except RuntimeError as error:
                if number not in _runs(client, name):
                    raise SubmitError(f"the cluster refuses the job: {last_line(error)}") from error
                # another submit was first by a moment
    except _FAILED as error:
        raise SubmitError(f"the connection to the cluster broke ({last_line(error)}); submit again") from error


def follow(client: JobSubmissionClient, submission_id: str) -> JobDetails:
    """Print the job's log as it comes, until it has ended; the job. Raises LostError.

    A line that breaks is no end: the job is asked for again, and its log printed on from where it was.
    """
    printed = 0
    failing: float | None = None  # since when

    def show(text: str, before: int) -> int:
        nonlocal printed
        print(text[max(printed - before, 0) :], end="", flush=True)
        printed = max(printed, before + len(text))
        return before + len(text)

    async def tail() -> None:
        seen = 0
        async with asyncio.timeout(SILENCE) as silence:
            async for text in client.tail_job_logs(submission_id):
                seen = show(text, seen)
                silence.reschedule(asyncio.get_running_loop().time() + SILENCE)

    while True:
        with suppress(*_FAILED):
            asyncio.run(tail())
        try:
            job = next((job for job in client.list_jobs() if job.submission_id == submission_id), None)
            if job is None:
                raise DisconnectedError("the cluster no longer knows the job: it was restarted, which ended the job")
            if job.status.is_terminal():
                show(client.get_job_logs(submission_id), 0)  # the tail may have broken before the end
                return job
            failing = None
        except _FAILED as error:
            if failing is None:
                failing = time.monotonic()
                print(f"the cluster does not answer ({last_line(error)}); asking again", file=sys.stderr)
            elif time.monotonic() - failing > PATIENCE:
                raise DisconnectedError(
                    f"the cluster has not answered for {PATIENCE:.0f} s ({last_line(error)})"
                ) from error
        time.sleep(PAUSE)


def _runs(client: JobSubmissionClient, name: str) -> dict[int, JobDetails]:
    """The runs of a job that the cluster knows of, by number."""
    numbered = re.compile(rf"{name}-(\d+)")
    return {int(found[1]): job for job in client.list_jobs() if (found := numbered.fullmatch(job.submission_id or ""))}
