"""Work whose stream would be too long becomes several streams, and gives the same bits."""

from dataclasses import replace

import numpy as np
import pytest

from e2compile.errors import UsageError
from e2compile.targets.vta.analysis.check import transferred
from e2compile.targets.vta.analysis.order import QUEUE
from e2compile.targets.vta.isa import config
from e2compile.targets.vta.isa.instructions import Memory, Stage, Transfer
from e2compile.targets.vta.isa.stream import Stream
from e2compile.targets.vta.schedule.scheduler import streams
from e2compile.targets.vta.schedule.work import Accumulation, Correlation, Work
from tests.targets.vta.works import assert_exact, kernel, operands, run, small

PYNQ = config.named("pynq")
SMALL = small(PYNQ, uop=8, acc=12)  # 64 accumulators: many tiles
WORKS: dict[str, Work] = {
    "convolution": Correlation(2, 2, 2, 10, 10, 8, 8, kernel(3), (1, 1), 3),
    "every second": Correlation(1, 4, 6, 7, 7, 3, 3, kernel(3), (2, 2), 4),
    "matrix": Correlation(9, 12, 16, 1, 1, 1, 1, kernel(1), (1, 1), 4),
    "weight gradient": Accumulation(24, 2, 6, 6, 4, 4, kernel(3), (1, 1), 4),
    "weight gradient, every second": Accumulation(20, 2, 5, 5, 2, 2, kernel(3), (2, 2), 4),
}


def size(stream: Stream) -> int:
    return max(transferred(stream.instructions, stream.uops).values())


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_a_stream_that_is_too_long_is_cut(work: Work) -> None:
    (whole,) = streams(work, SMALL)
    largest = -(-size(whole) // 2)
    cut = streams(work, SMALL, largest=largest)
    assert len(cut) >= 2
    assert max(map(size, cut)) <= largest
    assert_exact(work, cut, SMALL)
    inp, wgt = operands(work, SMALL, seed=1)
    results = [run(made, SMALL, inp, wgt, work.out_shape) for made in ((whole,), cut)]
    np.testing.assert_array_equal(*results)


def test_no_part_stores_what_another_does() -> None:
    """Otherwise the order of the parts would matter."""
    work = WORKS["convolution"]
    cut = streams(work, SMALL, largest=600)
    assert len(cut) > 2
    inp, wgt = operands(work, SMALL)
    results = [run(made, SMALL, inp, wgt, work.out_shape) for made in (cut, cut[::-1])]
    np.testing.assert_array_equal(*results)


def test_a_tile_that_is_too_long_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"one tile takes \d+ bytes of instructions or micro-ops, 64 at most"
    ):
        streams(replace(WORKS["matrix"], images=1), PYNQ, largest=64)


def test_the_chisel_design_gets_as_many_micro_ops_at_once_as_it_holds() -> None:
    """A weight gradient of ResNet-20's, which on other boards has more."""
    work = Accumulation(64, 2, 18, 18, 16, 16, kernel(3), (1, 1), 4)
    loaded = {}
    for name in ("pynq", "de10nano"):
        (stream,) = streams(work, config.named(name))
        transfers = [i for i in stream.instructions if isinstance(i, Transfer) and i.memory is Memory.UOP]
        loaded[name] = max(transfer.columns for transfer in transfers)
    assert loaded["de10nano"] <= 2048 < loaded["pynq"]
    assert_exact(work, [stream], config.named("de10nano"))


def test_queues_need_not_hold_all_instructions_of_a_stage() -> None:
    work = Accumulation(512, 8, 3, 3, 3, 3, kernel(1), (1, 1), 4)
    (stream,) = streams(work, SMALL)
    counts = [sum(i.stage is stage for i in stream.instructions) for stage in (Stage.COMPUTE, Stage.STORE)]
    assert min(counts) > QUEUE
    assert_exact(work, [stream], SMALL)
