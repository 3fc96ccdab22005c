"""SignPredict compiled: the program is what the rewritten graph is, and it trains."""

from pathlib import Path
from typing import Any

import pytest

import e2compile
from e2compile.passes import BatchDrop, SignPredict
from tests.passes.test_sign_predict_values import GRAPH

VARIANTS: dict[str, dict[str, Any]] = {
    "the low half always": {"fallback": "layer", "unsure_limit": 0.0},
    "paper, counting wrong signs": {"preset": "paper", "measure": True},
    "by tile": {"fallback": "tile", "unsure_limit": 0.2},
    "eight bits, by channel": {"gradient_bits": 8, "by_channel": True},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_is_verified_and_learns(name: str, tmp_path: Path) -> None:
    graph = GRAPH.apply(SignPredict(**VARIANTS[name]), BatchDrop(p=0.2))
    program = e2compile.compile(graph, output=tmp_path / "out")
    batch = tuple(tensor.numpy() for tensor in GRAPH.task.batch)
    results = [result for result in (program.step(batch) for _ in range(30)) if result.executed]
    losses = [result.loss for result in results if result.loss is not None]
    assert losses[-1] < 0.2 * losses[0]
    sure = [float(result.counters[f"psg.{conv}.sure"]) for result in results for conv in ("first", "second")]
    assert all(0 < share <= 1 for share in sure)
