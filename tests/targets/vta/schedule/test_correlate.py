"""What only streams of correlations can be asked."""

from functools import partial

from e2compile.targets.vta.isa import config
from e2compile.targets.vta.isa.instructions import AluOp, Memory, Transfer
from e2compile.targets.vta.schedule.correlate import CorrelationSchedule
from e2compile.targets.vta.schedule.correlate_tile import Tile
from e2compile.targets.vta.schedule.scheduler import emitted, streams
from tests.targets.vta.works import assert_exact, convolution, kernel, operands, run, small, sums

PYNQ = config.named("pynq")


def test_micro_ops_that_do_not_fit_are_loaded_again() -> None:
    work = convolution(4, 4, (8, 8), kernel(3), images=2)
    few = small(PYNQ, uop=7)
    (stream,) = streams(work, few)
    loads = [i for i in stream.instructions if isinstance(i, Transfer) and i.memory is Memory.UOP]
    assert len([i for i in loads if not i.is_idle]) > 1
    assert_exact(work, [stream], few)


def test_runs_a_tile_and_an_epilogue_that_are_given() -> None:
    work = convolution(2, 4, (10, 9), kernel(3), planes=1)
    tile = Tile(outputs=2, images=1, height=4, width=9, inputs=1, taps=9)
    epilogue = ((AluOp.SHR, 8), (AluOp.ADD, 3), (AluOp.MAX, 0), (AluOp.MIN, 127))
    inp, wgt = operands(work, PYNQ)
    begin = partial(CorrelationSchedule, work, PYNQ, tile)
    out = run(emitted(begin, epilogue), PYNQ, inp, wgt, work.out_shape)
    assert (out[0] == ((sums(work, inp, wgt) >> 8) + 3).clip(0, 127)).all()
