"""The families paring knows: one table that says where each keeps its parts; a new family is a new row.

Paths are those of `nn.Module.get_submodule`, from the base model. A family that comes in several forms lists one layout
for each; the first whose parts are all there is the one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class StackAnatomy:
    """One stack of layers.

    Attributes:
        name: "encoder" or "decoder".
        path: of the `nn.ModuleList` that holds the layers.
        depth_settings: the attributes of the model's config that hold the number of layers.
        linears: kind of Linear -> its path inside one layer.
        intermediates: kind of result between Linears -> paths inside one layer of the parts that compute it.
        n_layers: how many layers the original has.
        granularities: for how many layers a modular layer may stand; none if there shall be no modular layers.
        shapes: kind of Linear -> rows (outputs) and columns (inputs) of its weight.
    """

    name: str
    path: str
    depth_settings: tuple[str, ...]
    linears: Mapping[str, str]
    intermediates: Mapping[str, tuple[str, ...]]
    n_layers: int = 0
    granularities: tuple[int, ...] = ()
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a model of one form keeps its parts.

    Attributes:
        stacks: its layer stacks, in the order they run.
        outside: kind -> path of the tables outside the stacks that an axis may change. A table that is the same
            parameter as an earlier one is no part of its own.
        intermediates: kind of result -> paths of the parts outside the stacks that compute it.
        optional: kind -> path of further tables and Linears outside the stacks, of which a model may have any.
        heads: the same, with paths from the whole model: Linears of task heads as wide as the layers.
    """

    stacks: tuple[StackAnatomy, ...]
    outside: Mapping[str, str]
    intermediates: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, str] = field(default_factory=dict)
    heads: Mapping[str, str] = field(default_factory=dict)


def _linears(prefix: str = "", **paths: str) -> Mapping[str, str]:
    """Kinds -> paths, all behind the same prefix."""
    return MappingProxyType({kind: prefix + path for kind, path in paths.items()})


