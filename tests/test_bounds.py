"""What verification allows a scalar whose yardsticks happen to be exact."""

import pytest
import torch

from e2compile.graph import Kind
from e2compile.verification.verify import compare

KEY = Kind.METRIC, "slu.regulariser"


@pytest.mark.parametrize(("error", "passes"), [(8.65e-8, True), (2e-7, False)])
def test_a_scalar_may_round_in_its_sum_and_in_its_scaling(error: float, passes: bool) -> None:
    """The first error is that of a small ResNet with gates on 128 images of 8 x 8: 1.2 float32 epsilons."""
    exact = torch.tensor(0.609, dtype=torch.float64)
    (row,) = compare("check", {KEY: exact + error}, {KEY: exact}, [{KEY: exact}], {KEY: exact})
    assert row.passed == passes
