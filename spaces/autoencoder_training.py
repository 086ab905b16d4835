"""How autoencoders are trained: the paper's way unless said otherwise."""

from dataclasses import dataclass

from ..errors import SettingError


@dataclass(frozen=True, slots=True)
class AutoencoderTraining:
    """How an autoencoder is trained.

    Attributes:
        epochs: times that all rows are seen, at least 1.
        steps: train for so many batches instead, in as many epochs as they make up; None for `epochs`.
        batch_rows: rows per step.
        learning_rate: of Adam, at first.
        decay: what it is multiplied by every `decay_epochs`; where `steps` are given, every third of them.
        decay_epochs: see there.
        seed: of the start and of the order of the rows.
        device: what it is trained on, as torch names it.
    """

    epochs: int = 30
    steps: int | None = None
    batch_rows: int = 16
    learning_rate: float = 1e-3
    decay: float = 0.8
    decay_epochs: int = 10
    seed: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_rows", "decay_epochs", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(f"{name} of the autoencoder must be at least 1, got {value}.")
        for name in ("learning_rate", "decay"):
            if not 0 < getattr(self, name) <= 1:
                raise SettingError(
                    f"{name} of the autoencoder must be above 0 and at most 1, got {getattr(self, name)}."
                )
