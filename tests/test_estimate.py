"""What training will cost before anything is built, against the built program and its runs."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import e2compile
from e2compile.bill import Meter, bill
from e2compile.budget import Way, ways
from e2compile.counting import LAYER_FALLBACK
from e2compile.energy import prices
from e2compile.errors import UsageError
from e2compile.estimate import Estimate, estimate, quote
from e2compile.passes import BatchDrop, LayerGate, SignPredict
from e2compile.pipeline import TrainingGraph, capture, capture_task
from e2compile.runtime.fit import Options, Run
from e2compile.runtime.host import Host
from e2compile.targets import CPU, find
from e2compile.task import load_task
from tests import models
from tests.commands import run
from tests.small import BATCH, small
from tests.steps import images

# As good as never and always: the probability of another draw is e^-60.
CERTAIN = 60.0
SAMPLES = 4
TABLE = prices.find(None, CPU.prices)


@pytest.fixture(scope="module")
def graph(model_file: Path) -> TrainingGraph:
    return capture_task(load_task(str(model_file)))


@pytest.fixture(scope="module")
def found(graph: TrainingGraph) -> Estimate:
    return estimate(graph.apply(BatchDrop(p=0.5), LayerGate(target_skip=0.4)), CPU)


def test_an_estimate_is_what_the_built_program_costs(graph: TrainingGraph, program_folder: Path) -> None:
    built, foreseen = bill(program_folder), estimate(graph.apply(BatchDrop(p=0.5)), CPU)
    assert (foreseen.before, foreseen.after) == (built.before, built.after)
    assert foreseen.costs[1].evaluated.expected == pytest.approx(built.evaluation)
    assert foreseen.shares == built.shares


def test_what_passes_save_adds_up(found: Estimate) -> None:
    assert [rung.name.partition("(")[0] for rung in found.passes] == ["slu", "smd"]
    saved = sum(rung.saved for rung in found.passes)
    assert found.before.joules - saved == pytest.approx(found.after.joules)
    assert found.passes[-1].joules == found.after.joules == pytest.approx(found.costs[1].scheduled.expected)


def test_expected_is_between_best_and_worst(found: Estimate) -> None:
    plain, gated = found.costs
    assert plain.executed.best == plain.executed.expected == plain.executed.worst == found.before.joules
    assert gated.executed.best < gated.executed.expected < gated.executed.worst
    assert gated.dropped is not None
    assert 0 < gated.dropped < 1e-4 * gated.executed.best


def test_lengths_are_those_of_a_run(found: Estimate, program_copy: Path) -> None:
    trained = Run(e2compile.load(program_copy), None, Options())
    assert found.length is not None
    assert found.totals is not None
    assert found.length.steps * found.length.epochs == trained.total
    assert found.length.images == len(trained.train)
    costs, length, totals = found.costs[1], found.length, found.totals[1]
    by_hand = length.steps * costs.scheduled.expected + length.validation_batches * costs.evaluated.expected
    assert totals.epoch.expected == pytest.approx(by_hand)
    test = length.test_batches * costs.evaluated.expected
    assert totals.schedule.expected == pytest.approx(length.epochs * by_hand + test)


def test_an_average_takes_an_epoch_and_a_test_more(graph: TrainingGraph) -> None:
    rewritten = graph.apply(BatchDrop(p=0.5))
    plain, averaged = (estimate(rewritten, CPU, swa_start=start) for start in (None, 0.5))
    assert plain.totals is not None
    assert averaged.totals is not None
    assert averaged.length is not None
    assert averaged.length.averaged_epochs == 1  # the second of two ends after half of the run
    assert averaged.totals[0] == plain.totals[0]
    costs, length = averaged.costs[1], averaged.length
    more = length.steps * costs.executed.expected + length.test_batches * costs.evaluated.expected
    assert averaged.totals[1].schedule.expected - plain.totals[1].schedule.expected == pytest.approx(more)


def test_a_run_too_short_to_average_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to average"):
        estimate(small(), CPU, images=2, swa_start=0.9)


def test_full_products_are_expected_in_a_part_of_the_steps() -> None:
    """As often as the study has counted, in all of them where less may be unsure."""
    found = estimate(small().apply(SignPredict(fallback="layer")), CPU)
    assert {share.value for share in found.shares.values()} == {LAYER_FALLBACK}
    assert {share.tag for share in found.shares.values()} == {"assumed"}
    executed = found.costs[1].executed
    assert executed.best < executed.expected < executed.worst
    assert executed.expected == pytest.approx(
        executed.best + LAYER_FALLBACK * (executed.worst - executed.best)
    )
    strict = estimate(small().apply(SignPredict(fallback="layer", unsure_limit=0.1)), CPU).costs[1].executed
    assert strict.best < strict.expected == strict.worst


def test_an_epoch_of_unknown_length_has_no_joules() -> None:
    graph = small()
    unknown, known = estimate(graph, CPU), estimate(graph, CPU, images=80)
    assert unknown.totals is None
    assert "declares no data" in unknown.unknown
    assert known.length is not None
    assert known.length.steps == 80 // len(BATCH[0])


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingGraph, Path]:
    torch.manual_seed(0)
    model = models.small_resnet(channels=4)
    graph = capture(model, images((SAMPLES, 1, 8, 8))).apply(LayerGate(floor=0.0, target_skip=0.5))
    folder = tmp_path_factory.mktemp("forced") / "program"
    e2compile.compile(graph, output=folder, verify=False)
    return graph, folder


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_expected_joules_are_the_executed_ones_where_gates_are_forced(
    gated: tuple[TrainingGraph, Path], share: float
) -> None:
    """A run's counters, priced while it goes on and afterwards, against the estimate at the same shares."""
    graph, folder = gated
    program = e2compile.load(folder)
    arrays = program.arrays()
    arrays["slu.head.weight"] = np.zeros_like(arrays["slu.head.weight"])
    arrays["slu.head.bias"] = np.full_like(arrays["slu.head.bias"], CERTAIN * (2 * share - 1))
    program.restore(arrays)
    program.rates = np.zeros_like(program.rates)
    x, y = images((40, 1, 8, 8))
    meter, name = Meter(folder), f"forced{share:g}".replace(".", "_")
    trained = Run(
        program,
        (x.numpy(), y.numpy()),
        Options(steps=16, run=name),
        lambda executed: vars(meter.spent(executed)),
    )
    results = trained.go()
    (counted,) = results.executed.values()
    assert counted == share if share != 0.5 else 0.2 < counted < 0.8
    expected = quote(graph.step, CPU, TABLE).joules({"slu.0": counted})
    assert bill(folder, run=name).after.joules == pytest.approx(expected, rel=1e-12)
    assert results.energy is not None
    assert results.energy["training"] == pytest.approx(16 * expected, rel=1e-9)
    evaluated = trained.executed(tested=True).evaluated
    assert results.energy["evaluation"] == pytest.approx(
        evaluated * bill(folder, run=name).evaluation, rel=1e-9
    )


