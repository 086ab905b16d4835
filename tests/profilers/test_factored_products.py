"""Factorised parts on every runtime: they mean what they mean, run as two products where that pays, and it is said."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from paring.profilers import devices, factored_products, kept, runtimes
from paring.profilers.factored_products import quicker_as_two, settle
from paring.spaces import artefact
from paring.spaces.factored import DecodedEmbedding, FactoredEmbedding, FactoredLinear
from paring.spaces.factoring import Factoring
from paring.spaces.factorisation import Factorisation
from paring.spaces.plan import Layer, Plan, Treatment, Treatments
from paring.spaces.precision import Precision
from paring.spaces.workbench import Inputs

MakeModel = Callable[..., PreTrainedModel]
MakeBench = Callable[[PreTrainedModel], Any]
GROUP = Layer(0), Layer(2)
RUNTIMES = [name for name in runtimes.names() if runtimes.find(name).absence(devices.find("cpu")) is None]
FORMS = {
    "two factors": Treatment(Factorisation("svd", 6)),
    "one shared": Treatment(Factorisation("svd", 6, GROUP)),
    "linear autoencoder": Treatment(Factorisation("linear_autoencoder", 6, GROUP)),
    "decoder": Treatment(Factorisation("autoencoder", 4, GROUP)),
    "decoder w8": Treatment(Factorisation("autoencoder", 4, GROUP), Precision(8)),
    "w8a8": Treatment(Factorisation("svd", 6, GROUP), Precision(8, 8)),
    "w4": Treatment(Factorisation("svd", 6), Precision(4, None, (1, 32))),
}
ASKED = {
    "two factors": "factors {}/6 Linears",
    "one shared": "factors {}/6 Linears",
    "linear autoencoder": "factors {}/6 Linears",
    "decoder": "decoder 0/6 Linears",
    "decoder w8": "decoder 0/6 Linears",
}


@pytest.fixture(scope="module")
def bench(make_model: MakeModel, make_bench: MakeBench) -> Any:
    model = make_model("bert")
    with torch.no_grad():
        for name, part in model.base_model.named_modules():
            if isinstance(part, nn.Linear) and ".layer." in f".{name}":
                part.weight.mul_(8)
    found = make_bench(model)
    training = replace(Factoring().training, epochs=2)
    found.anatomy = replace(found.anatomy, factoring=Factoring(training=training))
    return found


def treated(bench: Any, treatment: Treatment, table: Treatment | None = None) -> Plan:
    """Query and FFN in of all layers so treated, and the words if asked for."""
    plan = bench.anatomy.identity()
    own = Treatments.of({"query": treatment, "ffn_in": treatment})
    stack = plan.stack("encoder")
    plan = plan.with_stack(replace(stack, slots=tuple(replace(slot, treatments=own) for slot in stack.slots)))
    return replace(plan, outside=Treatments.of({"embeddings": table})) if table else plan


@pytest.fixture
def pays(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Decides what is quicker, which is measured otherwise."""

    def decide(answer: bool) -> None:
        for name in ("torch", "openvino", "onnxruntime"):
            module = __import__(f"paring.profilers.runtimes.{name}", fromlist=["quicker_as_two"])
            monkeypatch.setattr(module, "quicker_as_two", lambda *_: answer)

    return decide


def distance(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


# What else there is to a form does not depend on the runtime.
CASES = [
    (runtime, form, answer)
    for runtime in RUNTIMES
    for form in (FORMS if runtime == "torch" else ("one shared", "decoder w8", "w8a8"))
    for answer in ((True, False) if form in ("one shared", "linear autoencoder") else (True,))
]


@pytest.mark.parametrize(("runtime", "form", "answer"), CASES)
def test_every_form_runs_as_meant_and_it_is_said(
    bench: Any, inputs_of: Callable[..., Inputs], pays: Callable[[bool], None], runtime: str, form: str, answer: bool
) -> None:
    pays(answer)
    model, inputs = bench.build(treated(bench, FORMS[form])), inputs_of(bench.model)
    with torch.inference_mode():
        wanted = model(**inputs).logits
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    executable = runtimes.find(runtime).load(model, devices.find("cpu"), threads=1)
    # Integers that round apart are a matter of chance; float products differ by the order of their sums.
    assert distance(executable(inputs), wanted) < (1e-2 if form == "w8a8" else 1e-4)
    if form in ASKED:
        assert executable.kernels == ASKED[form].format(6 if answer else 0)
    else:
        assert "factors 6/6" in executable.kernels
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(("method", "precision"), [("svd", None), ("autoencoder", Precision(8))])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_tables_are_multiplied_row_by_row(
    bench: Any, inputs_of: Callable[..., Inputs], runtime: str, method: str, precision: Precision | None
) -> None:
    table = Treatment(Factorisation(method, 4), precision)
    model, inputs = bench.build(treated(bench, Treatment(), table)), inputs_of(bench.model)
    words = model.get_submodule("bert.embeddings.word_embeddings")
    assert isinstance(words, FactoredEmbedding if method == "svd" else DecodedEmbedding)
    with torch.inference_mode():
        wanted = model(**inputs).logits
    executable = runtimes.find(runtime).load(model, devices.find("cpu"), threads=1)
    assert distance(executable(inputs), wanted) < 1e-4


@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name != "torch"])
def test_saved_models_run_by_themselves(bench: Any, tmp_path: Path, runtime: str) -> None:
    model = bench.build(treated(bench, FORMS["one shared"], Treatment(Factorisation("svd", 4))))
    runtimes.find(runtime).save(model, tmp_path)
    assert list(tmp_path.iterdir())


