"""What factorised Linears cost in time and bytes, on every runtime: all kinds of all layers at one ratio.

    python benchmarks/factor_products.py --model MODEL [--runtimes torch,openvino,onnxruntime] [--ratios 1.5,2,3,5]
                                         [--batch 1] [--tokens 128] [--threads 2] [--seconds 20]

All plans of a runtime are interleaved in one process; ratios are to the original in float32 on the same runtime. What a
model costs does not depend on the values of its weights, so factors are those of a plain SVD and the
decoder, which is expanded when a model is loaded, is hardly trained.
"""

import argparse
from dataclasses import replace
from typing import Any

import torch
from results import keep

from paring.profilers import devices, runtimes
from paring.profilers.timing import Effort, measure
from paring.profilers.workload import Workload, serving
from paring.search.untaught import UntaughtBench
from paring.spaces import artefact
from paring.spaces.anatomy import anatomy_of
from paring.spaces.factoring import Factoring, Way
from paring.spaces.plan import Layer, Plan, Treatment, Treatments
from paring.spaces.precision import Precision

INT8 = Precision(8, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--runtimes", default="torch,openvino,onnxruntime")
    parser.add_argument("--ratios", default="1.5,2,3,5")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    model = artefact.load_original(given.model)
    factoring = Factoring()
    brief = replace(factoring, training=replace(factoring.training, epochs=1))
    anatomy = replace(anatomy_of(model), factoring=brief)
    ids = torch.randint(4, model.config.vocab_size, (4, 32), generator=torch.Generator().manual_seed(0))
    bench = UntaughtBench(model, anatomy, [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}], seed=0)
    ratios = [float(ratio) for ratio in given.ratios.split(",")]
    plans = {"float": anatomy.identity(), "w8a8": treated(bench, None, INT8)}
    for ratio in ratios:
        plans[f"{ratio:g}"] = treated(bench, Way("svd", ratio), None)
        plans[f"{ratio:g} concatenated"] = treated(bench, Way("svd", ratio, "concatenated"), None)
        plans[f"{ratio:g} w8a8"] = treated(bench, Way("svd", ratio), INT8)
    plans[f"decoder {ratios[-1]:g}"] = treated(bench, Way("autoencoder", ratios[-1], "concatenated"), None)
    workload, device, rows = Workload(given.batch, given.tokens, given.threads), devices.find("cpu"), []
    built = {name: bench.build(plan) for name, plan in plans.items()}
    for runtime in given.runtimes.split(","):
        loaded = {name: runtimes.find(runtime).load(one, device, threads=given.threads) for name, one in built.items()}
        requests = {name: serving(executable, workload, model.config) for name, executable in loaded.items()}
        found = measure(requests, baseline="float", effort=Effort(seconds=given.seconds))
        for name, latency in found.items():
            rows.append(
                {
                    "runtime": runtime,
                    "factors": name,
                    "kernels": loaded[name].kernels,
                    "ratio": latency.ratio,
                    "low": latency.ratio_low,
                    "high": latency.ratio_high,
                    "MB stored": artefact.stored_bytes(built[name]) / 1e6,
                }
            )
    keep("factor_products", rows, workload=str(workload))


def treated(bench: Any, way: Way | None, precision: Precision | None) -> Plan:
    """Every Linear of every layer so treated."""
    plan = bench.anatomy.identity()
    for stack in plan.stacks:
        members = tuple(map(Layer, range(len(stack.slots))))
        own = Treatments.of(
            {
                kind: Treatment(None if way is None else way.of(shape, members), precision)
                for kind, shape in bench.anatomy.stack(stack.name).shapes.items()
            }
        )
        plan = plan.with_stack(replace(stack, slots=tuple(replace(slot, treatments=own) for slot in stack.slots)))
    return plan


if __name__ == "__main__":
    main()
