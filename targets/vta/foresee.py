"""What the array will take for a step that nobody has built: its streams, from the graph alone."""

from collections import Counter
from typing import NamedTuple

from e2compile.graph import StepGraph, entry_points
from e2compile.lower.contraction import INTEGER, integer_call
from e2compile.lower.inline import inlined
from e2compile.lower.workload import Convolution
from e2compile.targets.vta.config import Config
from e2compile.targets.vta.kernels import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT
from e2compile.targets.vta.partition import Streams, operator, planned
from e2compile.targets.vta.report import Left, Report, report
from e2compile.targets.vta.table import Table

_METHODS = {
    "integer_convolution": FORWARD,
    "integer_input_gradient": INPUT_GRADIENT,
    "integer_weight_gradient": WEIGHT_GRADIENT,
}


class _Contraction(NamedTuple):
    what: str
    conv: Convolution
    gated: bool


def foresee(step: StepGraph, config: Config) -> Report:
    """The report of a step as a build of it would write it, but for kernels of the host alone."""
    found = _contractions(step)
    streams = Streams(config)
    operators, left, calls = [], [], dict[str, int]()
    for number, (item, count) in enumerate(found.items()):
        name = f"{item.what}{number}"
        calls[name] = count
        plan = planned(item.what, item.conv, item.gated, config)
        if plan is None:
            left.append(Left(name, item.what, item.conv))
        else:
            operators.append(operator(name, item.what, plan, streams))
    return report(Table(config, tuple(operators), tuple(streams.binaries)), {"step": calls}, left)


def _contractions(step: StepGraph) -> Counter[_Contraction]:
    """How often a step calls each contraction of integers."""
    found: Counter[_Contraction] = Counter()
    for node in inlined(entry_points(step).step).graph.nodes:
        if node.target in INTEGER:
            made = integer_call(node)
            assert isinstance(made.workload, Convolution)
            found[_Contraction(_METHODS[made.method], made.workload, bool(made.live))] += 1
    return found
