"""Whether the array or its host is the faster at a product, by what is known of both before either runs."""

from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

from e2compile.energy import prices
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.program.cost import Cost
from e2compile.targets.vta.program.table import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, Operator

PRICES = Path(__file__).parent.parent / "prices"
_SUM_BYTES = 4  # of a result's element, int32
_MOVES = 3  # of what the array reads or writes: the host packs it, and reads and writes it to copy it


@dataclass(frozen=True)
class Times:
    """Modelled seconds of a product for all samples: by the array with the host's part of it, by the host."""

    array: float
    host: float


@dataclass(frozen=True)
class Reason:
    """Why a product is left to the host; with times where that is what decides."""

    text: str
    times: Times | None = None


def times(operator: Operator, each: Cost, config: Config) -> Times:
    """What an operator takes, given its cost for a group of samples.

    The array's cycles are the cycle model's. The host moves bytes, and multiplies, at the rates of the
    board's price table; it is taken to multiply bytes as fast as floats, as it has no instruction for sums
    of bytes.
    """
    conv = operator.conv
    x, weight, y = (prod(shape) for shape in (conv.x_shape, conv.weight_shape, conv.y_shape))
    written = {FORWARD: y, INPUT_GRADIENT: x, WEIGHT_GRADIENT: weight}[operator.what]
    own = x + weight + y + (_SUM_BYTES - 1) * written
    wgts = operator.groups if operator.own_weights else 1
    packed = operator.groups * (operator.inp_bytes + operator.out_bytes) + wgts * operator.wgt_bytes
    per_mac, per_byte = _seconds(config.target)
    array = operator.groups * each.cycles / config.board.clock_hz + (own + _MOVES * packed) * per_byte
    return Times(array, conv.macs * per_mac + own * per_byte)


@cache
def _seconds(board: str) -> tuple[float, float]:
    """A board's host's seconds of a product and of a byte moved."""
    table = prices.read(PRICES / f"{board}.toml", [PRICES])
    return table.seconds["mac.float32"].si, table.seconds["dram"].si
