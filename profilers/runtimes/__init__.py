"""What runs a model: one file is one runtime, and its file name is its name."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, cast

from torch import Tensor, nn

from ...spaces import plugins
from ...spaces.precision import BFLOAT16, Precision
from ...spaces.workbench import Inputs
from ..devices import Device


class Executable(Protocol):
    """A compressed model on a runtime, ready to call."""

    @property
    def kernels(self) -> str:
        """Which of the treated Linears run on kernels of their own, as `kernels_text` writes it."""

    def __call__(self, inputs: Inputs) -> Tensor:
        """Model inputs, batch x tokens, on the CPU -> logits on the CPU; complete when it returns.

        An encoder-decoder needs `labels` (padded with -100) or `decoder_input_ids` among them and answers every token
        of the target given the ones before; a model without a decoder ignores labels.
        """

    def generate(self, inputs: Inputs, *, new_tokens: int, beams: int = 1, exactly: bool = False) -> Tensor:
        """Lets an encoder-decoder write, without sampling.

        Args:
            inputs: `input_ids` and `attention_mask`, batch x tokens, on the CPU.
            new_tokens: at most so many tokens are written.
            beams: hypotheses that are followed; 1 takes the likeliest token every time.
            exactly: writes that many tokens, whatever the model would end with: for measuring.

        Returns:
            Token ids on the CPU, batch x (1 + tokens written): the decoder's start token comes first, and what ended
            early is padded.
        """


class Runtime(Protocol):
    """The contract of a runtime."""

    def absence(self, device: Device) -> str | None:
        """Why it cannot run on this device, with the fix; None where it can."""

    def refusal(self, model: nn.Module) -> str | None:
        """Why it cannot run models of this kind, with the fix; None where it can."""

    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries it brings beside torch."""

    def load(self, model: nn.Module, device: Device, *, threads: int) -> Executable:
        """Makes a compressed model ready to call; the model itself is not changed.

        A part that the runtime has no kernel for runs in float, with the same meaning, and `kernels` says so.

        Args:
            model: from `build`, or loaded from an artefact.
            device: where it shall run.
            threads: processor threads one call may use; set for the whole process.
        """

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes the model in the runtime's own format into a folder of an exported model, if it has one."""


def kernel_for(precision: Precision) -> str:
    """The kernel that a Linear of this precision asks for.

    Returns:
        "int8" where inputs are integers, whatever bits the weights are stored in; "bf16"; or "w4" where weights of
        4 bits meet float inputs.
    """
    if precision.has_integer_inputs:
        return "int8"
    return "bf16" if precision.weight_bits == BFLOAT16 else f"w{precision.weight_bits}"


def kernels_text(asked: Iterable[str], ran: Iterable[str]) -> str:
    """How many Linears run on the kernels that their plan asks for, the others being run in float.

    Args:
        asked: `kernel_for` of every Linear that has a precision; "factors" for every factorised one, "decoder" for
            every one that a decoder gives.
        ran: the same of those that run so: as two products, in the case of factors. Others run as one dense product,
            and what a decoder gives always does.

    Returns:
        For instance "factors 20/24, int8 30/36, w4 0/2 Linears"; "float" where nothing was asked for.
    """
    wanted, got = Counter(asked), Counter(ran)
    return f"{', '.join(f'{k} {got[k]}/{wanted[k]}' for k in sorted(wanted))} Linears" if wanted else "float"


def names() -> tuple[str, ...]:
    """The runtimes there are files for."""
    return plugins.names(__name__)


def find(name: str) -> Runtime:
    """The runtime of this name.

    Raises:
        SettingError: if there is none.
    """
    return cast(Runtime, plugins.load(__name__, name, "runtime"))
