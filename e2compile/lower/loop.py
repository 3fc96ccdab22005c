"""Loop: what a fused element-wise or reducing kernel computes, as data that compares equal."""

from dataclasses import dataclass
from typing import Any

from torch._ops import OpOverload

from e2compile.lower.views import Index, Shape


@dataclass(frozen=True)
class Buffer:
    """A tensor argument: its dimensions, none of one, and their order in memory, outermost first."""

    shape: Shape
    order: tuple[int, ...]
    dtype: str

    @property
    def physical(self) -> Shape:
        return tuple(self.shape[d] for d in self.order)

    def address(self, index: Index) -> Any:
        """The linear position of an index over `shape`."""
        linear: Any = 0
        for d in self.order:
            linear = linear * self.shape[d] + index[d]
        return linear


@dataclass(frozen=True)
class View:
    """One view of a load's chain."""

    op: OpOverload
    out: Shape
    source: Shape
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Window:
    """Every `step`-th place from `start` on along a dimension, `extent` of them."""

    dim: int
    start: int
    extent: int
    step: int = 1


@dataclass(frozen=True)
class Load:
    """Reads an argument through views, broadcast to `out`.

    `computed` replaces the index along a dimension by a value (gather). With `windows` only those places
    may be read, and the argument lies there.
    """

    buffer: int
    out: Shape
    shape: Shape
    views: tuple[View, ...]
    source: Shape
    computed: tuple[int, int] | None = None
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True)
class Compute:
    """One operator on values (`Value`) and Python constants; `out` is its whole shape, ones included."""

    op: OpOverload
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    dtype: str
    out: Shape


@dataclass(frozen=True)
class Value:
    """The result of an earlier instruction."""

    index: int


@dataclass(frozen=True)
class Reduce:
    """A reduction of a value over `dims` of the loop; `kind` is sum, amax, amin, argmax or moments.

    `moments` gives variance (divisor n - correction) and mean. `scale` multiplies a sum.
    """

    kind: str
    value: int
    dims: tuple[int, ...]
    outputs: tuple[int, ...]
    scale: float = 1.0
    correction: float = 0.0


@dataclass(frozen=True)
class Gate:
    """A loop that runs where samples live.

    With `batch`, a dimension of the loop, it runs over places of live samples alone: arguments `index`
    [samples] and `count` [1], both int32, follow the inputs. Without, it runs whole if the count is not zero,
    and only `count` follows. With `always` a reduction also writes its results, zeros, if the count is zero.
    """

    batch: int | None
    always: bool = False


@dataclass(frozen=True)
class Loop:
    """A loop over `shape` (no dimensions of one) in memory order `order`.

    `buffers` are inputs, then outputs; `stores` pairs values with output buffers; `donated` says which
    input an output overwrites, None for a new tensor.
    """

    shape: Shape
    order: tuple[int, ...]
    buffers: tuple[Buffer, ...]
    inputs: int
    instructions: tuple[Load | Compute, ...]
    stores: tuple[tuple[int, int], ...]
    reduces: tuple[Reduce, ...]
    donated: tuple[int | None, ...]
    name: str
    gate: Gate | None = None
