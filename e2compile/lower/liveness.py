"""Memory over a function's run: which temporaries live while each of its kernels runs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch import fx

from e2compile.graph import targets, where
from e2compile.lower.build import LoopKernel
from e2compile.lower.contraction import Call
from e2compile.lower.fuse import holder
from e2compile.lower.layout import natural
from e2compile.lower.schedule import Copy, Kernel, LiveSamples, Schedule, live_kernel, read
from e2compile.lower.views import shape_of

_LARGEST = 12


@dataclass(frozen=True)
class Block:
    """A temporary: its bytes, what it is, and the kernels that write it and read it last.

    It is the `result`-th result of the kernel that writes it.
    """

    bytes: int
    node: fx.Node
    first: int
    last: int
    result: int


def blocks(plan: Schedule) -> tuple[Block, ...]:
    """The memory of a function beside state and data: what it returns lives to its end."""
    made: dict[object, list[Block]] = {}
    last: dict[object, int] = {}
    for number, kernel in enumerate(plan.kernels):
        for key in _read(kernel, made):
            last[key] = number
        for key, size, node, result in _written(kernel):
            made.setdefault(key, []).append(Block(size, node, number, number, result))
            last[key] = number
    for node in plan.returned:
        copy = (node, natural(shape_of(node)))
        last[copy if copy in made else holder(node)] = len(plan.kernels) - 1
    return tuple(replace(block, last=last[key]) for key, found in made.items() for block in found)


def _written(kernel: Kernel) -> Iterator[tuple[object, int, fx.Node, int]]:
    """What a kernel allocates: a key by which others read it, its bytes, what it is, which result it is."""
    if isinstance(kernel, LiveSamples):
        if len(kernel.live) == 1:
            yield kernel.live, 4 * kernel.samples, kernel.live[-1], 0
        yield kernel.live, 4, kernel.live[-1], 1
    elif isinstance(kernel, Call):
        for number, result in enumerate(kernel.results):
            size = math.prod(result.shape) * np.dtype(result.dtype).itemsize
            node = result.node or kernel.results[0].node or kernel.operands[0].node
            yield result.node or object(), size, node, number
    else:
        loop = kernel.kernel if isinstance(kernel, Copy) else kernel
        for output, donor in enumerate(loop.loop.donated):
            if donor is None:
                buffer = loop.loop.buffers[loop.loop.inputs + output]
                held = kernel.node if isinstance(kernel, Copy) else loop.outputs[output]
                key = (kernel.node, kernel.order) if isinstance(kernel, Copy) else held or object()
                size = math.prod(buffer.physical) * np.dtype(buffer.dtype).itemsize
                yield key, size, held or result_of(kernel), output


def _read(kernel: Kernel, made: dict[object, list[Block]]) -> Iterator[object]:
    """The temporaries that a kernel reads, by their keys."""
    keys: list[object] = list(read(kernel))
    if isinstance(kernel, Call):
        copies = [(operand.node, operand.order) for operand in kernel.operands]
        keys = [
            copy if copy in made else holder(operand.node)
            for copy, operand in zip(copies, kernel.operands, strict=True)
        ]
    live = live_kernel(kernel)
    keys += [live[: depth + 1] for depth in range(len(live))]
    if isinstance(kernel, LiveSamples):
        keys.append(kernel.live[:-1])
    yield from (key for key in keys if key in made)


def memory(plan: Schedule) -> dict[str, object]:
    """As a report holds it: for each kernel in order the `bytes` of temporaries that live while it runs, its
    phase and place, and the largest of them `at_peak`."""
    found = blocks(plan)
    steps = np.zeros(len(plan.kernels) + 1, np.int64)
    for block in found:
        steps[block.first] += block.bytes
        steps[block.last + 1] -= block.bytes
    alive = np.cumsum(steps[:-1])
    peak = int(np.argmax(alive)) if len(alive) else 0
    largest = sorted((b for b in found if b.first <= peak <= b.last), key=lambda b: -b.bytes)[:_LARGEST]
    return {
        "bytes": alive.tolist(),
        "kernels": [_about(result_of(kernel)) for kernel in plan.kernels],
        "at_peak": [[block.bytes, *_about(block.node)] for block in largest],
    }


def result_of(kernel: Kernel) -> fx.Node:
    """What a kernel computes, by the first of its results."""
    if isinstance(kernel, LiveSamples):
        return kernel.live[-1]
    if isinstance(kernel, Call):
        return next((r.node for r in kernel.results if r.node is not None), kernel.operands[0].node)
    if isinstance(kernel, LoopKernel):
        return next(n for n in kernel.outputs if n is not None)
    return kernel.node


def _about(node: fx.Node) -> list[str]:
    """Operator, phase, layer and line."""
    meta = node.meta
    line = where(node) if node.op == "call_function" else ""
    return [targets(node), meta.get("phase", ""), meta.get("module") or "", line]