def _joined(*parts: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType({kind: path for part in parts for kind, path in part.items()})


def _intermediates(
    attention: tuple[str, ...], activation: str, norms: tuple[str, ...]
) -> Mapping[str, tuple[str, ...]]:
    """The kinds of results that every layer has."""
    kinds = {
        "scores": attention,
        "softmax": attention,
        "context": attention,
        "activation": (activation,),
        "norms": norms,
    }
    return MappingProxyType(kinds)


_BERT_LINEARS = _linears(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    ffn_in="intermediate.dense",
    ffn_out="output.dense",
)
_DISTILBERT_LINEARS = _joined(
    _linears("attention.", query="q_lin", key="k_lin", value="v_lin", attention_output="out_lin"),
    _linears("ffn.", ffn_in="lin1", ffn_out="lin2"),
)
_WORDS = MappingProxyType({"embeddings": "embeddings.word_embeddings"})
_POSITIONS = _linears("embeddings.", positions="position_embeddings")
_BERT_INTERMEDIATES = _intermediates(
    ("attention.self",), "intermediate.intermediate_act_fn", ("attention.output.LayerNorm", "output.LayerNorm")
)
_DISTILBERT_INTERMEDIATES = _intermediates(("attention",), "ffn.activation", ("sa_layer_norm", "output_layer_norm"))
_WORDS_NORM = MappingProxyType({"embedding_norm": ("embeddings.LayerNorm",)})
_BERT = Layout(
    (StackAnatomy("encoder", "encoder.layer", ("num_hidden_layers",), _BERT_LINEARS, _BERT_INTERMEDIATES),),
    _WORDS,
    _WORDS_NORM,
    _joined(_POSITIONS, _linears(token_types="embeddings.token_type_embeddings", pooler="pooler.dense")),
    _linears(head="classifier.dense"),
)
_DISTILBERT = Layout(
    (StackAnatomy("encoder", "transformer.layer", ("n_layers",), _DISTILBERT_LINEARS, _DISTILBERT_INTERMEDIATES),),
    _WORDS,
    _WORDS_NORM,
    _POSITIONS,
    _linears(head="pre_classifier"),
)

_SELF = _linears("self_attn.", query="q_proj", key="k_proj", value="v_proj", attention_output="out_proj")
_CROSS = _linears(
    "encoder_attn.", cross_query="q_proj", cross_key="k_proj", cross_value="v_proj", cross_output="out_proj"
)
_FFN = _linears(ffn_in="fc1", ffn_out="fc2")
# Where encoder and decoder have a table each, the lookups of both stay apart.
_TWO_TABLES = MappingProxyType({"embeddings": "encoder.embed_tokens", "decoder_embeddings": "decoder.embed_tokens"})
_BART_ENCODER = _intermediates(("self_attn",), "activation_fn", ("self_attn_layer_norm", "final_layer_norm"))
_BART_DECODER = _intermediates(
    ("self_attn", "encoder_attn"),
    "activation_fn",
    ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
)


def _bart(**norms: str) -> Layout:
    """A BART-like model with these norms at the begin and end of its stacks."""
    return Layout(
        (
            StackAnatomy("encoder", "encoder.layers", ("encoder_layers",), _joined(_SELF, _FFN), _BART_ENCODER),
            StackAnatomy("decoder", "decoder.layers", ("decoder_layers",), _joined(_SELF, _CROSS, _FFN), _BART_DECODER),
        ),
        _TWO_TABLES,
        MappingProxyType({kind: (f"encoder.{name}", f"decoder.{name}") for kind, name in norms.items()}),
    )


_T5_SELF = _linears("layer.0.SelfAttention.", query="q", key="k", value="v", attention_output="o")
_T5_CROSS = _linears("layer.1.EncDecAttention.", cross_query="q", cross_key="k", cross_value="v", cross_output="o")


def _t5(**ffn: str) -> Layout:
    """T5 with these feed-forward Linears."""
    encoder = _linears("layer.1.DenseReluDense.", **ffn)
    decoder = _linears("layer.2.DenseReluDense.", **ffn)
    attentions = ("layer.0.SelfAttention", "layer.1.EncDecAttention")
    norms = tuple(f"layer.{number}.layer_norm" for number in range(3))
    results = _intermediates(attentions[:1], "layer.1.DenseReluDense.act", norms[:2])
    decoder_results = _intermediates(attentions, "layer.2.DenseReluDense.act", norms)
    # `generate` of transformers 5 makes its cache as deep as `decoder_layers`; where that is missing, as the encoder.
    depth = ("num_decoder_layers", "decoder_layers")
    return Layout(
        (
            StackAnatomy("encoder", "encoder.block", ("num_layers",), _joined(_T5_SELF, encoder), results),
            StackAnatomy("decoder", "decoder.block", depth, _joined(_T5_SELF, _T5_CROSS, decoder), decoder_results),
        ),
        _TWO_TABLES,
        MappingProxyType({"final_norm": ("encoder.final_layer_norm", "decoder.final_layer_norm")}),
    )


FAMILIES: Mapping[str, tuple[Layout, ...]] = MappingProxyType(
    {
        "bart": (_bart(embedding_norm="layernorm_embedding"),),
        "bert": (_BERT,),
        "distilbert": (_DISTILBERT,),
        "electra": (_BERT,),
        "marian": (_bart(),),
        "mbart": (_bart(embedding_norm="layernorm_embedding", final_norm="layer_norm"),),
        "roberta": (_BERT,),
        "t5": (_t5(ffn_in="wi", ffn_out="wo"), _t5(ffn_gate="wi_0", ffn_in="wi_1", ffn_out="wo")),
    }
)
INTERMEDIATES = tuple(
    dict.fromkeys(
        kind
        for layouts in FAMILIES.values()
        for layout in layouts
        for kinds in (*(stack.intermediates for stack in layout.stacks), layout.intermediates)
        for kind in kinds
    )
)
