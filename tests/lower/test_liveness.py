"""Memory over a function, hand-counted: a value lives to its last reader, what is returned to the end."""

import torch

from e2compile.lower.flat import fused
from e2compile.lower.liveness import memory
from e2compile.lower.schedule import schedule
from tests.lower.compiling import traced
from tests.lower.graphs import floats

SIZE = 4 * 4 * 4


def alive(function: object, *inputs: torch.Tensor) -> list[int]:
    assert callable(function)
    found = memory(schedule(fused(traced(function, *inputs).graph)))["bytes"]
    assert isinstance(found, list)
    return found


def test_a_chain_holds_two_at_a_time() -> None:
    def chain(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a.mm(b).mm(b).mm(b)

    assert alive(chain, floats(4, 4), floats(4, 4)) == [SIZE, 2 * SIZE, 2 * SIZE]


def test_what_is_read_again_lives_until_then() -> None:
    def again(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        first = a.mm(b)
        return first.mm(b).mm(b).mm(first)

    assert alive(again, floats(4, 4), floats(4, 4)) == [SIZE, 2 * SIZE, 3 * SIZE, 3 * SIZE]


def test_the_largest_at_the_peak_are_named() -> None:
    def wide(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return a.mm(b).mm(c)

    found = memory(schedule(fused(traced(wide, floats(4, 4), floats(4, 8), floats(8, 4)).graph)))
    sizes = [4 * 8 * 4, 4 * 4 * 4]
    assert found["at_peak"] == [[size, "aten.mm", "forward", "", "the training step"] for size in sizes]