def test_a_gated_blocks_products_by_hand(gated: tuple[TrainingGraph, Path]) -> None:
    """4 to 8 channels at stride 2 and 8 to 8 on 4 x 4 pixels: forward, and both gradients."""
    work = quote(gated[0].step, CPU, TABLE).work
    open_, closed = (work.at({"slu.0": share}).totals()["mac.float32"] for share in (1.0, 0.0))
    assert open_ - closed == 3 * SAMPLES * 16 * 8 * 9 * (4 + 8)


def test_a_way_costs_what_its_settings_cost(graph: TrainingGraph) -> None:
    front = ways(graph.apply(BatchDrop(), LayerGate()), CPU, 0.4)
    assert all(way.share <= 0.4 for way in front)
    assert not any(a.beats(b) for a in front for b in front)
    best = front[0]
    assert (best.settings, best.steps, best.work, best.rank) == ("smd(p=0.6)", 0.4, 1.0, 0)
    assert best.share == pytest.approx(0.4)
    gate = next(way for way in front if "slu" in way.settings)
    skip = float(gate.settings.partition("target_skip=")[2].partition(")")[0] or 0.4)
    again = estimate(graph.apply(BatchDrop(p=1 - gate.steps), LayerGate(target_skip=skip)), CPU)
    assert again.after.joules == pytest.approx(gate.joules, rel=1e-4)
    assert gate.work < 1


def test_a_way_that_is_worse_in_something_and_better_in_nothing_is_beaten() -> None:
    way = Way("a", 1.0, 0.4, 0.5, 1.0, "float32", 0)
    assert way.beats(replace(way, work=0.9))
    assert way.beats(replace(way, rank=1))
    assert not way.beats(replace(way, steps=0.6, work=0.9))
    assert not way.beats(way)


def test_a_budget_that_nothing_meets_is_an_error(graph: TrainingGraph) -> None:
    with pytest.raises(UsageError, match=r"comes to 40\.0%: the least is 100\.0%"):
        ways(graph, CPU, 0.4)


def test_estimate_prints_and_writes(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "estimate.json"
    options = ("--host", "aarch64-linux-gnu", "--swa-start", "0.5", "--energy-budget", "40%", "--json", path)
    command = ("estimate", model_file, "--passes", "smd", *options)
    assert run(*command) == 0
    shown = capsys.readouterr().out
    for text in (
        "a dropped step",
        "a scheduled step",
        "all 2 epochs and the test, with the average of 1",
        "smd",
        "ways to spend 40%",
        "modelled",
    ):
        assert text in shown
    content = json.loads(path.read_text())
    assert content["after"]["tag"] == content["ways"][0]["tag"] == "modelled"
    assert content["table"] == "raspberry_pi4"
    assert content["ways"][0]["share"] == pytest.approx(0.4)


@pytest.mark.parametrize("budget", ["0", "-1", "140%", "half", "4O%", "nan"])
def test_a_budget_that_is_no_share_is_refused(
    model_file: Path, budget: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("estimate", model_file, f"--energy-budget={budget}") == 2
    assert "is no share" in capsys.readouterr().err


def test_a_run_tells_what_it_has_spent(program_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = program_copy / "train.json"
    assert run("train", program_copy, "--steps", "40", "--json", path) == 0
    assert "J modelled (server)" in capsys.readouterr().out
    energy = json.loads(path.read_text())["energy"]
    priced = bill(program_copy, run="default")
    assert (energy["tag"], energy["table"], energy["counts"]) == ("modelled", "server", "planned")
    assert energy["training"] == pytest.approx(40 * priced.after.joules)
    assert energy["joules"] == pytest.approx(energy["training"] + energy["evaluation"])


def test_pricing_a_run_needs_no_torch(program_folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from e2compile.bill import Meter; Meter(Path(sys.argv[1]));"
        "assert not {'torch', 'tvm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(program_folder)], check=True)


@pytest.mark.parametrize(("architecture", "table"), [("aarch64", "raspberry_pi4"), ("x86_64", "server")])
def test_prices_are_those_of_the_host(architecture: str, table: str) -> None:
    assert CPU.prices_on(Host(architecture)).stem == table
    assert find("fpga").prices_on(Host(architecture)) == find("fpga").prices
