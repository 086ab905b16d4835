"""Which cores this process may use, how they share memory, and what that means for threads."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from .conditions import SYSTEM, allowed_cores

_TASKS = Path("/proc/self/task")


def numa_nodes(system: Path = SYSTEM) -> Mapping[int, tuple[int, ...]]:
    """Node -> those of its cores that this process may use, nodes without any left out.

    Args:
        system: where the system keeps what it knows of its devices. Where it knows of no nodes, there is one.
    """
    allowed = set(allowed_cores())
    nodes = {}
    for path in sorted(system.glob("node/node[0-9]*")):
        try:
            cores = numbers_of((path / "cpulist").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if allowed.intersection(cores):
            nodes[int(path.name.removeprefix("node"))] = tuple(sorted(allowed.intersection(cores)))
    return nodes or {0: tuple(sorted(allowed))}


def numbers_of(text: str) -> tuple[int, ...]:
    """Reads "0-3,8", as the system writes lists of cores.

    Raises:
        ValueError: if it is none.
    """
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return tuple(found)


def physical_cores(system: Path = SYSTEM) -> int:
    """Cores this process may use, those that share one processor core counted once."""
    shared = set()
    for core in allowed_cores():
        try:
            siblings = (system / f"cpu/cpu{core}/topology/thread_siblings_list").read_text(encoding="ascii")
            shared.add(numbers_of(siblings))
        except (OSError, ValueError):
            shared.add((core,))
    return len(shared)


def keep_to(cores: Iterable[int]) -> None:
    """Keeps this process, with the threads it has, to some cores; memory then comes from their node."""
    wanted = set(cores)
    for task in _TASKS.iterdir() if _TASKS.is_dir() else ():
        os.sched_setaffinity(int(task.name), wanted)


def thread_warnings(threads: int, system: Path = SYSTEM) -> tuple[str, ...]:
    """What is doubtful about serving with so many threads here; empty where nothing is.

    Args:
        threads: that one request, or all streams together, will use.
        system: where the system keeps what it knows of its devices.
    """
    cores, nodes = len(allowed_cores()), numa_nodes(system)
    if threads > cores:
        return (f"{threads} threads on {cores} cores wait for each other; give at most {cores}",)
    if len(nodes) > 1 and threads <= max(map(len, nodes.values())):
        names = " or ".join(f"cpu:{node}" for node in nodes)
        return (f"{threads} threads would fit one of {len(nodes)} NUMA nodes; take --device {names}",)
    if threads > physical_cores(system):
        return (f"{threads} threads share {physical_cores(system)} processor cores; fewer may be faster",)
    return ()
