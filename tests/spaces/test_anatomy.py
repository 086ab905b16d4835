from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from paring.errors import ModelError
from paring.spaces.anatomy import anatomy_of
from paring.spaces.families import FAMILIES

MakeModel = Callable[..., PreTrainedModel]


# What a classifier of the family has outside its layers, beside the table of words; all but its last Linear.
OPTIONAL = defaultdict(
    tuple,
    bert=("positions", "token_types", "pooler"),
    distilbert=("positions",),
    electra=("positions", "token_types"),
    roberta=("positions", "token_types"),
)
HEADS = defaultdict(tuple, distilbert=("head",), electra=("head",), roberta=("head",))


@pytest.mark.parametrize("headless", [False, True])
@pytest.mark.parametrize("family", [*FAMILIES, "t5-gated"])
def test_every_part_is_found(make_model: MakeModel, family: str, headless: bool) -> None:
    whole = make_model(family, layers=4)
    model = whole.base_model if headless else whole
    anatomy = anatomy_of(model)
    assert anatomy.family == family.removesuffix("-gated")
    stacks = ["encoder", "decoder"] if model.config.is_encoder_decoder else ["encoder"]
    assert [(stack.name, stack.n_layers) for stack in anatomy.stacks] == [(name, 4) for name in stacks]
    for stack in anatomy.stacks:
        assert [str(slot.layer) for slot in anatomy.identity().stack(stack.name).slots] == ["0", "1", "2", "3"]
        layers = model.get_submodule(stack.path)
        found = [layer.get_submodule(path) for layer in layers for path in stack.linears.values()]
        assert set(found) == {part for part in layers.modules() if isinstance(part, nn.Linear)}
        assert len(set(found)) == len(found)
        assert getattr(model.config, stack.depth_settings[0]) == 4
    assert list(anatomy.outside) == ["embeddings", *OPTIONAL[family], *(HEADS[family] if not headless else ())]
    for path in anatomy.outside.values():
        assert isinstance(model.get_submodule(path), nn.Linear | nn.Embedding)
    assert model.get_submodule(anatomy.outside["embeddings"]).weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("family", [name for name, forms in FAMILIES.items() if len(forms[0].stacks) == 1])
def test_kinds_are_what_they_are_called(make_model: MakeModel, family: str) -> None:
    """Without its value and attention output, or its two feed-forward Linears, a layer's own part must vanish."""
    model = make_model(family)
    anatomy = anatomy_of(model).stack("encoder")
    layer = model.get_submodule(f"{anatomy.path}.0")
    shapes = {kind: tuple(layer.get_submodule(path).weight.shape) for kind, path in anatomy.linears.items()}
    assert shapes.pop("ffn_in") == (64, 32)
    assert shapes.pop("ffn_out") == (32, 64)
    assert set(shapes.items()) == {(kind, (32, 32)) for kind in ("query", "key", "value", "attention_output")}
    hidden = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))

    def attention_moves(kind: str) -> bool:
        part = layer.get_submodule(anatomy.linears[kind])
        seen: list[torch.Tensor] = []
        probe = layer.get_submodule(anatomy.linears["attention_output"])
        hook = probe.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        with torch.inference_mode():
            layer(hidden)
            part.bias.add_(torch.linspace(-9, 9, len(part.bias)))
            layer(hidden)
        hook.remove()
        return not torch.allclose(seen[0], seen[1], atol=1e-4)

    # A bias of the keys shifts all scores of a query alike, so softmax does not see it; those of the others show.
    assert attention_moves("value") and attention_moves("query") and not attention_moves("key")
    assert not attention_moves("ffn_in") and not attention_moves("attention_output")


def test_unknown_family_names_the_known_ones() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(ModelError, match=r"'gpt2'.*bart, bert, .*, t5"):
        anatomy_of(model)


@pytest.mark.parametrize(
    ("path", "replacement", "message"),
    [
        ("bert.encoder", nn.Identity(), r"no part 'bert\.encoder\.layer'"),
        ("bert.encoder.layer", nn.Identity(), r"'bert\.encoder\.layer' should be a ModuleList, got a Identity"),
        ("bert.encoder.layer", nn.ModuleList(), r"no part 'bert\.encoder\.layer\.0\..*'"),
        ("bert.encoder.layer.0.intermediate.dense", nn.Identity(), r"should be a Linear, got a Identity"),
        ("bert.embeddings.word_embeddings", nn.Linear(1, 1), r"should be a Embedding, got a Linear"),
    ],
)
def test_missing_parts_are_named(make_model: MakeModel, path: str, replacement: nn.Module, message: str) -> None:
    model = make_model("bert")
    model.set_submodule(path, replacement)
    with pytest.raises(ModelError, match=message):
        anatomy_of(model)
