"""Presets: passes and their settings under one name, and what of it cannot be had here."""

from collections.abc import Iterable
from dataclasses import dataclass

from e2compile.pipeline import Pass


@dataclass(frozen=True)
class Preset:
    """`passes` are those applied where none are named, `settings` those of --set; `note` says what the name
    stands for, and where it differs.

    `swa_start` is the share of a run after which it averages its weights, where the passes take signs.
    """

    passes: tuple[str, ...]
    settings: tuple[str, ...]
    note: str
    swa_start: float | None = None

    def swa_start_of(self, passes: Iterable[Pass]) -> float | None:
        return self.swa_start if any(item.name == "psg" for item in passes) else None


_E2_TRAIN = ("smd", "slu", "psg")

PRESETS = {
    "default": Preset(
        ("smd", "psg"),
        (),
        "What docs/study.md recommends: BatchDrop and SignPredict with their defaults. LayerGate has cost "
        "more accuracy there than the work it saves is worth; it is applied where --passes names it.",
    ),
    "paper": Preset(
        _E2_TRAIN,
        (
            "smd.p=0.5",
            "slu.target_skip=0.4",
            "slu.floor=0",
            "slu.evaluation=sample",
            "slu.frozen=false",
            "psg.preset=paper",
        ),
        "The setting of E2-Train (NeurIPS 2019) at 40 % skipping; 20 and 60 % by slu.target_skip. The "
        "paper's learning rate with signs is 0.03. Batch norm in a block sees executed samples only, and a "
        "gate's gradient comes from them: the paper's code computes both over all samples. Its "
        "averaging is that of the authors' script for MobileNetV2: the last fifth of the epochs.",
        swa_start=0.8,
    ),
    "official": Preset(
        _E2_TRAIN,
        (
            "smd.p=0.5",
            "slu.target_skip=0",
            "slu.controller=bang_bang",
            "slu.beta=1e-5",
            "slu.estimator=dense",
            "slu.floor=0",
            "slu.evaluation=sample",
            "slu.frozen=false",
            "psg.preset=paper",
            "psg.predictor_gradient_bits=16",
            "psg.by_channel=true",
        ),
        "The defaults of the authors' code, which runs every block and masks what a gate leaves out, with a "
        "reward for running all. Its batch norm in a block sees all samples, here those let in; its "
        "threshold of 5e-5 is absolute, here 0.05 of the largest predicted gradient; its gradients have 32 "
        "bits in the full product, here 16; an activation's scale is the mean of the samples' maxima, here "
        "their maximum. It signs the gates' gradients too.",
    ),
}
