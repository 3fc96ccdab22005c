"""The verbs of the command line that are about joules. Each is a call of the public functions."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from e2compile import display, load
from e2compile.arguments import Json, Output, PartOfRun, Positive, Settings, Several, parse_budget
from e2compile.collector import paused


def energy(
    program: Path, /, *, prices: str | None = None, run: str | None = None, results: Json = None
) -> None:
    """Joules of a training step before the passes and after them. Needs no torch.

    Args:
        program: A Program folder.
        prices: A price table: a TOML file, or the name of one that the target has; by default its own.
        run: Take what this run has executed, instead of what is expected.
        results: Write the figures to this JSON file.
    """
    from e2compile import display_energy
    from e2compile.bill import bill
    from e2compile.runtime.export import check_writable, write_json

    check_writable(results)
    found = bill(program, prices, run)
    display_energy.billed(found)
    if results is not None:
        write_json(results, asdict(found))


def estimate(
    model: str,
    /,
    *,
    target: str = "cpu",
    host: str | None = None,
    passes: str | None = None,
    preset: str = "default",
    settings: Settings = (),
    prices: str | None = None,
    images: Positive | None = None,
    swa_start: PartOfRun | None = None,
    energy_budget: str | None = None,
    results: Json = None,
) -> None:
    """What training a model file will cost on a target, before its passes and after them. Builds nothing.

    Args:
        model: As for compiling.
        target: As for compiling.
        host: As for compiling. A CPU's prices are that host's, of an ARM one a Raspberry Pi 4's.
        passes: As for compiling.
        preset: As for compiling.
        settings: As for compiling.
        prices: As for energy.
        images: Of an epoch; by default those of the model file's data that are not held out.
        swa_start: As for train; by default the preset's, as for compiling with --train.
        energy_budget: A share of the plain step's joules, like 40%: list settings of the passes that keep
            to it.
        results: Write the figures to this JSON file.
    """
    from e2compile import display_energy
    from e2compile.budget import ways
    from e2compile.estimate import estimate
    from e2compile.options import parse_passes
    from e2compile.pipeline import capture_task
    from e2compile.presets import PRESETS
    from e2compile.runtime.export import check_writable, write_json
    from e2compile.targets import find
    from e2compile.task import load_task

    check_writable(results)
    chosen, place = parse_passes(passes, settings, preset), find(target, host)
    average = PRESETS[preset].swa_start_of(chosen) if swa_start is None else swa_start
    budget = None if energy_budget is None else parse_budget(energy_budget)
    with display.working(f"estimating {model}"), paused():
        graph = capture_task(load_task(model)).apply(*chosen)
        found = estimate(graph, place, prices, images, average)
    display_energy.estimated(found)
    content = asdict(found)
    if budget is not None:
        with display.working("searching settings"), paused():
            front = ways(graph, place, budget, prices)
        display_energy.ways(front, budget)
        content |= {"budget": budget, "ways": [asdict(way) for way in front]}
    if results is not None:
        write_json(results, content)


def compare(
    model: str,
    /,
    *,
    target: str = "cpu",
    passes: str | None = None,
    preset: str = "default",
    settings: Settings = (),
    epochs: Positive | None = None,
    seeds: Positive = 1,
    shortened: bool = True,
    output: Output = None,
    verify: bool = True,
    results: Json = None,
) -> None:
    """What passes cost and save on your network: plain and rewritten training from the same seeds.

    Args:
        model: As for compiling; it names its data.
        target: As for compiling.
        passes: As for compiling.
        preset: As for compiling.
        settings: As for compiling.
        epochs: How long; by default as long as the model file says.
        seeds: How many seeds, from 0.
        shortened: Train plain a second time, as long as the joules of the rewritten run last.
        output: The folder of programs, runs and, with matplotlib (extra `report`), compare.png; by default
            out/compare-NAME.
        verify: As for compiling.
        results: Write the figures to this JSON file.
    """
    from e2compile import display_energy
    from e2compile.compare import compare, plot
    from e2compile.options import parse_passes
    from e2compile.pipeline import capture_task
    from e2compile.runtime.export import check_writable, write_json
    from e2compile.targets import find
    from e2compile.task import load_task

    check_writable(results)
    chosen = parse_passes(passes, settings, preset)
    find(target)
    folder = output or Path("out") / f"compare-{Path(model.partition(':')[0]).stem}"
    with paused():
        graph = capture_task(load_task(model)).apply(*chosen)
    found = compare(
        graph,
        target,
        folder,
        epochs,
        range(seeds),
        shortened,
        verify,
        display.Phases(),
        display_energy.running,
    )
    display_energy.compared(found)
    if plot(found, folder / "compare.png"):
        display.say(f"plot in {folder / 'compare.png'}")
    else:
        display.say("no plot: matplotlib is not installed (pip install 'e2compile[report]')")
    if results is not None:
        write_json(results, asdict(found))


def measure(
    program: Path,
    /,
    *,
    meter: Literal["rapl", "nvml", "hwmon", "pmbus", "csv"],
    output: Output = None,
    seconds: Annotated[float, Parameter(validator=Number(gt=0))] = 10.0,
    repeats: Positive = 5,
    meter_file: Path | None = None,
    rails: Several = (),
    device: str | None = None,
) -> None:
    """Measure the joules of a program's step on this machine, as rows of a log for calibrate.

    Args:
        program: A Program folder.
        meter: rapl (the processor's counters), nvml (those of NVIDIA GPUs), hwmon (a board's power rails),
            pmbus (its regulators) or csv (an external meter).
        output: The log; rows are added to one that is there. By default measured.csv.
        seconds: How long each part is run in one go.
        repeats: How often.
        meter_file: What an external meter writes: CSV with the columns seconds (since 1970) and watts.
        rails: A rail, a GPU (gpu0) or a RAPL domain to take; by default all are added up.
        device: As for train.
    """
    from e2compile import display_energy
    from e2compile.energy import meters
    from e2compile.measure import append, check, measure
    from e2compile.runtime.export import check_writable

    chosen, path = meters.meter(meter, meter_file, rails), output or Path("measured.csv")
    check_writable(path)
    check(path, chosen)
    loaded = load(program, device)
    append(path, measure(loaded, chosen, seconds, repeats, display_energy.measured), loaded, chosen)
    display.say(f"written to {path}")


def calibrate(
    *,
    log: Path,
    target: str = "cpu",
    output: Output = None,
    name: str | None = None,
    without: Several = (),
    inherits: str = "reference",
    times: bool = True,
) -> None:
    """Fit a price table to a measurement log, for --prices. See docs/energy.md for the log's columns.

    Args:
        log: A CSV file of counted work and measured joules.
        target: What the log was measured on: whose tables the new one may inherit from.
        output: The table; by default the log's name with .toml.
        name: The table's name; by default the log's.
        without: A column to leave out; may be given several times.
        inherits: The table that prices what the log does not.
        times: Fit the log's seconds, too.
    """
    from e2compile import display_energy
    from e2compile.energy.calibrate import calibrate
    from e2compile.energy.prices import write
    from e2compile.targets import find

    folder = find(target).prices.parent
    found = calibrate(log, without, name, times)
    path = output or Path(f"{found.table.name}.toml")
    write(found.table, path, inherits, [folder])
    display_energy.calibrated(found)
    display.say(f"written to {path}")
