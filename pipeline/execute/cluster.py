"""The connection to Ray: a local Ray for the run, or the cluster at RAY_ADDRESS.

The functions that use Ray import it, because planning does not need it.
"""

import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import JobError
from pipeline.messages import Machine
from schemas.errors import first_line

ANSWER_SECONDS = 5.0  # to wait for an answer from the cluster; ray.init would wait for about 15 minutes

# The first bytes of an HTTP/2 client, and so of a gRPC client. Ray's ports answer them, a dashboard's port does not.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


class ResourcesError(JobError):
    """The cluster has too few CPUs or GPUs for the workers."""


class NoCluster(JobError):
    """No Ray cluster answers at RAY_ADDRESS."""


class NotStarted(JobError):
    """Ray cannot be started on this machine."""


@contextmanager
def connected(count: int, machine: Machine, *, needed: int | None = None) -> Iterator[None]:
    """Connect to Ray, and disconnect at the end of the context. An existing connection is used and kept.

    Raises:
        ResourcesError: The cluster lacks the resources for `needed` of the `count` workers (default: all).
        NoCluster: No cluster answers at RAY_ADDRESS.
        NotStarted: Ray cannot start on this machine.
    """
    import ray

    from pipeline.execute.job_config import CleanPathJobConfig

    is_own_connection = not ray.is_initialized()
    if is_own_connection:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        address = os.environ.get("RAY_ADDRESS", "")
        with keep_sigterm_handler():
            if address not in ("", "local"):
                check_address(address)
                try:
                    # The server of a ray:// address makes the driver, and already leaves its working directory out.
                    options: Any = {} if address.startswith("ray://") else {"job_config": CleanPathJobConfig()}
                    ray.init(logging_level=logging.ERROR, **options)
                except ray.exceptions.AuthenticationError as error:
                    raise NoCluster(
                        f"RAY_ADDRESS is {_without_user(address)}, and the token for this cluster is missing or wrong. "
                        "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"
                    ) from error
                except (ConnectionError, ValueError) as error:
                    raise NoCluster(
                        f"RAY_ADDRESS is {_without_user(address)}, and Ray cannot connect to it ({error}). Correct it, "
                        "or unset it to run on this machine only. If the cluster requires a token, set "
                        "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
                    ) from error
            else:
                _start_local(max(os.cpu_count() or 1, count * machine.threads))
    try:
        _require(count if needed is None else needed, machine)
        yield
    finally:
        if is_own_connection:
            ray.shutdown()


@contextmanager
def keep_sigterm_handler() -> Iterator[None]:
    """Keep this process's handler of SIGTERM while Ray starts. Ray's own handler exits without a message."""
    handler, terminated = signal.getsignal(signal.SIGTERM), False
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    try:
        yield
    except SystemExit:
        terminated = True  # Ray's handler was called.
    finally:
        signal.signal(signal.SIGTERM, handler)
    if terminated:
        signal.raise_signal(signal.SIGTERM)


def _start_local(cpus: int) -> None:
    """Start Ray on this machine for this process. It listens on the loopback interface only.

    Raises:
        NotStarted: Ray cannot start here.
    """
    import ray
    from ray._private import ray_constants

    from pipeline.execute.job_config import CleanPathJobConfig

    # By default Ray listens on every interface, except on Windows and macOS, and has no option to change that.
    enabled, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    if not _has_token():
        # Without a token, Ray would write one to ~/.ray/auth_token, and every later `ray start` would then require it.
        # The token stays in the environment: Ray reads it once per process, so a later cluster needs the same token.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=cpus,
            logging_level=logging.ERROR,
            job_config=CleanPathJobConfig(),
        )
    except Exception as error:
        # Ray raises a bare Exception if one of its own processes does not answer in time.
        if type(error) is not Exception and not isinstance(error, OSError | ray.exceptions.RaySystemError):
            raise
        ray.shutdown()
        if type(error) is Exception:
            raise NotStarted(
                f"Ray did not start on this machine in time: {first_line(error)} The "
                "machine may be busy: run the same command again"
            ) from error
        folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
        if "AF_UNIX path length" in str(error):
            reason = f"the path of its folder {folder} is too long for a socket"
        else:
            reason = f"with its files in {folder}, {first_line(error)}"
        raise NotStarted(
            f"Ray cannot start on this machine: {reason}; set RAY_TMPDIR to the short path of a writable folder"
        ) from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled


