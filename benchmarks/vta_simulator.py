"""How fast the VTA simulator is, on one core: streams that are nearly all products, and its parts.

    python benchmarks/vta_simulator.py [--json FILE] [--config NAME]

Figures are of the fastest of some rounds; a board at 100 MHz does 25.6 GMAC/s.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import machine
import numpy as np

from e2compile.targets.vta.isa import config
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import (
    Alu,
    AluOp,
    Finish,
    Gemm,
    Instruction,
    Memory,
    Transfer,
    Uop,
    encode,
    encode_uops,
)
from e2compile.targets.vta.simulator.interpreter import compiled
from e2compile.targets.vta.simulator.simulator import Simulator

_ROUNDS = 10
_UOPS = 64
_REPEAT = 50
_BYTES = 1 << 20


@dataclass(frozen=True)
class Row:
    """`nanoseconds` of one micro-op, or one element that is loaded; `gmacs` are 10^9 products a second."""

    config: str
    what: str
    nanoseconds: float
    gmacs: float


def _seconds(vta: Config, instructions: Sequence[Instruction]) -> float:
    """The shortest run of a stream, from memory of random bytes with micro-ops in front."""
    device = Simulator(vta, compiled(vta))
    data = device.allocate(_BYTES)
    device.write(data, np.random.default_rng(0).integers(0, 256, _BYTES, np.uint8))
    device.write(data, encode_uops([Uop(i, i) for i in range(_UOPS)], vta).view(np.uint8))
    words = encode([Transfer(Memory.UOP, 0, data // 4, 1, _UOPS, _UOPS), *instructions, Finish()], vta)
    address = device.allocate(words.nbytes)
    device.write(address, words.reshape(-1).view(np.uint8))
    best = float("inf")
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        device.start(address, len(words))
        best = min(best, time.perf_counter() - begun)
    return best


def rows(vta: Config) -> list[Row]:
    first = {Memory.INP: _BYTES // 2 // vta.inp_bytes, Memory.WGT: _BYTES // 2 // vta.wgt_bytes}
    operands = [Transfer(memory, 0, start, 1, 512, 512) for memory, start in first.items()]
    # A 3x3 convolution's loops: taps outside, output rows inside.
    product = Gemm((0, _UOPS), (9, 14), (0, _UOPS), (16, 1), (1, 0))
    shift = Alu(AluOp.SHR, (0, _UOPS), (9, 14), (0, _UOPS), (0, _UOPS), 1)
    result = []
    for what, repeated, number in (
        ("product", product, product.cycles),
        ("ALU operation", shift, shift.cycles),
        ("input load", operands[0], 512),
        ("weight load", operands[1], 512),
    ):
        nanoseconds = _seconds(vta, [*operands, *[repeated] * _REPEAT]) / (number * _REPEAT) * 1e9
        gmacs = vta.macs / nanoseconds if what == "product" else 0.0
        result.append(Row(vta.name, what, nanoseconds, gmacs))
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--config", choices=config.names(), action="append")
    options = parser.parse_args()
    found = [row for name in options.config or ("pynq", "pynq-4x8") for row in rows(config.named(name))]
    for row in found:
        rate = f"{row.gmacs:8.1f} GMAC/s" if row.gmacs else ""
        print(f"{row.config:28} {row.what:16} {row.nanoseconds:8.2f} ns {rate}")
    if options.json:
        content = {"machine": machine.describe(), "rows": [asdict(row) for row in found]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
