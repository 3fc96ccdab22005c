"""What the kernel of a contraction can be: Winograd's, by tiles, a product of matrices, or a direct one with
some register tile."""

from collections.abc import Sequence
from typing import Literal

from e2compile.lower.workload import Contraction
from e2compile.targets.llvm import (
    gather_plan,
    gradient_plan,
    integer_gather,
    integer_gradient,
    product,
    scaled_gather,
    tile_gradient_plan,
    tile_plan,
    winograd,
)
from e2compile.targets.llvm.arithmetic import Floats
from e2compile.targets.llvm.gradient_plan import GradientTile
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.tiling import RegisterTile

Choice = RegisterTile | GradientTile | Literal["winograd", "tiles", "product"]
Choices = tuple[tuple[Contraction, Choice], ...]

WINOGRAD: Literal["winograd"] = "winograd"
TILES: Literal["tiles"] = "tiles"
PRODUCT: Literal["product"] = "product"
_FLOATS = ("convolution", "input_gradient", "weight_gradient")


def is_transformed(contraction: Contraction) -> bool:
    """Whether a contraction is Winograd's where nothing else was chosen."""
    if contraction.method == "weight_gradient":
        return winograd.serves_weights(contraction.conv)
    return contraction.method in _FLOATS and winograd.serves(contraction.conv)


def default(contraction: Contraction, machine: Machine) -> Choice | None:
    """What is taken where nothing else was chosen; None for the register tile of the least estimated cost."""
    if is_transformed(contraction):
        return WINOGRAD
    if _is_product(contraction, machine):
        return PRODUCT
    return TILES if _is_tiled(contraction, machine) else None


def _is_product(contraction: Contraction, machine: Machine) -> bool:
    if contraction.method == "weight_gradient":
        return product.serves_weights(contraction.conv, machine)
    return contraction.method in _FLOATS and product.serves(contraction.conv)


def _is_tiled(contraction: Contraction, machine: Machine) -> bool:
    if contraction.method in _FLOATS:
        return False
    if contraction.method == "integer_weight_gradient":
        return tile_gradient_plan.serves(contraction.conv, machine)
    return tile_plan.serves(contraction.conv, contraction.method.endswith("input_gradient"), machine)


def candidates(contraction: Contraction, machine: Machine) -> list[Choice]:
    """All choices: the one that is taken where nothing else was chosen, then by estimated cost.

    The estimate compares register tiles only, so Winograd's transforms are first or second.
    """
    found: list[Choice] = list(_tiles(contraction, machine))
    if _is_tiled(contraction, machine):
        found.insert(0, TILES)
    if _is_product(contraction, machine):
        found.insert(0, PRODUCT)
    if contraction.method in _FLOATS and winograd.is_suited(contraction.conv):
        found.insert(0 if is_transformed(contraction) else 1, WINOGRAD)
    return found


def _tiles(contraction: Contraction, machine: Machine) -> Sequence[RegisterTile | GradientTile]:
    conv, transposed = contraction.conv, contraction.method.endswith("input_gradient")
    if contraction.method == "weight_gradient":
        return gradient_plan.plan(conv, machine, Floats()).tiles
    if contraction.method == "integer_weight_gradient":
        return integer_gradient.integer_plan(conv, machine).tiles
    if contraction.method == "planes_input_gradient":
        return scaled_gather.planes_plan(conv, machine).tiles
    if contraction.method in _FLOATS:
        return gather_plan.plan(conv, transposed, machine, Floats()).tiles
    return integer_gather.integer_plan(conv, transposed, machine, contraction.signed).tiles
