"""Are the int8 kernels of the torch runtime really faster than float32, and how do they compare with torch's own?

    python benchmarks/int8_kernels.py [--seconds 2]

Single Linears and whole BERTs of random weights (speed does not depend on their values), side by side in one process:
float32, bfloat16, torch's dynamic int8 (`torch.ao.quantization.quantize_dynamic`, deprecated), and the calibrated int8
of paring. All ratios are median ratios to float32 with 95 % intervals.
"""

import argparse
import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from results import keep
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from paring.profilers import devices, runtimes
from paring.profilers.machine import available_cores
from paring.profilers.timing import Effort, measure
from paring.spaces.anatomy import anatomy_of
from paring.spaces.build import build
from paring.spaces.plan import Treatment, Treatments
from paring.spaces.precision import Precision
from paring.spaces.quantised import QuantLinear
from paring.spaces.ranges import affine_range

INT8 = Precision(8, 8)
MODELS = {
    "MiniLM-L6": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "BERT-base": {},
}


def dynamic_int8(module: nn.Module) -> nn.Module:
    """What torch offered for years, on its fastest engine here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.quantized.engine = "onednn"
        quantised: nn.Module = torch.ao.quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear})
    return quantised


def linear_calls(tokens: int, inputs: int, outputs: int) -> dict[str, Callable[[], Any]]:
    linear, values = nn.Linear(inputs, outputs).requires_grad_(False), torch.randn(1, tokens, inputs)
    meaning = QuantLinear(linear, INT8, input_range=affine_range(values, 8))
    lowered = runtimes.find("torch").load(_Named(meaning), devices.find("cpu"), threads=available_cores())
    bf16, bf16_values = copy.deepcopy(linear).bfloat16(), values.bfloat16()
    dynamic = dynamic_int8(nn.Sequential(linear))
    return {
        "float32": lambda: linear(values),
        "bfloat16": lambda: bf16(bf16_values),
        "torch dynamic int8": lambda: dynamic(values),
        "paring int8": lambda: lowered.model.part(values),
    }


class _Named(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part


def model_calls(settings: dict[str, int], batch: int, tokens: int) -> dict[str, Callable[[], Any]]:
    model = BertForSequenceClassification(BertConfig(**settings)).eval().requires_grad_(False)
    inputs = {"input_ids": torch.randint(1000, 20000, (batch, tokens))}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    anatomy = anatomy_of(model)
    plan = anatomy.identity()
    stack = plan.stack("encoder")
    every = Treatments.of({kind: Treatment(precision=INT8) for kind in anatomy.stack("encoder").linears})
    plan = plan.with_stack(type(stack)("encoder", tuple(type(slot)(slot.layer, every) for slot in stack.slots)))
    names = [f"encoder.{slot}.{kind}" for slot in range(len(stack.slots)) for kind, _ in every.items]
    input_range = {"scale": torch.tensor(0.05, dtype=torch.float64), "zero_point": torch.tensor(128)}
    ranges = dict.fromkeys(names, input_range)
    cpu, threads = devices.find("cpu"), available_cores()
    int8 = runtimes.find("torch").load(build(model, plan, materials={"bits": ranges}), cpu, threads=threads)
    bf16, dynamic = copy.deepcopy(model).bfloat16(), dynamic_int8(model)
    return {
        "float32": lambda: model(**inputs),
        "bfloat16": lambda: bf16(**inputs),
        "torch dynamic int8": lambda: dynamic(**inputs),
        "paring int8": lambda: int8(inputs),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0)
    effort = Effort(seconds=parser.parse_args().seconds)
    torch.set_num_threads(available_cores())
    cases = {
        f"Linear {inputs}x{outputs}, {tokens} tokens": lambda t=tokens, i=inputs, o=outputs: linear_calls(t, i, o)
        for tokens in (1, 32, 128)
        for inputs, outputs in ((384, 384), (384, 1536), (1536, 384), (768, 768), (768, 3072), (3072, 768))
    } | {
        f"{name}, batch {batch}, {tokens} tokens": lambda s=settings, b=batch, t=tokens: model_calls(s, b, t)
        for name, settings in MODELS.items()
        for batch, tokens in ((1, 32), (1, 128), (8, 32))
    }
    rows = []
    with torch.inference_mode():
        for case, make in cases.items():
            for name, latency in measure(make(), baseline="float32", effort=effort).items():
                row = {"case": case, "kernel": name, "ms": latency.seconds * 1e3, "ratio": latency.ratio}
                rows.append({**row, "low": latency.ratio_low, "high": latency.ratio_high})
    keep("int8_kernels", rows, threads=available_cores())


if __name__ == "__main__":
    main()
