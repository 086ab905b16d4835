"""Peak memory of a saved model, measured in a fresh process that does nothing else.

A helper process imports the libraries once and forks for every measurement, so that each model gets a process that
never held another one, without paying the seconds of the imports again. Where a device must not be used after a fork
(CUDA), or the system cannot fork, every measurement starts its own interpreter.
"""

import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ..errors import MeasurementError, ParingError
from ..spaces import artefact
from . import devices, runtimes
from .workload import Workload
from .workload import request as serve

_CALLS = 5


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process needs to serve a model.

    Attributes:
        peak_bytes: most bytes held at once while it served. Loading is left out: what it needs more is the memory map
            of the file, which the system takes back when memory is short.
        runtime_bytes: held before the model was loaded: interpreter and libraries.
        loaded_bytes: held once the model was ready to call.
    """

    peak_bytes: int
    runtime_bytes: int
    loaded_bytes: int

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 0 or self.peak_bytes <= 0:
            raise MeasurementError(f"memory is counted in positive bytes, got {self}.")

    def to_json(self) -> dict[str, int]:
        """Plain numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**data)


class MemoryMeter:
    """Measures saved models one by one; use it as a context manager, or `close` it."""

    def __init__(self, device: str, runtime: str, workload: Workload, *, timeout_seconds: float = 300.0) -> None:
        """Starts nothing yet.

        Args:
            device: name of the device, as the user writes it.
            runtime: name of the runtime.
            workload: what each model is asked to serve.
            timeout_seconds: after which a measurement counts as failed.
        """
        self._request = {"device": device, "runtime": runtime, "workload": workload.to_json()}
        self._can_fork = hasattr(os, "fork") and device == "cpu"
        self._timeout = timeout_seconds
        self._helper: subprocess.Popen[str] | None = None

    def measure(self, folder: Path) -> Memory:
        """Loads a saved model in a fresh process, serves the workload, and reads the peak.

        Raises:
            MemoryError: if the process was killed, as the system does when memory runs out.
            MeasurementError: if it failed otherwise.
        """
        request = json.dumps({**self._request, "folder": str(folder), "timeout_seconds": self._timeout})
        if self._can_fork:
            answer = self._ask_helper(request)
        else:
            try:
                done = subprocess.run(
                    _command("--once"),
                    input=request,
                    capture_output=True,
                    text=True,
                    timeout=self._timeout,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise MeasurementError(f"measuring memory took longer than {self._timeout:.0f} s.") from error
            answer = done.stdout.strip().splitlines()[-1] if done.returncode == 0 else _explain(done.returncode)
        found = json.loads(answer)
        if "killed" in found:
            raise MemoryError(found["killed"])
        if "error" in found:
            raise MeasurementError(f"measuring memory failed: {found['error']}")
        return Memory.from_json(found)

    def close(self) -> None:
        """Ends the helper process."""
        if self._helper is not None:
            assert self._helper.stdin is not None and self._helper.stdout is not None
            self._helper.stdin.close()
            self._helper.wait(timeout=10)
            self._helper.stdout.close()
            self._helper = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask_helper(self, request: str) -> str:
        if self._helper is not None and self._helper.poll() is not None:
            self.close()
        if self._helper is None:
            self._helper = subprocess.Popen(
                _command("--serve"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        assert self._helper.stdin is not None and self._helper.stdout is not None
        self._helper.stdin.write(request + "\n")
        self._helper.stdin.flush()
        answer = self._helper.stdout.readline()
        if not answer:
            self.close()
            raise MeasurementError("the process that measures memory has died.")
        return answer


def _command(mode: str) -> list[str]:
    return [sys.executable, "-m", "paring.profilers.memory", mode]


def _explain(returncode: int) -> str:
    killed = f"the process was ended by signal {-returncode}, as the system does when memory runs out"
    return json.dumps({"killed": killed} if returncode < 0 else {"error": f"the process exited with {returncode}"})


def _measure_here(request: Mapping[str, Any]) -> Memory:
    """Loads, serves and reads the peak in this process, which must be fresh."""
    device = devices.find(request["device"])
    workload = Workload.from_json(request["workload"])
    runtime_bytes, _ = device.memory()
    model, _ = artefact.load(Path(request["folder"]))
    executable = runtimes.find(request["runtime"]).load(model, device, threads=workload.threads)
    inputs = workload.inputs(model.config)
    del model
    loaded_bytes, _ = device.memory()
    device.restart_peak()
    for _ in range(_CALLS):
        serve(executable, inputs, workload)
    _, peak_bytes = device.memory()
    return Memory(peak_bytes, runtime_bytes, loaded_bytes)


def _answer(request: Mapping[str, Any]) -> str:
    """One line of JSON, whatever happens."""
    try:
        return json.dumps(_measure_here(request).to_json())
    except MemoryError:
        return json.dumps({"killed": "the process ran out of memory"})
    except Exception as error:
        traceback.print_exc()
        return json.dumps({"error": f"{type(error).__name__}: {error}"})


def _fork_and_answer(request: Mapping[str, Any]) -> str:
    """The answer of a child that never held another model."""
    try:
        # Here, so that the code of the model's class is loaded once and counts as runtime.
        artefact.model_class(request["folder"])
    except ParingError as error:
        return json.dumps({"error": str(error)})
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, _answer(request).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, encoding="utf8") as pipe:
        ready, _, _ = select.select([pipe], [], [], request["timeout_seconds"])
        if not ready:
            os.kill(child, signal.SIGKILL)
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if not ready:
        return json.dumps({"error": f"it took longer than {request['timeout_seconds']:.0f} s"})
    return answer or _explain(os.waitstatus_to_exitcode(status))


def _main(mode: str) -> None:
    """Entry point of the processes that `MemoryMeter` starts."""
    # Answers go where standard output was; whatever libraries print goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        print(_answer(request) if mode == "--once" else _fork_and_answer(request), file=answers, flush=True)


if __name__ == "__main__":
    _main(sys.argv[1])
