"""SignPredict (PSG): convolutions in integers, weight gradients as predicted signs."""

from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

from e2compile.errors import UsageError
from e2compile.graph import Kind, StepGraph
from e2compile.integers.convolutions import sites
from e2compile.integers.step import IntegerStep, SignSettings, check_bits, check_results
from e2compile.pipeline import Change, Level

PRESETS = {
    "hardware": SignSettings(
        scale="power",
        scales="previous",
        activation_bits=8,
        weight_bits=8,
        gradient_bits=16,
        predictor_activation_bits=8,
        predictor_gradient_bits=8,
        beta=0.05,
        fallback="never",
        unsure_limit=0.5,
        results="bfloat16",
    ),
    "paper": SignSettings(
        scale="max",
        scales="current",
        activation_bits=8,
        weight_bits=8,
        gradient_bits=16,
        predictor_activation_bits=4,
        predictor_gradient_bits=10,
        beta=0.05,
        fallback="element",
        unsure_limit=0.0,
    ),
}


@dataclass(frozen=True)
class SignPredict:
    """convolution(x, w), its gradients  ->  integer products of codes; gradient of w  ->  its predicted sign

    Predictive sign gradient descent (E2-Train, section 3.3). Weights and activations are 8-bit codes, output
    gradients 16-bit codes in two byte planes; the output and the input gradient are their integer products,
    scaled back. The weight gradient is the sign of a predictor's product where that is sure, of the full
    product where the fallback says so, and goes to the optimizer in the gradient's place; master weights,
    momentum and all other gradients stay in float32. Options left None are the preset's.
    Left alone, with a note: convolutions whose weight is not trained or is computed, that are transposed, not
    two-dimensional, not in float32 or over one position, whose sums could leave int32, and those that `stem`
    and `pointwise` exclude. Declines the whole step where the optimizer is Adam or AdamW: they divide by the
    gradient's magnitude, which a sign has lost.
    """

    name: ClassVar[str] = "psg"
    level: ClassVar[Level] = Level.JOINT

    preset: Literal["hardware", "paper"] = "hardware"
    scale: Literal["max", "power"] | None = None
    scales: Literal["current", "previous"] | None = None
    activation_bits: int | None = None
    weight_bits: int | None = None
    gradient_bits: Literal[8, 16] | None = None
    predictor_activation_bits: int | None = None
    predictor_gradient_bits: int | None = None
    beta: float | None = None
    fallback: Literal["never", "layer", "tile", "element"] | None = None
    unsure_limit: float | None = None
    by_channel: bool = False
    results: Literal["float32", "bfloat16"] | None = None
    stem: bool = True
    pointwise: bool = True
    measure: bool = False

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UsageError(f"psg.preset is one of {', '.join(PRESETS)}, not {self.preset!r}")
        settings = self.settings()
        check_bits(
            self.name,
            settings,
            predictor_activation_bits=(2, settings.activation_bits),
            predictor_gradient_bits=(2, settings.gradient_bits),
        )
        if not 0 <= settings.beta <= 1:
            raise UsageError(f"psg.beta is a share of the largest magnitude, 0 .. 1, not {settings.beta}")
        if not 0 <= settings.unsure_limit <= 1:
            raise UsageError(f"psg.unsure_limit is a share of elements, 0 .. 1, not {settings.unsure_limit}")
        check_results(self.name, settings)
        if settings.gradient_bits == 8 and settings.fallback != "never":
            raise UsageError(f"psg.fallback={settings.fallback} needs 16-bit gradients")

    def settings(self) -> SignSettings:
        """The preset with what is given in its place; 8-bit gradients have nothing to fall back to."""
        known = {field.name for field in fields(SignSettings)}
        given = {name: value for name, value in vars(self).items() if name in known and value is not None}
        if given.get("gradient_bits") == 8:
            given = {"fallback": "never", "predictor_gradient_bits": 8} | given
        return replace(PRESETS[self.preset], **given)

    def __call__(self, step: StepGraph) -> Change:
        if any(s.kind is Kind.OPTIMIZER and s.target.endswith(".exp_avg_sq") for s in step.inputs):
            return Change(step, 0, ("Adam divides by the gradient's magnitude, which a sign has lost",))
        found, notes = sites(step, self.stem, self.pointwise)
        if not found:
            return Change(step, 0, (*notes, "no convolution to rewrite"))
        copied = step.copy()
        found, _ = sites(copied, self.stem, self.pointwise)
        rewritten = IntegerStep(self.name, copied, self.settings()).rewrite(found)
        return Change(rewritten, len(found), tuple(notes))
