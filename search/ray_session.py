"""Joining a Ray cluster, or starting one, and leaving it as if nothing had been."""

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import SettingError
from ..profilers.machine import available_cores
from .workers import LOCAL, Cluster

_REACH_SECONDS = 5.0
# Sockets lie in its temporary folder, and the system takes no path of more than some 100 characters for them.
_LONGEST_SCRATCH = 40
# The variable that makes Ray show a token to whom it joins.
_TOKENS = "RAY_AUTH_MODE"
# Ray would have workers yield to everything else: beside other work they got a thirtieth of a core and seemed to hang.
_ENVIRONMENT = {
    "RAY_worker_niceness": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


@dataclass(frozen=True, slots=True)
class Joined:
    """A cluster that was joined.

    Attributes:
        n_workers: plans judged at once.
        scratch: a folder of this machine that is gone when the cluster is left.
    """

    n_workers: int
    scratch: Path


def refuse_unfit(cluster: Cluster, folder: Path) -> None:
    """Refuses a cluster that could not be joined, before anything else takes minutes; starts nothing on this machine.

    Args:
        cluster: which.
        folder: the run folder.

    Raises:
        SettingError: as `joined`.
    """
    _refuse_without_ray()
    if cluster.address != LOCAL:
        with joined(cluster, folder):
            pass


@contextmanager
def joined(cluster: Cluster, folder: Path) -> Iterator[Joined]:
    """Starts workers on this machine or joins a cluster; leaves it afterwards, and ends what was started.

    Args:
        cluster: which.
        folder: the run folder; who goes on with a run clears away what a killed driver left.

    Raises:
        SettingError: if Ray is not installed, the cluster cannot be reached, or has not what is asked of it.
    """
    _refuse_without_ray()
    _refuse_unreachable(cluster)
    scratch = _scratch(folder)
    shutil.rmtree(scratch, ignore_errors=True)
    with _environment():
        try:
            with _sigterm_kept():
                _start(cluster, scratch)
            has = ray().cluster_resources()
            where = "this machine" if cluster.address == LOCAL else f"the cluster at {cluster.address}"
            n_workers = cluster.fitting(has.get("CPU", 0.0), has.get("GPU", 0.0), where)
            os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(n_workers)  # all start at once
            yield Joined(n_workers, scratch)
        finally:
            ray().shutdown()
            shutil.rmtree(scratch, ignore_errors=True)


def _start(cluster: Cluster, scratch: Path) -> None:
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        if cluster.address == LOCAL:
            own = {"_temp_dir": str(scratch), "include_dashboard": False, "num_cpus": available_cores()}
            ray().init(address=LOCAL, **own, **quiet)
        else:
            ray().init(address=cluster.address, runtime_env={"env_vars": _ENVIRONMENT}, **quiet)
    except Exception as error:
        cause = str(error).strip().partition("\n")[0].rstrip(".")
        # Ray sends no token to an address that it was told, unless it is told that as well.
        asks = cluster.endpoint is not None and _TOKENS not in os.environ
        hint = f"; if it asks for a token, set {_TOKENS}=token and have the token in ~/.ray/auth_token" if asks else ""
        raise SettingError(f"cannot join the cluster {cluster.address!r}: {cause}{hint}.") from error


def _refuse_without_ray() -> None:
    if find_spec("ray") is None:
        raise SettingError("a cluster needs Ray, which is not installed here; install it: pip install 'paring[ray]'.")


def _refuse_unreachable(cluster: Cluster) -> None:
    """Ray itself would try for minutes."""
    if cluster.endpoint is None:
        return
    try:
        socket.create_connection(cluster.endpoint, timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise SettingError(
            f"nothing answers at {cluster.address}: {error}; start a head there with `ray start --head`, or give "
            "--cluster local."
        ) from error


def _scratch(folder: Path) -> Path:
    """Ray's temporary folder on this machine: the same whenever the run goes on."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > _LONGEST_SCRATCH and os.name == "posix":
        base = Path("/tmp")
    return base / f"paring-ray-{sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"


@contextmanager
def _environment() -> Iterator[None]:
    """Variables by which Ray is kept quiet; when it is over all are as before, those too that Ray sets for itself."""
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray puts a handler of its own in the place of whatever stood there, which writes a page on what it was doing."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def ray() -> Any:
    """The library, which is loaded only when a cluster is asked for."""
    return import_module("ray")


def node() -> str:
    """The node of the cluster that this process runs on."""
    return str(ray().get_runtime_context().get_node_id())
