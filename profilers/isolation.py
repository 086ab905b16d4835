"""Jobs in processes of their own: what crashes, hangs or takes too much memory there becomes a finding.

A helper process imports the libraries once and forks for every job, so that each gets a process that never did
another one, without paying the seconds of the imports again. Where a device must not be used after a fork (CUDA), or
the system cannot fork, every job starts its own interpreter.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from .supervision import Allowance, Ending, Finding, explain, supervise

_PATIENCE_SECONDS = 10.0


class Isolation:
    """Runs jobs one after another, each in a process of its own; use it as a context manager, or `close` it."""

    def __init__(self, allowance: Allowance | None = None, *, forks: bool = True) -> None:
        """Starts nothing yet.

        Args:
            allowance: what each job may take; None for no limits. Where jobs are forked, their imports are not counted.
            forks: whether jobs may be forked from a helper; False where they use a device that forbids it.
        """
        self._allowance = allowance or Allowance()
        self._can_fork = forks and hasattr(os, "fork")
        self._helper: subprocess.Popen[bytes] | None = None

    def run(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        before: tuple[Callable[..., Any], tuple[Any, ...]] | None = None,
    ) -> Finding:
        """Calls a function in a fresh process.

        The process leads a group of its own, which is dead when this returns: it leaves no process behind.

        Args:
            function: of a module that can be imported; what it returns can be pickled.
            *arguments: what it is called with; they can be pickled.
            before: a function and its arguments, called in the helper before it forks; what that imports is shared
                by all jobs. Left out where every job has its own interpreter.

        Returns:
            What became of it; no error of the job is raised here.
        """
        job = pickle.dumps((function, arguments))
        if not self._can_fork:
            return self._run_alone(job)
        try:
            return self._ask_helper(
                pickle.dumps((job, None if before is None else pickle.dumps(before), self._allowance))
            )
        except BaseException:
            # Interrupted while a job runs: its answer must not be taken for that of the next one.
            self.close()
            raise

    def close(self) -> None:
        """Ends the helper process, and what it runs."""
        if self._helper is None:
            return
        helper, self._helper = self._helper, None
        assert helper.stdin is not None and helper.stdout is not None
        helper.terminate()
        with suppress(BrokenPipeError):
            helper.stdin.close()
        try:
            helper.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            helper.kill()
            helper.wait()
        helper.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask_helper(self, order: bytes) -> Finding:
        if self._helper is not None and self._helper.poll() is not None:
            self.close()
        if self._helper is None:
            self._helper = _start("serve")
        assert self._helper.stdin is not None and self._helper.stdout is not None
        try:
            self._helper.stdin.write(order)
            self._helper.stdin.flush()
            found: Finding = pickle.loads(pickle.load(self._helper.stdout))
        except (BrokenPipeError, EOFError):
            code = self._helper.wait()
            self.close()
            return Finding(Ending.CRASHED, cause=f"the helper died, which starts the processes ({explain(code).cause})")
        return found

    def _run_alone(self, job: bytes) -> Finding:
        with _start("once") as process:
            assert process.stdin is not None and process.stdout is not None
            try:
                with suppress(BrokenPipeError), process.stdin:
                    process.stdin.write(job)
                written, ended = supervise(process.pid, process.stdout.fileno(), self._allowance)
            except BaseException:
                process.kill()
                raise
        if ended is not None:
            return ended
        if not written or process.returncode != 0:
            return explain(process.returncode)
        found: Finding = pickle.loads(written)
        return found


def _start(mode: str) -> subprocess.Popen[bytes]:
    """A process that is no longer in the group of this one, so that an interrupt of the terminal does not reach it."""
    command = [sys.executable, "-m", "paring.profilers.isolated", mode]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
