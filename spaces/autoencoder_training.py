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


@dataclass(frozen=True, slots=True)
class LatentTraining:
    """How latents and decoder are fitted.

    Attributes:
        steps: of Adam; both rates fall to nought along a cosine.
        batch_rows: rows per step, of all weights together.
        decoder_rate: learning rate of the decoder.
        latent_rate: of the latents, each of which is seen once per pass over the rows.
        seed: of the order of the rows and of the spare hidden units.
        device: what it is fitted on, as torch names it.
    """

    steps: int = 3000
    batch_rows: int = 256
    decoder_rate: float = 2e-3
    latent_rate: float = 2e-2
    seed: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_rows"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} of the latents must be at least 1, got {getattr(self, name)}.")
        for name in ("decoder_rate", "latent_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise SettingError(f"{name} of the latents must be above 0 and at most 1, got {getattr(self, name)}.")
