"""What only streams of accumulations can be asked."""

from functools import partial

import pytest

from e2compile.targets.vta.isa import config
from e2compile.targets.vta.schedule.accumulate import AccumulationSchedule
from e2compile.targets.vta.schedule.accumulate_tile import Tile
from e2compile.targets.vta.schedule.scheduler import emitted
from tests.targets.vta.works import assert_exact, gradient, kernel

PYNQ = config.named("pynq")


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("outputs_first", [False, True])
def test_runs_a_tile_that_is_given(keeps: bool, outputs_first: bool) -> None:
    work = gradient(8, 3, (10, 9), kernel(3))
    tile = Tile(9, 4, 2, 4, 3, 9, keeps, 2, outputs_first, inp_slots=6, wgt_slots=3)
    assert_exact(work, emitted(partial(AccumulationSchedule, work, PYNQ, tile)), PYNQ)
