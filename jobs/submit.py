"""Submit a job to a cluster through Ray Jobs. Its driver runs on the cluster, also after this terminal is closed."""

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

LOG_TIMEOUT = 2 * LOG_INTERVAL  # seconds without output until the connection counts as broken
POLL_INTERVAL = 2.0  # seconds between two requests for the state of the job
GIVE_UP_AFTER = 600.0  # seconds without an answer of the cluster
MAX_COMMAND = 120_000  # bytes; the limit of Linux is 128 KiB

_CLIENT_ERRORS = (RuntimeError, OSError, aiohttp.ClientError, AuthenticationError)
"""The errors that Ray's client raises. The errors of `requests` are OSErrors."""


class SubmitError(JobError):
    """A cluster that cannot be reached, or that refuses the job. Nothing was run."""


class DisconnectedError(JobError):
    """A lost connection to the cluster. The job may still be running."""


def connect(address: str) -> JobSubmissionClient:
    """Return a client of the cluster whose dashboard is at `address`.

    Raises:
        SubmitError: The address is not that of a dashboard, no cluster answers, or the cluster requires another token.
    """
    shown = without_secrets(address)
    if not address.startswith(("http://", "https://")):
        raise SubmitError(f"{shown}: is not the address of a Ray dashboard. Give --address http://HOST:8265")
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Otherwise Ray's client prefers RAY_ADDRESS to its argument.
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise SubmitError(f"{shown}: {_token_error()}") from error
    except _CLIENT_ERRORS as error:
        raise SubmitError(
            f"{shown}: no Ray cluster answers there ({last_line(error)}). Give the address of its dashboard, such as "
            "--address http://head:8265"
        ) from error


def _token_error() -> str:
    """Return what is wrong with the authentication token for a cluster that requires one, and what to set."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return (
            "the Ray cluster there requires a token. Set RAY_AUTH_MODE=token. If the token is not in "
            "~/.ray/auth_token, also set RAY_AUTH_TOKEN to the token, or RAY_AUTH_TOKEN_PATH to its file"
        )
    return (
        "the Ray cluster there requires a token, and the token on this machine is missing or wrong. Set RAY_AUTH_TOKEN "
        "to the cluster's token, or RAY_AUTH_TOKEN_PATH to its file"
    )


def entrypoint(spec: InvertSpec | EditSpec) -> str:
    """Return the command of the driver, which contains the spec.

    A file of the spec would need a `working_dir`, which every node would have to download for its workers.

    Raises:
        SubmitError: The spec is too long.
    """
    text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, width=120)
    command = f"printf %s {shlex.quote(text)} | edict run /dev/stdin"
    if len(command.encode()) > MAX_COMMAND:
        raise SubmitError(
            "the spec is too long for a command. Give a list of shards as one pattern, such as "
            "photos/{00000..00031}.tar"
        )
    return command


def start(client: JobSubmissionClient, spec: InvertSpec | EditSpec) -> tuple[str, bool]:
    """Submit the job, or find it running. Return its submission id, and whether it was submitted now.

    The id is derived from the store, so that a store has only one driver. If an earlier run has ended, another one is
    submitted under the next number, and continues the job.

    Raises:
        SubmitError: The cluster refuses the job, or a job with another spec is running on the store.
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
                            f"{spec.output}: {job.submission_id} is running there with another spec. Wait until it "
                            f"ends, or stop it: ray job stop {job.submission_id}"
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
                    raise SubmitError(f"the cluster refused the job: {last_line(error)}") from error
                # Another submission of the same job was first, so look for it again.
    except _CLIENT_ERRORS as error:
        raise SubmitError(f"the connection to the cluster broke ({last_line(error)}). Submit the job again") from error


def follow(client: JobSubmissionClient, submission_id: str) -> JobDetails:
    """Print the log of a job until the job has ended. Return the job.

    If the connection breaks, it is made again, and the log continues where it was.

    Raises:
        DisconnectedError: The cluster does not answer any more, or does not know the job.
    """
    printed = 0
    failing_since: float | None = None

    def show(text: str, before: int) -> int:
        nonlocal printed
        print(text[max(printed - before, 0) :], end="", flush=True)
        printed = max(printed, before + len(text))
        return before + len(text)

    async def tail() -> None:
        seen = 0
        async with asyncio.timeout(LOG_TIMEOUT) as silence:
            async for text in client.tail_job_logs(submission_id):
                seen = show(text, seen)
                silence.reschedule(asyncio.get_running_loop().time() + LOG_TIMEOUT)

    while True:
        with suppress(*_CLIENT_ERRORS):
            asyncio.run(tail())
        try:
            job = next((job for job in client.list_jobs() if job.submission_id == submission_id), None)
            if job is None:
                raise DisconnectedError(
                    "the cluster does not know the job any more, because the cluster was restarted, which ended the job"
                )
            if job.status.is_terminal():
                show(client.get_job_logs(submission_id), 0)  # The connection may have broken before the end of the log.
                return job
            failing_since = None
        except _CLIENT_ERRORS as error:
            if failing_since is None:
                failing_since = time.monotonic()
                print(f"the cluster does not answer ({last_line(error)}); trying again", file=sys.stderr)
            elif time.monotonic() - failing_since > GIVE_UP_AFTER:
                raise DisconnectedError(
                    f"the cluster has not answered for {GIVE_UP_AFTER:.0f} s ({last_line(error)})"
                ) from error
        time.sleep(POLL_INTERVAL)


def _runs(client: JobSubmissionClient, name: str) -> dict[int, JobDetails]:
    """Return the runs of a job that the cluster knows, by number."""
    numbered = re.compile(rf"{name}-(\d+)")
    return {int(found[1]): job for job in client.list_jobs() if (found := numbered.fullmatch(job.submission_id or ""))}
