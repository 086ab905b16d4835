"""What modular layers learn from: the original model, run beside an assembly of it on the same batch.

The losses are those [Zhou2023] names, task and distillation of hidden states and attention, and the divergence of the
logits. How each is computed and weighted is ours; `benchmarks/modular_layers.py` says what each is worth.

[Zhou2023]: Zhou, Le Bras, Choi, "Modular Transformers", Findings of ACL 2023, arXiv 2306.02379.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from ..errors import SettingError
from ..spaces.anatomy import Anatomy
from ..spaces.build import copy_sharing_parameters, settle_layers
from ..spaces.plan import Layer
from ..spaces.workbench import Inputs

IGNORED_LABEL = -100
# Linear kinds whose module's parent is an attention.
_ATTENTIONS = ("query", "cross_query")

Standing = Mapping[str, Sequence[Layer]]
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Losses:
    """Weights of the losses, each at least 0; one that is 0 is not computed.

    Attributes:
        task: the model's own loss on the labels.
        logits: Kullback-Leibler divergence of the answers from the original's; the squared error of a score.
        hidden: squared error of the hidden states at the end of every piece, over the mean square of the original's.
        attention: Kullback-Leibler divergence of the attention of every modular layer from that of the last original
            it stands for; self- and cross-attention.
    """

    task: float = 1.0
    logits: float = 1.0
    hidden: float = 1.0
    attention: float = 0.1

    def __post_init__(self) -> None:
        weights = asdict(self)
        if min(weights.values()) < 0 or not any(weights.values()):
            raise SettingError(f"loss weights are at least 0 and not all of them 0, got {weights}.")


class Taps:
    """Looks into the layers of a model while it runs.

    Attributes:
        hidden: (stack, layer) -> what the layer gave out, batch x tokens x width.
        attention: (stack, layer, kind of query) -> attention, batch x heads x queries x keys.
    """

    def __init__(self) -> None:
        self.hidden: dict[tuple[str, Layer], Tensor] = {}
        self.attention: dict[tuple[str, Layer, str], Tensor] = {}

    def watch(self, stack: str, layer: Layer, module: nn.Module, linears: Mapping[str, str]) -> None:
        """Looks into one layer from now on.

        Args:
            stack: its name.
            layer: what the module is.
            module: the layer.
            linears: kind of Linear -> its path inside the layer.
        """

        def keep_hidden(_: nn.Module, __: Any, output: Any) -> None:
            self.hidden[stack, layer] = output[0] if isinstance(output, tuple) else output

        module.register_forward_hook(keep_hidden)
        for kind in _ATTENTIONS:
            if kind in linears:
                attention = module.get_submodule(linears[kind].rpartition(".")[0])

                def keep_attention(_: nn.Module, __: Any, output: Any, kind: str = kind) -> None:
                    # T5's comes last, after a position bias of the same shape.
                    found = [part for part in output if isinstance(part, Tensor) and part.dim() == 4]
                    self.attention[stack, layer, kind] = found[-1]

                attention.register_forward_hook(keep_attention)

    def forget(self) -> None:
        """Lets go of what was seen."""
        self.hidden.clear()
        self.attention.clear()


class Pair:
    """The frozen original and an assembly of it, run on the same batches.

    Attributes:
        student: the assembly; what of it learns is up to who made its layers.
        teacher_sees: what the layers of the original gave out when it last ran.
        layers: stack -> layer -> module that may stand in the student.
        compares: whether a loss compares student and original; else the original need not run.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        student: PreTrainedModel,
        anatomy: Anatomy,
        layers: Mapping[str, Mapping[Layer, nn.Module]],
        losses: Losses,
    ) -> None:
        """Watches the layers of both, which must not share modules, and must run eager attention."""
        self._teacher, self.student, self._anatomy, self.layers = teacher, student, anatomy, layers
        self._losses = losses
        self.compares = bool(losses.logits or losses.hidden or losses.attention)
        self.teacher_sees, self._student_sees = Taps(), Taps()
        self._teacher_logits = torch.empty(0)
        self._firsts: dict[str, nn.Module] = {}
        for stack in anatomy.stacks:
            originals = teacher.get_submodule(stack.path)
            assert isinstance(originals, nn.ModuleList)
            self._firsts[stack.name] = copy_sharing_parameters(originals[0])
            for index, module in enumerate(originals):
                self.teacher_sees.watch(stack.name, Layer(index), module, stack.linears)
            for layer, module in layers[stack.name].items():
                self._student_sees.watch(stack.name, layer, module, stack.linears)

    def stand(self, standing: Standing) -> None:
        """Assembles the student from now on of these layers."""
        for stack in self._anatomy.stacks:
            layers = [self.layers[stack.name][layer] for layer in standing[stack.name]]
            settle_layers(layers, first=self._firsts[stack.name])
            self.student.set_submodule(stack.path, nn.ModuleList(layers))

    def losses(self, batch: Inputs, standing: Standing) -> dict[str, Tensor]:
        """Name of each loss of weight above 0 -> its value, a scalar, unweighted.

        Args:
            batch: inputs and `labels`, on the device of the models; the one that was shown last.
            standing: stack -> the layers that stand, in order.
        """
        self.stand(standing)
        weights = self._losses
        student = self.student(**batch)
        masks = _masks(self._anatomy, batch)
        found: dict[str, Tensor] = {}
        if weights.task:
            found["task"] = student.loss.float()
        if weights.logits:
            found["logits"] = divergence(student.logits, self._teacher_logits, batch["labels"])
        if weights.hidden:
            found["hidden"] = self._hidden_loss(standing, masks)
        if weights.attention:
            found["attention"] = self._attention_loss(standing, masks, student.logits)
        self._student_sees.forget()
        return found

    def total(self, found: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of losses."""
        weights = asdict(self._losses)
        return torch.stack([weights[name] * value for name, value in found.items()]).sum()

    @torch.no_grad()
    def show(self, batch: Inputs) -> None:
        """Runs the original on a batch that assemblies will be compared on."""
        self._teacher_logits = self._teacher(**batch).logits

    @torch.no_grad()
    def nearest(self, batch: Inputs, stack: str, candidates: Mapping[Layer, Standing], until: Layer) -> Layer:
        """Which layer, each standing where its assembly says, comes nearest to what an original gives out.

        Args:
            batch: inputs and `labels`; the one that was shown last.
            stack: where the layers are.
            candidates: layer -> the assembly it is looked at in.
            until: the original.
        """
        errors: dict[Layer, float] = {}
        wanted, mask = self.teacher_sees.hidden[stack, until], _masks(self._anatomy, batch)[stack]
        for layer, standing in candidates.items():
            self.stand(standing)
            self.student(**batch)
            error = relative_error(self._student_sees.hidden[stack, layer], wanted, mask)
            errors[layer] = float(error)
        return min(errors, key=lambda layer: (errors[layer], layer))

    @torch.no_grad()
    def divergences(self, batch: Inputs, assemblies: Mapping[Name, Standing]) -> dict[Name, float]:
        """Name of an assembly -> how far its answers are from the original's.

        Args:
            batch: inputs and `labels`.
            assemblies: any name -> what stands.
        """
        self.show(batch)
        found = {}
        for name, standing in assemblies.items():
            self.stand(standing)
            found[name] = float(divergence(self.student(**batch).logits, self._teacher_logits, batch["labels"]))
        return found

    def _hidden_loss(self, standing: Standing, masks: Mapping[str, Tensor]) -> Tensor:
        errors = [
            relative_error(
                self._student_sees.hidden[stack, layer], self.teacher_sees.hidden[stack, _last(layer)], masks[stack]
            )
            for stack, layers in standing.items()
            for layer in layers
        ]
        return torch.stack(errors).mean()

    def _attention_loss(self, standing: Standing, masks: Mapping[str, Tensor], anywhere: Tensor) -> Tensor:
        """0 where nothing but originals stand."""
        divergences = [
            attention_divergence(seen, self.teacher_sees.attention[stack, _last(layer), kind], masks[stack])
            for (stack, layer, kind), seen in self._student_sees.attention.items()
            if layer.granularity > 1
        ]
        return torch.stack(divergences).mean() if divergences else anywhere.new_zeros((), dtype=torch.float32)


def divergence(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """How far answers are from the original's, the mean over all that are labelled.

    Args:
        student: batch x classes, or batch x tokens x vocabulary, logits.
        teacher: the same of the original.
        labels: batch, or batch x tokens; class numbers, `IGNORED_LABEL` where nothing is asked; scores if not whole.
    """
    if labels.is_floating_point():
        return functional.mse_loss(student.float(), teacher.float())
    asked = labels.flatten() != IGNORED_LABEL
    own = student.flatten(0, -2)[asked].float().log_softmax(-1)
    wanted = teacher.flatten(0, -2)[asked].float().log_softmax(-1)
    return functional.kl_div(own, wanted, reduction="batchmean", log_target=True)


def relative_error(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Squared error over the mean square of what is wanted, both over the tokens of the mask.

    Args:
        student: batch x tokens x width.
        teacher: the same of the original.
        mask: batch x tokens, true for tokens that count.
    """
    own, wanted = student[mask].float(), teacher[mask].float()
    return (own - wanted).square().mean() / wanted.square().mean()


def attention_divergence(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Kullback-Leibler divergence of attentions, the mean over heads and the queries of the mask.

    Args:
        student: batch x heads x queries x keys, probabilities.
        teacher: the same of the original.
        mask: batch x queries, true for queries that count.
    """
    own, wanted = (part.transpose(1, 2)[mask].float().clamp_min(1e-8) for part in (student, teacher))
    return (wanted * (wanted.log() - own.log())).sum(-1).mean()


def _last(layer: Layer) -> Layer:
    """The last original a layer stands for."""
    return Layer(layer.originals[-1])


def _masks(anatomy: Anatomy, batch: Inputs) -> dict[str, Tensor]:
    """Stack -> batch x tokens, true for its tokens that are real."""
    real = batch["attention_mask"].bool()
    # A decoder is fed its labels, moved on by one; where they are classes, it is fed the inputs.
    fed = batch["labels"] != IGNORED_LABEL if batch["labels"].dim() > 1 else real
    return {
        stack.name: fed if stack.name == "decoder" and len(anatomy.stacks) > 1 else real for stack in anatomy.stacks
    }
