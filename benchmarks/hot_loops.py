"""What the hot loops of the CPU's contraction kernels are made of, read from their assembly.

    python benchmarks/hot_loops.py [--model resnet20 ...] [--batch 128] [--cpu znver4] [--json FILE]

Of each distinct kernel of a training step, plain and with SignPredict, the innermost loop with the most
products: those, vector loads and stores beside them, and vectors that go to a place on the stack and back. A
store beside each product, or an accumulator on the stack, is what keeps a kernel from the machine's limit.
Nothing is run: `--cpu` reads the kernels of another x86 CPU.
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import kernels
import machine
import nets
import tvm
from tvm.tirx import PrimFunc

import e2compile
from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.build import tvm_target
from e2compile.targets.llvm.kernels import LlvmKernels
from e2compile.targets.llvm.machine import CPUS, Machine, host, named

_TRIPLE = "x86_64-linux-gnu"
_LABEL = re.compile(r"^(\.LBB\w+):")
_JUMP = re.compile(r"^\s+j\w+\s+(\.LBB\w+)\s*(#|$)")
_FMA = re.compile(r"vfn?m(add|sub)")
_DOT = re.compile(r"vpdp|vpmaddwd|tdpb")
_VECTOR = re.compile(r"%[xyz]mm\d+")
_TO_MEMORY = re.compile(r"\)(\s*\{%k\d\})?$")
# A fixed place: one that is indexed is in an array that the kernel itself has.
_STACK = re.compile(r"[\s,-]\d*\(%rsp\)")


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


@dataclass(frozen=True)
class Row:
    """One kernel; `what` is its method and workload."""

    model: str
    variant: str
    what: str
    counts: Counts

    def text(self) -> str:
        numbers = "".join(f"{number:8d}" for number in asdict(self.counts).values())
        return f"{self.model:12s} {self.variant:5s}{numbers}  {self.what}"


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
        is_stack = _STACK.search(text)
        if _TO_MEMORY.search(text):
            found["spills" if is_stack else "stores"] += 1
        else:
            found["reloads" if is_stack else "loads"] += 1
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


def hot_loop(kernel: PrimFunc, place: Machine) -> Counts:
    """The innermost loop with the most products."""
    assembly = tvm.compile(kernel, tvm_target(place)).mod.inspect_source("s")
    return max(map(counts, innermost(assembly)), key=lambda found: found.products)


def rows(name: str, variant: str, size: int, place: Machine) -> Iterator[Row]:
    graph = e2compile.capture(nets.net(name), nets.batch(size)).apply(*kernels.PASSES[variant])
    module, workloads = kernels.lowered(graph, LlvmKernels(place))
    for kernel, (method, workload) in workloads.items():
        if isinstance(workload, Convolution):
            yield Row(name, variant, kernels.described(method, workload), hot_loop(module[kernel], place))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=sorted(nets.NETS), action="append")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--cpu", choices=CPUS[_TRIPLE])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    place = named(f"{_TRIPLE}:{options.cpu}") if options.cpu else host()
    print(f"{'':18s}" + "".join(f"{field[:7]:>8s}" for field in Counts.__dataclass_fields__))
    found: list[Row] = []
    for name in options.model or kernels.MODELS:
        for variant in kernels.PASSES:
            for row in rows(name, variant, options.batch, place):
                found.append(row)
                print(row.text(), flush=True)
    if options.json:
        about = {"machine": machine.describe(), "kernels_for": asdict(place.host)}
        content = about | {"rows": [asdict(row) for row in found]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
