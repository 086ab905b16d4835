"""Runtime by precision: is what was rounded really faster, and as good? Beside what the runtimes' own tools make.

    python benchmarks/runtime_kernels.py --model MODEL --data DATA [--shapes 1x32,1x128,8x32,8x128] [--seconds 20]

All entrants run interleaved in one process; numbers are ratios of time to torch float32. Accuracy is that on the
runtime itself, on the test split; "change" is the mean squared difference of the centred logits from those of torch in
float. Peers: ONNX Runtime's `quantize_dynamic` (per channel) and, where the package nncf is
installed, `nncf.quantize` and `nncf.quantize_with_accuracy_control` with its transformer preset, on calibration rows of
the same split. The control may lose half a point on the search split.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import keep
from torch import Tensor

from paring.profilers import runtimes
from paring.profilers.runtimes import Executable
from paring.profilers.timing import Effort, measure
from paring.profilers.workload import Workload
from paring.search.factor_starts import factor_options
from paring.search.first_choices import LAYER_RATIOS, allocated_layers
from paring.search.opening import open_workbench
from paring.search.progress import Terminal
from paring.search.settings import Settings
from paring.search.tasks import Task
from paring.search.workbench import LocalWorkbench
from paring.spaces.palette import Palette
from paring.spaces.plan import Plan, Treatments
from paring.spaces.precision import Precision
from paring.spaces.space import Space

# Name -> precision of Linears, of tables, and of results between Linears by kind.
PLANS: dict[str, tuple[str, str, dict[str, str]]] = {
    "float": ("", "", {}),
    "w16a16": ("w16a16", "w8", {}),
    "w8a8": ("w8a8", "w8", {}),
    "w8a8, scores a8": ("w8a8", "w8", {"scores": "a8"}),
    "w8a8, scores a8, tables float": ("w8a8", "", {"scores": "a8"}),
    "w4a8-64x64-pow2, scores a8": ("w4a8-64x64-pow2", "w4-1x64", {"scores": "a8"}),
    "w8a8, attention a8": ("w8a8", "w8", {"scores": "a8", "context": "a8"}),
    "w4a8-64x64-pow2": ("w4a8-64x64-pow2", "w4-1x64", {}),
    "w8": ("w8", "w8", {}),
    "w4-1x64": ("w4-1x64", "w4-1x64", {}),
}
# Numbers of the Linears over those that factors leave, allocated by sensitivity.
FACTOR_RATIOS = (1.25, 1.5, 2.0)
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Peer:
    """A compiled model of another tool, called as paring calls its own."""

    kernels = "its own"

    def __init__(self, call: Callable[[dict[str, np.ndarray]], np.ndarray]) -> None:
        self._call = call

    def __call__(self, inputs: Any) -> Tensor:
        """Model inputs, batch x tokens -> logits."""
        filled = {"token_type_ids": torch.zeros_like(inputs["input_ids"]), **inputs}
        return torch.from_numpy(self._call({name: filled[name].numpy() for name in INPUTS}).copy())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--shapes", default="1x32,1x128,8x32,8x128")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--entrants", default="", help="a pattern: only plans of paring whose name it finds")
    parser.add_argument("--name", default="runtime_kernels")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(
            arguments.model,
            Task("classification", arguments.data),
            Path(scratch),
            axes=("bits",),
            workload=Workload(threads=arguments.threads),
            palette=Palette(intermediates=(Precision(None, 8),)),
        )
        bench, _ = open_workbench(settings, Terminal())
        wanted = re.compile(arguments.entrants)
        entrants = dict(own(bench, wanted)) | dict(peers(bench, Path(scratch), arguments.threads))
        rows, exact = {}, centred_logits(entrants["torch float"], bench)
        for name, executable in entrants.items():
            answers = centred_logits(executable, bench)
            right = float((answers.argmax(dim=1).numpy() == np.asarray(bench.test.labels)).mean())
            change = float((answers - exact).square().mean())
            rows[name] = {"entrant": name, "kernels": executable.kernels, "test": right, "change": change}
            print(rows[name], flush=True)
        for shape in arguments.shapes.split(","):
            batch, tokens = map(int, shape.split("x"))
            inputs = Workload(batch, tokens, arguments.threads).inputs(bench.model.config)
            calls = {name: partial(executable, inputs) for name, executable in entrants.items()}
            found = measure(calls, baseline="torch float", effort=Effort(arguments.seconds, 0.005), seed=0)
            for name, latency in found.items():
                interval = f"{latency.ratio:.3f} ({latency.ratio_low:.3f} to {latency.ratio_high:.3f})"
                rows[name][shape] = interval if name != "torch float" else f"{latency.seconds * 1e3:.3g} ms"
    keep(arguments.name, list(rows.values()), threads=arguments.threads)


def centred_logits(executable: Any, bench: LocalWorkbench) -> Tensor:
    """Answers to the whole test split, rows x labels: "change" is their mean squared difference from torch float's."""
    batches = (bench.test.with_labels(range(at, min(at + 16, len(bench.test)))) for at in range(0, len(bench.test), 16))
    logits = torch.cat([torch.as_tensor(executable(batch)).double() for batch in batches])
    return logits - logits.mean(dim=1, keepdim=True)


