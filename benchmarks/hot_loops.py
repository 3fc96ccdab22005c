"""What the hot loops of the CPU's contraction kernels are made of, read from their assembly.

    python benchmarks/hot_loops.py [--only TEXT] [--json FILE]

Of each kernel the innermost loop with the most multiply-adds: those and dot products, vector loads and
stores beside them, and moves to and from the stack. A store beside each multiply-add, or an accumulator that
is moved to the stack and back, is what keeps a kernel from the machine's limit.
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import kernels
import machine
import tvm
from tvm.tirx import PrimFunc

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.build import tvm_target
from e2compile.targets.llvm.kernels import LlvmKernels
from e2compile.targets.llvm.machine import host

_LABEL = re.compile(r"^(\.LBB\w+):")
_JUMP = re.compile(r"^\s+j\w+\s+(\.LBB\w+)\s*$")
_FMA = re.compile(r"v?fn?m(add|sub)|fmla|mla\b")
_DOT = re.compile(r"vpdp|vdpbf16|sdot|udot|usdot")
_VECTOR = re.compile(r"%[xyz]mm\d+")
_TO_MEMORY = re.compile(r"\)\s*$")
_STACK = re.compile(r"\(%r(sp|bp)[,)]")


@dataclass(frozen=True)
class Counts:
    """Instructions of one loop; `spills` store a vector to the stack, `reloads` read one from there."""

    instructions: int
    multiply_adds: int
    dot_products: int
    loads: int
    stores: int
    spills: int
    reloads: int

    @property
    def products(self) -> int:
        return self.multiply_adds + self.dot_products


def counts(lines: list[str]) -> Counts:
    """Of x86 assembly in AT&T's order: what an instruction writes comes last."""
    found = dict.fromkeys(Counts.__dataclass_fields__, 0)
    for line in lines:
        text = line.partition("#")[0].rstrip()
        words = text.split()
        if not words or words[0].startswith(".") or words[0].endswith(":"):
            continue
        found["instructions"] += 1
        found["multiply_adds"] += bool(_FMA.match(words[0]))
        found["dot_products"] += bool(_DOT.match(words[0]))
        if "(" not in text or not _VECTOR.search(text):
            continue
        is_store, is_stack = bool(_TO_MEMORY.search(text)), bool(_STACK.search(text))
        kind = ("spills" if is_stack else "stores") if is_store else ("reloads" if is_stack else "loads")
        found[kind] += 1
    return Counts(**found)


def innermost(assembly: str) -> Iterator[list[str]]:
    """The lines of each loop that holds no other: from a label to the last jump back to it."""
    lines = assembly.splitlines()
    labels = {found[1]: i for i, line in enumerate(lines) if (found := _LABEL.match(line))}
    loops: dict[int, int] = {}
    for i, line in enumerate(lines):
        jump = _JUMP.match(line)
        if jump and labels.get(jump[1], i) < i:
            loops[labels[jump[1]]] = i
    for start, end in loops.items():
        if not any(start < other <= end for other in loops):
            yield lines[start : end + 1]


def hot_loop(kernel: PrimFunc) -> Counts:
    """The innermost loop with the most products."""
    assembly = tvm.compile(kernel, tvm_target()).mod.inspect_source("s")
    return max(map(counts, innermost(assembly)), key=lambda found: found.products)


def passes(conv: Convolution) -> dict[str, PrimFunc]:
    made = LlvmKernels(host())
    return {
        "fwd": made.convolution(conv, bias=False),
        "dgrad": made.input_gradient(conv),
        "wgrad": made.weight_gradient(conv),
        "int8 fwd": made.integer_convolution(conv, signed=False),
        "int8 dgrad": made.integer_input_gradient(conv),
        "int8 wgrad": made.integer_weight_gradient(conv, signed=False),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print(f"{'workload':32} {'kernel':10}   fma   dot loads stores spills reloads of instructions")
    for name, conv in kernels.WORKLOADS.items():
        for kernel, function in passes(conv).items():
            if options.only in f"{name} {kernel}":
                found = hot_loop(function)
                rows.append({"workload": name, "kernel": kernel, **asdict(found)})
                print(
                    f"{name:32} {kernel:10} {found.multiply_adds:5d} {found.dot_products:5d} {found.loads:5d}"
                    f" {found.stores:6d} {found.spills:6d} {found.reloads:7d} {found.instructions:5d}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine.describe(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
