"""Places of temporaries, against counting by hand and against every pair that lives at once."""

import random

import torch

from e2compile.lower.arena import ALIGNMENT, arena
from e2compile.lower.flat import fused
from e2compile.lower.liveness import Block, blocks
from e2compile.lower.schedule import schedule
from tests.lower.compiling import traced
from tests.lower.graphs import floats

UNIT = ALIGNMENT


def block(number: int, size: int, last: int) -> Block:
    node = torch.fx.Graph().placeholder("x")
    return Block(size, node, number, last, 0)


def test_memory_is_used_again_when_its_value_is_dead() -> None:
    plan = arena([block(0, 4 * UNIT, 1), block(1, 2 * UNIT, 2), block(2, 4 * UNIT, 3)])
    assert plan.offsets == {(0, 0): 0, (2, 0): 0, (1, 0): 4 * UNIT}
    assert plan.bytes == 6 * UNIT


def test_small_ones_share_what_a_large_one_left() -> None:
    plan = arena([block(0, 4 * UNIT, 0), block(1, 1, 2), block(2, 3 * UNIT, 2)])
    assert plan.offsets == {(0, 0): 0, (2, 0): 0, (1, 0): 3 * UNIT}
    assert plan.bytes == 4 * UNIT


def test_nothing_needs_no_memory() -> None:
    assert arena([]).bytes == 0


def test_what_lives_at_once_lies_apart() -> None:
    draw = random.Random(0)
    made = [block(i, draw.randrange(1, 9 * UNIT), i + draw.randrange(20)) for i in range(300)]
    plan = arena(made)
    for one in made:
        start = plan.offsets[one.first, 0]
        assert start % ALIGNMENT == 0
        assert start + one.bytes <= plan.bytes
        for other in made:
            if other.first < one.first <= other.last:
                begin = plan.offsets[other.first, 0]
                assert start + one.bytes <= begin or begin + other.bytes <= start


def test_a_chain_needs_two_places() -> None:
    def chain(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a.mm(b).mm(b).mm(b).mm(b)

    made = blocks(schedule(fused(traced(chain, floats(4, 4), floats(4, 4)).graph)))
    assert arena(made).bytes == 2 * 4 * 4 * 4
