"""Short words for the TIR that kernels are made of: flat buffers, vectors, registers, samples."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from e2compile.lower.workload import Convolution, Pool

_SLACK = 4
# LLVM's words for a line of data that is wanted in the first-level cache, and in the second-level one.
_NEAREST, _NEAR, _DATA = 3, 2, 1
_STREAM = """
define linkonce_odr void @stream{width}(ptr %place, <{width} x float> %value) alwaysinline {{
  store <{width} x float> %value, ptr %place, align {bytes}, !nontemporal !0
  ret void
}}
!0 = !{{i32 1}}
"""


@contextmanager
def function(name: str) -> Iterator[IRBuilder]:
    """A PrimFunc under construction; its arguments do not overlap, so loads may move across stores."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        yield builder


def arguments(shapes: Mapping[str, Sequence[int]], given: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The arguments of the function, in order, each read and written as if it had one axis.

    They are float32 where no other type is given.
    """
    dtypes = dict.fromkeys(shapes, "float32") | {"index": "int32", "count": "int32"} | dict(given or {})
    # All of them first: TVM allows no argument after an alias.
    whole = {name: T.arg(name, T.buffer(shape, dtypes[name], layout=None)) for name, shape in shapes.items()}
    return {
        name: T.decl_buffer((prod(shapes[name]),), dtypes[name], data=buffer.data, layout=None)
        for name, buffer in whole.items()
    }


def scratch(size: int, dtype: str = "float32") -> Any:
    """Memory of the function's own."""
    return T.alloc_buffer((size,), dtype, layout=None)


def padded(size: int, dtype: str) -> Any:
    """Memory of the function's own with a few elements more, for vectors that read beyond what they use.

    TVM trims memory to what it sees used, so those elements are written to. It sees nothing through pointers.
    """
    buffer = scratch(size + _SLACK, dtype)
    store(buffer, size, zero(_SLACK, dtype), _SLACK)
    return buffer


def opaque(number: int) -> Any:
    """Memory with a number that LLVM does not know: it leaves loops of so many steps as they are."""
    buffer = scratch(1, "int32")
    store(buffer, 0, T.int32(number), 1)
    return buffer


@contextmanager
def tasks(number: Any) -> Iterator[Any]:
    """A parallel loop that stays a function of its own even where it has a single task.

    Within one function, TVM tells LLVM that what is read through a pointer into a buffer is not what was
    written to the buffer.
    """
    is_several = isinstance(number, int) and number > 1
    loop = T.parallel(number if is_several else tirx.max(number, 2))
    with loop as task, nullcontext() if is_several else when(task < number):
        yield task


def pointer(buffer: Any, index: Any) -> Any:
    """The buffer from an index on: accesses at constant places in it share one address register."""
    address = T.bind(T.address_of(buffer[index]))
    return T.decl_buffer((1 << 30,), buffer.dtype, data=address, layout=None)


def registers(widths: Sequence[int], dtype: str = "float32") -> list[Any]:
    """One buffer for each vector: LLVM promotes small ones, of constant size, to registers."""
    return [scratch(width, dtype) for width in widths]


def at(index: Any, width: int) -> Any:
    """The place of a vector in memory; a scalar's if it is one lane wide."""
    return index if width == 1 else T.ramp(index, 1, width)


def load(buffer: Any, index: Any, width: int) -> Any:
    """A vector from memory, kept in a register."""
    return T.bind(buffer[at(index, width)])


def splat(value: Any, width: int) -> Any:
    """A scalar in each lane."""
    return value if width == 1 else T.broadcast(value, width)


def zero(width: int, dtype: str = "float32") -> Any:
    return splat(tirx.const(0, dtype), width)


def typed(dtype: str, width: int) -> str:
    """The type of a vector."""
    return dtype if width == 1 else f"{dtype}x{width}"


def fetch(register: Any, width: int) -> Any:
    return register[at(0, width)]


def keep(register: Any, value: Any, width: int) -> None:
    T.buffer_store(register, value, [at(0, width)])


def store(buffer: Any, index: Any, value: Any, width: int) -> None:
    T.buffer_store(buffer, value, [at(index, width)])


def stream(buffer: Any, index: Any, value: Any, width: int) -> None:
    """Stores a vector of floats at a multiple of its own size past the caches, without reading its line.

    What ends a parallel loop waits for such stores too: TVM counts down its tasks by an atomic instruction.
    """
    with T.attr(T.int32(0), "pragma_import_llvm", _STREAM.format(width=width, bytes=4 * width)):
        T.evaluate(T.call_extern("void", f"stream{width}", T.address_of(buffer[index]), value))


def prefetch(buffer: Any, index: Any, to_write: bool = False, is_far: bool = False) -> None:
    """Asks for the cache line of an element, in the second-level cache if it is for later (`is_far`).

    A line beyond the buffer's end does no harm.
    """
    address = T.address_of(buffer[index])
    arguments = (T.int32(int(to_write)), T.int32(_NEAR if is_far else _NEAREST), T.int32(_DATA))
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", address, *arguments))


def multiply_add(register: Any, left: Any, right: Any, width: int) -> None:
    """register += left * right, rounded once."""
    dtype = typed("float32", width)
    keep(register, T.call_llvm_pure_intrin(dtype, "llvm.fma", left, right, fetch(register, width)), width)


@contextmanager
def when(condition: Any) -> Iterator[None]:
    with T.If(condition), T.Then():
        yield


@dataclass(frozen=True)
class Samples:
    """The samples that a kernel works on: all of them, or index[0..count)."""

    number: Any
    index: Any = None

    def __getitem__(self, position: Any) -> Any:
        return position if self.index is None else self.index[position]


def gate(workload: Convolution | Pool, gated: bool) -> dict[str, Sequence[int]]:
    """The shapes of the arguments that say which samples live."""
    return {"index": (workload.batch,), "count": (1,)} if gated else {}


def samples(workload: Convolution | Pool, arguments: Mapping[str, Any]) -> Samples:
    """The samples that the arguments let live."""
    if "index" not in arguments:
        return Samples(workload.batch)
    return Samples(T.bind(arguments["count"][0]), arguments["index"])


@contextmanager
def unless_empty(live: Samples) -> Iterator[None]:
    """Does nothing where no sample lives, before any thread is woken."""
    with nullcontext() if live.index is None else when(live.number > 0):
        yield


def ceil_div(value: Any, divisor: int) -> Any:
    return (value + (divisor - 1)) // divisor


def least(left: Any, right: Any) -> Any:
    return tirx.min(left, right)
