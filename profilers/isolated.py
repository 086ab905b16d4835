"""The other side of `Isolation`: a process that does one job, or forks a child for each job it is given."""

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ParingError
from .supervision import Allowance, Ending, Finding, end, explain, is_out_of_memory, supervise

Job = tuple[Callable[..., Any], tuple[Any, ...]]

_OOM_SCORE = Path("/proc/self/oom_score_adj")
_FIRST_TO_GO = "1000"
_PARENT_SECONDS = 0.5


def answer_of(load: Callable[[], Job]) -> bytes:
    """Does a job in this process.

    Args:
        load: gives the job.

    Returns:
        A pickled finding, whatever happens.
    """
    try:
        function, arguments = load()
        return pickle.dumps(Finding(Ending.ANSWERED, function(*arguments)))
    except BaseException as error:
        if is_out_of_memory(error):
            words = f": {error}" if str(error) else ""
            return pickle.dumps(Finding(Ending.OUT_OF_MEMORY, cause=f"the process ran out of memory{words}"))
        if not isinstance(error, ParingError):
            traceback.print_exc()
        return pickle.dumps(Finding(Ending.FAILED, cause=f"{type(error).__name__}: {error}"))


def _fork(job: bytes, before: bytes | None, allowance: Allowance, parent: int) -> bytes:
    """A pickled finding of a child that never did another job."""
    try:
        # Here, so that what a job needs is imported once, and belongs to the process and not to the job.
        function, arguments = pickle.loads(job)
        if before is not None:
            prepare, given = pickle.loads(before)
            prepare(*given)
    except Exception as error:
        return pickle.dumps(Finding(Ending.FAILED, cause=f"{type(error).__name__}: {error}"))
    read, write = os.pipe()
    helper, child = os.getpid(), os.fork()
    if child == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.close(read)
        _do(lambda: (function, arguments), write, helper)
    os.close(write)
    try:
        written, ended = supervise(child, read, allowance, is_wanted=lambda: os.getppid() == parent)
    finally:
        os.close(read)
        _, status = os.waitpid(child, 0)
    exit_code = os.waitstatus_to_exitcode(status)
    return pickle.dumps(ended) if ended else written if written and exit_code == 0 else pickle.dumps(explain(exit_code))


def _do(load: Callable[[], Job], write: int, parent: int) -> None:
    """Does a job, writes the finding, and leaves without looking back."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with suppress(OSError):
        # Where the system itself runs out of memory, this process is to be ended and not the one that searches.
        _OOM_SCORE.write_text(_FIRST_TO_GO, encoding="ascii")
    try:
        answer = answer_of(load)
        with os.fdopen(write, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)
    finally:
        os._exit(1)


def _end_with(parent: int) -> None:
    """Ends this process and all it started once its parent is gone."""
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    end(os.getpid())


def main(mode: str) -> None:
    """Entry point of the processes that `Isolation` starts.

    Args:
        mode: "once" does the job that standard input holds; "serve" forks for each that comes.
    """
    # Answers go where standard output was; whatever libraries print goes to standard error.
    answers = os.dup(1)
    os.dup2(2, 1)
    orders, parent = sys.stdin.buffer, os.getppid()
    if mode == "once":
        _do(lambda: pickle.loads(orders.read()), answers, parent)
    # An end that comes in the midst of a job must end the job too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _serve(orders, answers, parent)
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    # Nothing is left to tidy up, and a tidy end of the libraries takes seconds.
    os._exit(0)


def _serve(orders: BinaryIO, answers: int, parent: int) -> None:
    """Forks for every order, until there are no more or nobody reads the answers."""
    with suppress(BrokenPipeError), os.fdopen(answers, "wb") as pipe:
        while True:
            try:
                job, before, allowance = pickle.load(orders)
            except EOFError:
                return
            pickle.dump(_fork(job, before, allowance, parent), pipe)
            pipe.flush()


if __name__ == "__main__":
    main(sys.argv[1])
