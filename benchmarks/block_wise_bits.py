"""What block-wise bits cost in quality, without retraining: whole models, everything counted.

    python benchmarks/block_wise_bits.py --case sst2=MODEL,DATA --case cola=MODEL,DATA,matthews --ratios 7.988,10.5

Every case is a model folder, its data and, if it is not the task's own, the metric. For every ratio the bits of all
parts are allocated by sensitivity, twice: weights only, and with the inputs of every Linear in 8 bits and all results
between them too (attention products, softmax, activation function, layer norms). Bits are allocated, and weights and
ranges found, on rows of the training split alone; both other splits are then judged once.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from results import keep

from paring.search.opening import open_workbench
from paring.search.progress import Terminal
from paring.search.settings import Settings
from paring.search.starts import allocated_bits
from paring.search.tasks import Task
from paring.search.workbench import LocalWorkbench
from paring.spaces.artefact import stored_bytes
from paring.spaces.palette import Palette
from paring.spaces.plan import Plan
from paring.spaces.precision import Precision
from paring.spaces.space import Space

TABLES = "w8,w4-1x64,w3-1x64,w3,w2-1x64,w2"
WEIGHTS = "w8,w5-1x64,w4-1x64,w4-64x64-pow2,w3-1x32,w3-1x64,w2-1x32"
INPUTS_TOO = "w8a8,w5a8-1x64,w4a8-1x64,w4a8-64x64-pow2,w3a8-1x32,w3a8-1x64,w2a8-1x32"
INTEGER_KERNELS = "w8a8,w5a8-32x32-pow2,w4a8-32x32-pow2,w4a8-64x64-pow2,w3a8-32x32-pow2,w3a8-64x64-pow2"


def precisions(text: str) -> tuple[Precision, ...]:
    return tuple(map(Precision.parse, filter(None, text.split(","))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", action="append", required=True)
    parser.add_argument("--ratios", default="7.988,10.5")
    parser.add_argument("--forms", default="weights,weights and activations")
    parser.add_argument("--name", default="block_wise_bits")
    arguments = parser.parse_args()
    ratios = [float(ratio) for ratio in arguments.ratios.split(",")]
    rows: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    for case in arguments.case:
        name, _, rest = case.partition("=")
        started = time.monotonic()
        rows += judged(name, *rest.split(","), ratios=ratios, forms=arguments.forms.split(","))
        seconds[name] = round(time.monotonic() - started)
    keep(arguments.name, rows, seconds=seconds)


def judged(
    name: str, model: str, data: str, metric: str | None = None, *, ratios: list[float], forms: list[str]
) -> Iterator[dict[str, Any]]:
    """One row for every form and ratio, the float model first."""
    menus = {
        "weights": Palette(precisions(WEIGHTS), precisions(TABLES)),
        "weights and activations": Palette(precisions(INPUTS_TOO), precisions(TABLES), precisions("a8")),
        "integer kernels": Palette(precisions(INTEGER_KERNELS), precisions(TABLES), precisions("a8")),
    }
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(model, Task("classification", data, metric), Path(scratch), axes=("bits",))
        bench, _ = open_workbench(settings, Terminal())
        whole = stored_bytes(bench.model)
        yield row(bench, name, "float", bench.anatomy.identity(), whole, {})
        for form in forms:
            bench.anatomy = replace(bench.anatomy, palette=menus[form])
            for ratio in ratios:
                bits = allocated_bits(bench, ratio)
                space = Space(bench.anatomy, ("bits",))
                choice = {**space.identity(), **{f"bits.{part}": value for part, value in bits.items()}}
                for parameter in space:
                    if "a8" in parameter.choices:
                        choice[parameter.name] = "a8"
                yield row(bench, name, form, space.resolve(choice, bench), whole, bits)


def row(bench: LocalWorkbench, name: str, form: str, plan: Plan, whole: int, bits: dict[str, str]) -> dict[str, Any]:
    model = bench.build(plan)
    executable = bench.executable(model)
    search, test = (bench.quality(plan, examples, executable) for examples in (bench.search, bench.test))
    labels = np.concatenate([bench.search.labels, bench.test.labels])
    both = bench.score(labels, np.concatenate([np.asarray(search.outcomes), np.asarray(test.outcomes)]))
    return {
        "task": name,
        "metric": bench.metric,
        "form": form,
        "ratio": whole / stored_bytes(model),
        "validation": search.value,
        "test": test.value,
        "both": both,
        "bits": ", ".join(f"{bits} {count}" for bits, count in Counter(bits.values()).most_common()),
        "words": bits.get("embeddings", "float"),
    }


if __name__ == "__main__":
    main()
