"""What the array will take for a step that nobody has built: its streams, from the graph alone."""

from typing import NamedTuple

from e2compile.graph import StepGraph, entry_points, where
from e2compile.lower.contraction import integer_call
from e2compile.lower.inline import inlined
from e2compile.lower.workload import Convolution
from e2compile.targets.vta.host.partition import Product, assign
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.program.table import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT
from e2compile.targets.vta.report.layers import Left, Report, report

_METHODS = {
    "integer_convolution": FORWARD,
    "integer_input_gradient": INPUT_GRADIENT,
    "integer_weight_gradient": WEIGHT_GRADIENT,
}


class _Contraction(NamedTuple):
    what: str
    conv: Convolution
    gated: bool


def foresee(step: StepGraph, config: Config, largest: int) -> Report:
    """The report of a step as a build of it would write it, but for kernels of the host alone.

    Raises CompileError as a build does where the array cannot run a layer (see `partition.assign`).
    """
    calls, products = dict[str, int](), dict[str, Product]()
    for number, (item, lines) in enumerate(_contractions(step).items()):
        name = f"{item.what}{number}"
        calls[name] = len(lines)
        products[name] = Product(name, *item, tuple(dict.fromkeys(lines)))
    made = assign(products.values(), config, largest)
    found = ((products[name], reason) for name, reason in made.left.items())
    left = [Left(product.name, product.what, product.conv, reason) for product, reason in found]
    return report(made.table, {"step": calls}, left)


def _contractions(step: StepGraph) -> dict[_Contraction, list[str]]:
    """Each contraction of integers, with the model's line of every call of it."""
    found: dict[_Contraction, list[str]] = {}
    for node in inlined(entry_points(step).step).graph.nodes:
        made = integer_call(node)
        if made is not None:
            assert isinstance(made.workload, Convolution)
            item = _Contraction(_METHODS[made.method], made.workload, bool(made.live))
            found.setdefault(item, []).append(where(node))
    return found
