"""Models whose float parts are judged in bfloat16, where a device multiplies those quicker."""

from torch import nn
from transformers import PreTrainedModel

from ..errors import SettingError
from ..profilers.devices import Device
from ..profilers.runtimes.torch import has_bfloat16
from ..spaces.build import copy_sharing_parameters
from ..spaces.precision import Precision
from ..spaces.quantised import BFloat16Linear

# In what float parts may be judged while candidates are compared; the front is always judged as it is deployed.
JUDGED_IN = ("float32", "bf16")
_HALF = Precision.parse("w16a16")


def refuse_halving(runtime: str, device: Device) -> None:
    """For a search that is to judge in bfloat16.

    Raises:
        SettingError: if that would not be quicker here.
    """
    if runtime != "torch":
        raise SettingError(
            f"candidates are judged in bf16 on the runtime torch only, got {runtime!r}; leave --judge-in out."
        )
    if not has_bfloat16(device.torch_device):
        raise SettingError(
            f"{device.name} does not multiply bfloat16 by itself, so judging in bf16 would be slower; leave --judge-in "
            "out. Processors with AVX-512 BF16 or AMX do, and GPUs of compute capability 8.0."
        )


def halved(model: PreTrainedModel) -> PreTrainedModel:
    """The model with every Linear that is in float in bfloat16, inputs and weights; the original is not changed."""
    own = copy_sharing_parameters(model)
    known: dict[int, nn.Module] = {}
    for name, part in list(own.named_modules(remove_duplicate=False)):
        if type(part) is nn.Linear:
            own.set_submodule(name, known.setdefault(id(part), BFloat16Linear(part, _HALF)))
    return own