def test_what_does_not_pay_is_folded(bench: Any) -> None:
    model = bench.build(treated(bench, FORMS["two factors"]))
    asked = []

    def pays(rows: int, columns: int, rank: int) -> bool:
        asked.append((rows, columns, rank))
        return rows == 64

    found = settle(model, pays)
    assert sorted(set(asked)) == [(32, 32, 6), (64, 32, 6)]
    assert found.asked == ("factors",) * 6
    assert found.ran == ("factors",) * 3
    layer = model.get_submodule("bert.encoder.layer.0")
    assert isinstance(layer.get_submodule("attention.self.query"), nn.Linear)
    assert isinstance(layer.get_submodule("intermediate.dense"), FactoredLinear)


def test_a_shape_is_measured_once_and_only_where_it_can_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []

    def make(weights: Sequence[Tensor]) -> Callable[[Tensor], object]:
        made.extend(tuple(weight.shape) for weight in weights)

        def multiply(inputs: Tensor) -> None:
            for weight in weights:
                inputs = inputs @ weight.t()

        return multiply

    # 1,024 x 1,024 in rank 8 is a sixty-fourth of the multiply-adds: no noise hides that.
    where = ("a runtime of this test", 1)
    assert quicker_as_two(where, make, 1024, 1024, 8)
    assert made == [(1024, 1024), (8, 1024), (1024, 8)]
    assert quicker_as_two(where, make, 1024, 1024, 8)
    assert not quicker_as_two(where, make, 1024, 1024, 512)
    assert len(made) == 3
    monkeypatch.setattr(factored_products, "_known", {})  # as in another process
    assert quicker_as_two(where, make, 1024, 1024, 8)
    assert len(made) == 3
    kept.forget(factored_products.PRODUCTS)
    monkeypatch.setattr(factored_products, "_known", {})
    assert quicker_as_two(where, make, 1024, 1024, 8)
    assert len(made) == 6


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_runtimes_can_measure_products(monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    """What a runtime times is the product of all the matrices: the answer is right, too."""
    module = __import__(f"paring.profilers.runtimes.{runtime}", fromlist=["_products"])
    weights = [torch.randn(3, 8), torch.randn(5, 3)]
    where = devices.find("cpu") if runtime == "torch" else 1
    made, inputs = module._products(where, weights), torch.randn(7, 8)
    found: Any = made(inputs)
    if runtime == "torch":
        assert found is None  # torch's stays on its device
    else:
        assert torch.allclose(torch.from_numpy(found[0].copy()), inputs @ weights[0].t() @ weights[1].t(), atol=1e-4)


def test_a_saved_model_is_as_small_as_its_factors(bench: Any, tmp_path: Path) -> None:
    whole = artefact.stored_bytes(bench.model)
    shared, alone = (bench.build(treated(bench, FORMS[form])) for form in ("one shared", "two factors"))
    sizes = [whole - artefact.stored_bytes(model) for model in (shared, alone)]
    # Query 32 x 32 and FFN in 64 x 32, three of each, with a second factor of 6 x 32 for each kind or for each part.
    dense = 3 * 4 * (32 * 32 + 64 * 32)
    assert sizes == [dense - 4 * 6 * (3 * 96 + 2 * 32), dense - 4 * 6 * (3 * 96 + 6 * 32)]
    assert factored_products.settle(alone, lambda *_: True).ran == ("factors",) * 6