def own(bench: LocalWorkbench, wanted: re.Pattern[str]) -> Iterator[tuple[str, Executable]]:
    """Every plan that is wanted on every runtime that is here; torch's float is always."""
    for runtime in runtimes.names():
        bench.runtime = runtimes.find(runtime)
        if bench.runtime.absence(bench.device) is not None:
            continue
        for name, plan in PLANS.items():
            if wanted.search(f"{runtime} {name}") or (runtime, name) == ("torch", "float"):
                yield f"{runtime} {name}", bench.executable(bench.build(uniform(bench, *plan)))
            for ratio in FACTOR_RATIOS:
                text = f"{runtime} {name}, factors {ratio:g}"
                if wanted.search(text):
                    yield text, bench.executable(bench.build(uniform(bench, *plan, factored(bench, ratio))))


def factored(bench: LocalWorkbench, ratio: float) -> Plan:
    """Factors of least predicted harm that leave so many times fewer numbers in the Linears."""
    space = Space(bench.anatomy, ("factors",))
    choices = allocated_layers(space, factor_options(space, bench))
    return space.resolve(choices[LAYER_RATIOS.index(ratio)], bench)


def uniform(
    bench: LocalWorkbench, linears: str, tables: str, between: dict[str, str], plan: Plan | None = None
) -> Plan:
    """One precision for all Linears and one for all parts outside the stacks."""
    anatomy = bench.anatomy
    plan = plan or anatomy.identity()
    for stack in plan.stacks:
        wanted = dict.fromkeys(anatomy.stack(stack.name).linears, linears) | between
        slots = tuple(replace(slot, treatments=treated(wanted, slot.treatments)) for slot in stack.slots)
        plan = plan.with_stack(replace(stack, slots=slots))
    return replace(plan, outside=treated(dict.fromkeys(anatomy.outside, tables), Treatments()))


def treated(wanted: dict[str, str], before: Treatments) -> Treatments:
    for kind, text in wanted.items():
        if text:
            before = before.with_(kind, replace(before.get(kind), precision=Precision.parse(text)))
    return before


def peers(bench: LocalWorkbench, scratch: Path, threads: int) -> Iterator[tuple[str, Peer]]:
    """What the runtimes' own tools make of the same model."""
    if find_spec("onnxruntime") is not None:
        yield "onnxruntime's dynamic int8", Peer(dynamic_int8(bench, scratch, threads))
    if find_spec("nncf") is not None:
        for name, call in nncf_models(bench, scratch, threads):
            yield name, Peer(call)


def dynamic_int8(bench: LocalWorkbench, scratch: Path, threads: int) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder = scratch / "onnx"
    folder.mkdir()
    runtimes.find("onnxruntime").save(bench.model, folder)
    (model,) = folder.glob("*.onnx")
    quantize_dynamic(model, folder / "dynamic.onnx", per_channel=True, weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(folder / "dynamic.onnx", options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    return lambda inputs: session.run(None, {name: inputs[name] for name in names})[0]


def nncf_models(
    bench: LocalWorkbench, scratch: Path, threads: int
) -> Iterator[tuple[str, Callable[[dict[str, np.ndarray]], np.ndarray]]]:
    # Neither may report to its makers: without this package both are silent.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import nncf
    import openvino

    folder = scratch / "openvino"
    folder.mkdir()
    runtimes.find("openvino").save(bench.model, folder)
    original = openvino.Core().read_model(next(folder.glob("*.xml")))
    calibration = nncf.Dataset(
        [as_numpy(batch, slice(row, row + 1)) for batch in bench.calibration() for row in range(8)]
    )
    preset = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": len(bench.calibration()) * 8}
    yield "nncf.quantize", compiled(nncf.quantize(original, calibration, **preset), threads)
    held = [(as_numpy(inputs, slice(None)), bench.search.labels[picked]) for picked, inputs in bench.search.batches(16)]

    def judge(candidate: Any, items: Any) -> float:
        right = [(candidate(inputs)[0].argmax(-1) == labels).sum() for inputs, labels in items]
        return float(sum(right) / len(bench.search))

    controlled = nncf.quantize_with_accuracy_control(
        original, calibration, nncf.Dataset(held), validation_fn=judge, max_drop=0.005, **preset
    )
    yield "nncf.quantize_with_accuracy_control", compiled(controlled, threads)


def as_numpy(batch: Any, rows: slice) -> dict[str, np.ndarray]:
    filled = {"token_type_ids": torch.zeros_like(batch["input_ids"]), **batch}
    return {name: filled[name][rows].numpy() for name in INPUTS}


def compiled(model: Any, threads: int) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    found = openvino.Core().compile_model(model, "CPU", settings)
    names = [port.get_any_name() for port in found.inputs]
    return lambda inputs: found({name: inputs[name] for name in names})[0]


if __name__ == "__main__":
    main()
