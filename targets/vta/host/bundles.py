"""The groups of a convolution for an array that multiplies whole blocks of channels."""

from dataclasses import dataclass
from math import gcd

from e2compile.lower.workload import Convolution


@dataclass(frozen=True)
class Bundles:
    """`groups` of a convolution's groups at a time, multiplied as one: weights between two of them are zero.

    They are as many as it takes for a bundle's `inputs` and `outputs`, channels, to fill blocks, or all of
    them; of several bundles the last may lack some.
    """

    count: int
    groups: int
    inputs: int
    outputs: int

    @staticmethod
    def of(conv: Convolution, block: int) -> "Bundles":
        channels = conv.in_channels // conv.groups, conv.out_channels // conv.groups
        groups = min(conv.groups, max(block // gcd(block, number) for number in channels))
        inputs, outputs = (groups * number for number in channels)
        return Bundles(-(-conv.groups // groups), groups, inputs, outputs)
