"""Models that write: on runtimes, and as a workload."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from paring.errors import SettingError
from paring.profilers import devices, runtimes
from paring.profilers.runtimes import Executable
from paring.profilers.workload import Workload, longest_output, request
from paring.spaces.workbench import Inputs

MakeModel = Callable[..., PreTrainedModel]
RequestInputs = Callable[..., dict[str, Tensor]]

families = pytest.mark.parametrize("family", ["mbart", "t5", "bart", "marian"])
EOS = 1


def load(model: PreTrainedModel) -> Executable:
    return runtimes.find("torch").load(model, devices.find("cpu"), threads=1)


def greedily(model: PreTrainedModel, inputs: Inputs, tokens: int) -> list[list[int]]:
    """The likeliest token every time, with no cache and no help of `generate`."""
    ids = torch.full((len(inputs["input_ids"]), 1), model.config.decoder_start_token_id)
    for _ in range(tokens):
        with torch.inference_mode():
            logits = model(**inputs, decoder_input_ids=ids).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids.tolist()


def until_the_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS) + 1] if EOS in ids else ids


@families
def test_what_is_written_is_the_likeliest(family: str, make_model: MakeModel, request_inputs: RequestInputs) -> None:
    model, inputs = make_model(family), request_inputs(6, 9)
    found = load(model).generate(inputs, new_tokens=12)
    assert found.device.type == "cpu"
    for own, expected in zip(found.tolist(), greedily(model, inputs, 12), strict=True):
        assert until_the_end(own) == until_the_end(expected)
        assert set(own[len(until_the_end(own)) :]) <= {0}
    assert len({tuple(own) for own in found.tolist()}) > 1


@families
def test_sampling_and_lengths_of_the_model_do_not_count(
    family: str, make_model: MakeModel, request_inputs: RequestInputs
) -> None:
    model, inputs = make_model(family), request_inputs(6, 9)
    expected = load(model).generate(inputs, new_tokens=12)
    own = model.generation_config
    own.update(do_sample=True, temperature=3.0, top_k=7, num_beams=4, max_length=3, num_return_sequences=2)
    own.update(return_dict_in_generate=True, early_stopping=True, min_length=90, min_new_tokens=91)
    before = own.to_dict()
    found = load(model).generate(inputs, new_tokens=12)
    assert own.to_dict() == before
    # A least length of the model's own is kept as far as the tokens asked for go.
    assert found.shape == (6, 13)
    own.update(min_length=None, min_new_tokens=None)
    assert torch.equal(load(model).generate(inputs, new_tokens=12), expected)


class Remarks(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@pytest.mark.parametrize("exactly", [True, False])
def test_nothing_is_said_of_settings_that_have_no_effect(
    make_model: MakeModel, request_inputs: RequestInputs, exactly: bool
) -> None:
    model, inputs, remarks = make_model("bart"), request_inputs(2, 9), Remarks()
    model.generation_config.update(temperature=3.0, early_stopping=True, length_penalty=2.0, max_length=142)
    executable = load(model)
    logger = logging.getLogger("transformers")
    logger.addHandler(remarks)
    heard = []
    try:
        for write in (
            lambda: model.generate(**inputs, max_new_tokens=4),
            lambda: executable.generate(inputs, new_tokens=4, exactly=exactly),
        ):
            logging.Logger.warning_once.cache_clear()
            remarks.said.clear()
            write()
            heard.append(bool(remarks.said))
    finally:
        logger.removeHandler(remarks)
    assert heard == [True, False]


@families
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("tokens", [1, 2, 20])
def test_exactly_so_many_tokens_are_written(
    family: str, beams: int, tokens: int, make_model: MakeModel, request_inputs: RequestInputs
) -> None:
    model = make_model(family)
    # A model that would always end at once, and has a rule of its own for the last token.
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    bias = torch.zeros(64)
    bias[EOS] = 1e3
    head.bias = torch.nn.Parameter(bias, requires_grad=False)
    model.generation_config.update(forced_eos_token_id=EOS, min_length=90, max_length=5)
    executable, inputs = load(model), request_inputs(3, 9)
    found = executable.generate(inputs, new_tokens=tokens, beams=beams, exactly=True)
    assert found.shape == (3, tokens + 1)
    assert EOS not in found[:, :-1].tolist()
    model.generation_config.update(min_length=None)
    assert load(model).generate(inputs, new_tokens=20, beams=beams).shape[1] < 20


@pytest.mark.parametrize("family", ["mbart", "t5", "bart"])  # the tiny Marian repeats one token, beams or not
def test_beams_find_what_is_at_least_as_likely(
    family: str, make_model: MakeModel, request_inputs: RequestInputs
) -> None:
    model, inputs = make_model(family), request_inputs(8, 9)
    executable = load(model)

    def likelihood(ids: Tensor) -> Tensor:
        logits = executable({**inputs, "decoder_input_ids": ids[:, :-1]}).log_softmax(-1)
        return logits.gather(2, ids[:, 1:, None]).sum((1, 2))

    one, more = (executable.generate(inputs, new_tokens=6, beams=beams, exactly=True) for beams in (1, 5))
    assert not torch.equal(one, more)
    assert float(likelihood(more).sum()) > float(likelihood(one).sum())


@families
def test_labels_are_what_the_decoder_reads(family: str, make_model: MakeModel, request_inputs: RequestInputs) -> None:
    model, inputs = make_model(family), request_inputs(2, 9)
    labels = torch.tensor([[5, 6, 7, EOS], [8, EOS, -100, -100]])
    found = load(model)({**inputs, "labels": labels})
    with torch.inference_mode():
        expected = model(**inputs, labels=labels).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    shifted = model.prepare_decoder_input_ids_from_labels(labels)
    assert torch.equal(load(model)({**inputs, "decoder_input_ids": shifted}), found)


def test_a_model_without_a_decoder_ignores_labels(make_model: MakeModel, request_inputs: RequestInputs) -> None:
    executable, inputs = load(make_model("bert")), request_inputs()
    assert torch.equal(executable({**inputs, "labels": torch.tensor([0, 1])}), executable(inputs))


@pytest.mark.skipif("openvino" not in runtimes.names(), reason="no such runtime")
def test_openvino_says_what_to_do_with_a_decoder(make_model: MakeModel) -> None:
    runtime = runtimes.find("openvino")
    assert "use --runtime torch" in str(runtime.refusal(make_model("mbart")))
    assert runtime.refusal(make_model("bert")) is None


class Noted:
    """An executable that notes what it is asked."""

    kernels = "float"

    def __init__(self) -> None:
        self.asked: list[object] = []

    def __call__(self, inputs: Inputs) -> Tensor:
        self.asked.append("forward")
        return torch.zeros(1, 2)

    def generate(self, inputs: Inputs, *, new_tokens: int, beams: int = 1, exactly: bool = False) -> Tensor:
        self.asked.append((new_tokens, beams, exactly))
        return torch.zeros(1, new_tokens + 1, dtype=torch.long)


def test_a_request_is_what_the_workload_says() -> None:
    executable = Noted()
    assert request(executable, {}, Workload()).shape == (1, 2)
    assert request(executable, {}, Workload(generated=7, beams=3)).shape == (1, 8)
    assert executable.asked == ["forward", (7, 3, True)]


@families
def test_the_longest_text_a_model_can_write_is_served(family: str, make_model: MakeModel) -> None:
    """64 positions, one for the start token; T5 has no positions to run out of."""
    model = make_model(family)
    workload = Workload(batch=2, tokens=64, generated=63, beams=2)
    assert request(load(model), workload.inputs(model.config), workload).shape == (2, 64)
    longer = replace(workload, generated=64)
    if family == "t5":
        assert longest_output(model.config) > 10**5
        more = replace(longer, tokens=200, generated=80)
        assert request(load(model), more.inputs(model.config), more).shape == (2, 81)
    else:
        with pytest.raises(SettingError, match=r"64 positions.* asks for 64 generated tokens, so give at most 63"):
            longer.inputs(model.config)
        with pytest.raises(SettingError, match="64 positions; the workload asks for 65 tokens"):
            replace(workload, tokens=65).inputs(model.config)


@pytest.mark.parametrize(("setting", "value", "least"), [("generated", -1, 0), ("beams", 0, 1)])
def test_workloads_that_cannot_be(setting: str, value: int, least: int) -> None:
    with pytest.raises(SettingError, match=f"{setting} of a workload must be at least {least}, got {value}"):
        Workload(**{setting: value})


def test_json_and_words_of_a_workload_that_writes() -> None:
    workload = Workload(4, 32, 2, generated=16, beams=3)
    assert Workload.from_json(json.loads(json.dumps(workload.to_json()))) == workload
    assert str(workload) == "batch 4, 32 tokens, 16 tokens generated with 3 beams, 2 threads"
    assert str(replace(workload, beams=1)) == "batch 4, 32 tokens, 16 tokens generated, 2 threads"
    beams = Workload(beams=2)
    assert Workload.from_json(beams.to_json()) == beams


def test_the_json_of_a_forward_pass_is_what_it_always_was() -> None:
    """So a run folder from before there was more goes on."""
    assert Workload(4, 32, 2).to_json() == {"batch": 4, "tokens": 32, "threads": 2}
    assert Workload.from_json({"batch": 4, "tokens": 32, "threads": 2}) == Workload(4, 32, 2)