def _has_token() -> bool:
    """Return whether the user has an authentication token of Ray, in the environment or in a file."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    try:
        return bool((Path.home() / ".ray" / "auth_token").read_text().strip())
    except (OSError, RuntimeError, UnicodeDecodeError):  # RuntimeError: there is no home.
        return False


def check_address(address: str) -> None:
    """Check that the cluster at RAY_ADDRESS (host:port, ray://host:port or auto) answers.

    Raises:
        NoCluster: The cluster does not answer, or the address is not valid.
    """
    shown, found = _without_user(address), address
    if address == "auto":
        file = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # written by `ray start`
        if not file.is_file():
            return  # ray.init looks for a cluster on this machine, and fails at once if there is none
        found = file.read_text().strip()
        shown = f"auto, which is {found} by {file}"
    parts = urlsplit(found if "://" in found else f"ray://{found}")
    if parts.scheme in ("http", "https"):
        raise NoCluster(
            f"RAY_ADDRESS is {shown}, the address of a dashboard: send the job there by `edict submit --address`, or "
            "set RAY_ADDRESS to host:port of the cluster's head (6379 by default)"
        )
    if parts.scheme != "ray":
        return  # the scheme of a provider: Ray has a module for it, or raises an error
    try:
        host, port = parts.hostname, parts.port or (10001 if "://" in found else None)
    except ValueError:
        host, port = None, None
    if not host or port is None:
        raise NoCluster(f"RAY_ADDRESS is {shown}: expected host:port, ray://host:port, auto or local")
    hosts = [host]
    if host in ("localhost", "127.0.0.1"):  # ray.init replaces these with the machine's own address
        from ray.util import get_node_ip_address

        hosts.append(get_node_ip_address())
    failures = [_no_answer(name, port) for name in hosts]
    if None not in failures:
        raise NoCluster(
            f"RAY_ADDRESS is {shown}, where no Ray cluster answers ({failures[0]}): start the cluster, or unset "
            "RAY_ADDRESS to run on this machine only"
        )


def _without_user(address: str) -> str:
    """Return an address without a user and password, which the address of a dashboard may have."""
    scheme, separator, rest = address.rpartition("://")
    return scheme + separator + rest.rpartition("@")[2]


def _no_answer(host: str, port: int) -> str | None:
    """Return None if a gRPC server answers at a port, as at all of Ray's ports; otherwise the reason why not."""
    try:
        with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return None
            connection.sendall(_PREFACE)
            answer = connection.recv(4)
    except OSError as error:
        return str(error.strerror or error)
    return None if answer[3:] == b"\4" else "another program listens there"


def _require(needed: int, machine: Machine) -> None:
    """Raise ResourcesError if the cluster lacks the resources for this number of workers."""
    import ray

    total: dict[str, float] = ray.cluster_resources()
    for resource, per_worker in (("GPU", machine.gpus), ("CPU", machine.threads)):
        if needed * per_worker > total.get(resource, 0):
            raise ResourcesError(
                f"{needed} workers of {per_worker:g} {resource} each need {needed * per_worker:g}, and the cluster has "
                f"{total.get(resource, 0):g}: lower workers.count, "
                + ("set workers.gpus: 0 (of verify: --gpus 0), " if resource == "GPU" else "")
                + "or set workers.min_count: 0 if the cluster starts machines on demand"
            )
