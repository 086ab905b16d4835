import json
from dataclasses import replace
from typing import Any

import psutil
import pytest
import torch

from paring.profilers.machine import Machine

MACHINE = Machine(
    device="cpu",
    facts={"name": "Some Processor", "sockets": "1"},
    cores=4,
    instruction_sets=("avx2", "avx512_vnni"),
    memory_bytes=16 * 2**30,
    system="Linux 6.1",
    versions={"python": "3.11.2", "torch": "2.11.0"},
)


def test_here_is_this_machine() -> None:
    here = Machine.here("cpu", {"name": "x"}, {"runtime": "1"})
    assert 1 <= here.cores <= (psutil.cpu_count() or 1)
    assert here.memory_bytes == psutil.virtual_memory().total
    assert here.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "torch", "transformers", "runtime"} <= set(here.versions)
    assert here.fingerprint == Machine.here("cpu", {"name": "x"}, {"runtime": "1"}).fingerprint


def test_json_round_trip() -> None:
    again = Machine.from_json(json.loads(json.dumps(MACHINE.to_json())))
    assert again == MACHINE
    assert again.fingerprint == MACHINE.fingerprint


def test_fingerprint_does_not_see_the_order_of_facts() -> None:
    facts, versions = dict(reversed(MACHINE.facts.items())), dict(reversed(MACHINE.versions.items()))
    assert replace(MACHINE, facts=facts, versions=versions).fingerprint == MACHINE.fingerprint


def test_fingerprint_forgives_a_kernel_that_keeps_a_little_memory() -> None:
    assert replace(MACHINE, memory_bytes=16 * 2**30 - 50 * 2**20).fingerprint == MACHINE.fingerprint


def test_fingerprints_of_old_records_stay_valid() -> None:
    """A change here makes every stored measurement one of another machine."""
    assert MACHINE.fingerprint == "167930d51f6b"


@pytest.mark.parametrize(
    "change",
    [
        {"device": "cuda:0"},
        {"facts": {"name": "Another Processor", "sockets": "1"}},
        {"cores": 5},
        {"instruction_sets": ("avx2",)},
        {"memory_bytes": 32 * 2**30},
        {"system": "Linux 6.2"},
        {"versions": {"python": "3.11.2", "torch": "2.11.1"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_fingerprint_sees_everything_that_matters(change: dict[str, Any]) -> None:
    assert replace(MACHINE, **change).fingerprint != MACHINE.fingerprint
