"""Quantise: convolutions, linear layers and their gradients in integers of 8 bits, gradients of 16."""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from e2compile.errors import UsageError
from e2compile.graph import StepGraph
from e2compile.guards.regions import guard_of
from e2compile.integers.convolutions import sites
from e2compile.integers.matrices import matrix_products
from e2compile.integers.step import IntegerStep, Settings, check_bits, check_results
from e2compile.pipeline import Change, Level


@dataclass(frozen=True)
class Quantise:
    """convolution(x, w), mm(x, w) and their gradients  ->  integer products of codes, scaled back

    Training on 8 bits: weights and activations are 8-bit codes, output gradients 16-bit codes in two byte
    planes, or 8-bit ones; all products are exact in int32. Master weights and the update stay in float32.
    Scales are one maximum a tensor, of this step or of the last one (`scales`), raised to a power of two with
    `power`. What a target without floating-point products needs; a target that does applies it by itself.
    Left alone, with a note each: what SignPredict leaves alone; what that has rewritten is in integers.
    """

    name: ClassVar[str] = "int8"
    level: ClassVar[Level] = Level.JOINT

    scale: Literal["max", "power"] = "power"
    scales: Literal["current", "previous"] = "previous"
    activation_bits: int = 8
    weight_bits: int = 8
    gradient_bits: Literal[8, 16] = 16
    by_channel: bool = False
    results: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for option, values in {"scale": ("max", "power"), "scales": ("current", "previous")}.items():
            if getattr(self, option) not in values:
                raise UsageError(
                    f"int8.{option} is one of {', '.join(values)}, not {getattr(self, option)!r}"
                )
        check_bits(self.name, self.settings())
        check_results(self.name, self.settings())

    def settings(self) -> Settings:
        return Settings(**{field.name: getattr(self, field.name) for field in fields(Settings)})

    def __call__(self, step: StepGraph) -> Change:
        copied = step.copy()
        found, notes = sites(copied)
        products, more = matrix_products(copied, guard_of(copied))
        if not found and not products:
            return Change(step, 0, (*notes, *more, "no convolution or linear layer to rewrite"))
        rewritten = IntegerStep(self.name, copied, self.settings()).rewrite(found, products)
        return Change(rewritten, len(found) + len(products), (*notes, *more))
