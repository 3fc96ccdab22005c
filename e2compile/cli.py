"""The command line: arguments, progress, printing. Each verb is a call of the public functions."""

import errno
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError

from e2compile import __version__, cli_energy, cli_views, display, load
from e2compile.arguments import (
    NEWEST,
    Flag,
    Json,
    Output,
    PartOfRun,
    Positive,
    Seed,
    Settings,
    Threads,
    Which,
)
from e2compile.collector import paused
from e2compile.errors import E2CompileError, MissingError, UsageError

if TYPE_CHECKING:
    from e2compile.runtime.fit import Options, Results
    from e2compile.runtime.program import Program

_HELP = "Compile the training step of a PyTorch CNN so that it does not execute what it can do without."
_INTERRUPTED = 130
# What a user can mend without knowing this code.
_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR)


app = App(
    name="e2compile",
    help=_HELP,
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)


for verb in (
    *(cli_views.inspect, cli_views.report, cli_views.export),
    *(cli_energy.estimate, cli_energy.compare),
    *(cli_energy.energy, cli_energy.measure, cli_energy.calibrate),
):
    app.command(verb)


@app.default
def compile_model(
    model: str,
    /,
    *,
    target: str = "cpu",
    host: str | None = None,
    passes: str | None = None,
    preset: str = "default",
    settings: Settings = (),
    output: Output = None,
    seed: Seed = 0,
    train: Positive | None = None,
    init: Path | None = None,
    verify: bool = True,
    cache: bool = True,
    memory_budget: Positive | None = None,
    threads: Threads = None,
    tune: Positive | None = None,
) -> None:
    """Compile a model file into a Program folder.

    Args:
        model: A Python file that defines `model` and `batch`, or FILE.py:FUNCTION that returns them.
        target: Where the program runs: see `e2compile targets`; fpga:CONFIGURATION or fpga:FILE.json too.
        host: The machine that runs the program, or the array's host part: aarch64-linux-gnu, with a CPU too,
            like aarch64-linux-gnu:cortex-a53; by default this one. See `e2compile targets`.
        passes: Names with commas between, or none; by default the preset's. See `e2compile passes`.
        preset: Passes and their settings: default, paper or official. See `e2compile passes`.
        settings: An option of a pass, like smd.p=0.5; may be given several times.
        output: The Program folder; by default out/ and the model file's name.
        seed: Of all random draws: dropped batches, dropout, the order of the data.
        train: Train this many epochs at once, on the model file's own data.
        init: A safetensors file to start the weights from.
        verify: Compare the program's numbers with PyTorch's.
        cache: Take a program that was compiled before from the cache.
        memory_budget: Megabytes that a step may hold, state and batch included: what does not fit is computed
            again in the backward pass.
        threads: Cores to use for --tune, verification and --train; by default all that the process may use.
        tune: Measure for about so many seconds which kernels of convolutions and products are the fastest
            on this machine; what was measured before is taken from the cache.
    """
    from e2compile.runtime.engine import use_threads

    use_threads(threads)
    phases = display.Phases()
    with paused():
        from e2compile.compiler import compile
        from e2compile.options import parse_passes
        from e2compile.pipeline import capture_task
        from e2compile.presets import PRESETS
        from e2compile.runtime.fit import Options
        from e2compile.runtime.summary import summarise
        from e2compile.targets import find
        from e2compile.task import load_task

    chosen, output = parse_passes(passes, settings, preset), output or _default_output(model)
    foreign = find(target, host).host.lacking()
    if train is not None and foreign is not None:
        raise UsageError(f"--train with --host {host}: {foreign}. Train where the program runs")
    swa_start = PRESETS[preset].swa_start_of(chosen)
    average = [] if swa_start is None else ["--swa-start", str(swa_start)]
    with display.working(f"compiling {model}") as shown:
        task = load_task(model, init)
        graph = capture_task(task).apply(*chosen)
        phases.mark("imported and captured")
        tuning = display.Tuning(shown)
        program = compile(
            graph, target, output, seed, verify, cache, phases, host, memory_budget, tune, tuning
        )
    command = shlex.join(["e2compile", "train", str(output), *average])
    command += f", on {program.manifest.host}" if foreign else ""
    accelerated = find(target).accelerated(output)
    left = None if accelerated is None else accelerated.left
    display.compiled(program, summarise(program), left, command)
    if train is not None:
        hint = ["--epochs", str(train), *average] if isinstance(task.data, str) else None
        _train(program, task.data, Options(epochs=train, swa_start=swa_start), hint)


def _default_output(model: str) -> Path:
    path, _, function = model.partition(":")
    return Path("out") / (f"{Path(path).stem}-{function}" if function else Path(path).stem)


@app.command
def train(
    program: Path,
    /,
    *,
    data: str | None = None,
    epochs: Positive | None = None,
    steps: Positive | None = None,
    run: str = "default",
    resume: Flag = False,
    results: Json = None,
    checkpoint_every: Positive = 500,
    swa_start: PartOfRun | None = None,
    device: str | None = None,
    threads: Threads = None,
) -> None:
    """Train a program. Needs no torch.

    Args:
        program: A Program folder.
        data: digits, cifar10, cifar100, mnist, fashion-mnist or a folder; by default the model file's.
        epochs: How long; by default as long as the model file says.
        steps: How long in scheduled steps, instead of epochs.
        run: The run's name: checkpoints and results go to runs/NAME. A run of that name is replaced.
        resume: Go on from the run's newest checkpoint, if there is one.
        results: Write the results to this JSON file.
        checkpoint_every: Scheduled steps between checkpoints.
        swa_start: Average the weights after each epoch that ends after this share of the run, like 0.8, and
            estimate the average's batch-norm statistics at the end: stochastic weight averaging.
        device: What runs an FPGA program's streams: simulator, simulator:strict, board (the one that this
            is), or a server's address like pynq://HOST:PORT.
        threads: Cores to use, the loading of batches included; by default all that the process may use.
    """
    from e2compile.runtime.engine import use_threads
    from e2compile.runtime.export import check_writable, write_json
    from e2compile.runtime.fit import Options

    use_threads(threads)

    options = Options(epochs, steps, run, resume, checkpoint_every=checkpoint_every, swa_start=swa_start)
    check_writable(results)
    given = {
        "--data": data,
        "--epochs": epochs,
        "--steps": steps,
        "--swa-start": swa_start,
        "--json": results,
    }
    hint = [text for flag, value in given.items() if value is not None for text in (flag, str(value))]
    gained = _train(load(program, device), data, options, hint)
    if results is not None:
        write_json(results, asdict(gained))


def _train(program: "Program", data: Any, options: "Options", hint: Sequence[str] | None) -> "Results":
    """Train with progress. `hint` are the arguments that say the same on the command line."""
    from e2compile.bill import Meter
    from e2compile.runtime.fit import Run

    meter = Meter(program.folder)
    run = Run(program, data, options, lambda executed: asdict(meter.spent(executed)))
    display.say(f"{options.run}: {run.dataset.name}, {len(run.train):,} training images, {run.total:,} steps")
    progress = display.Training(program.batch_size, lambda: meter.spent(run.executed()))
    try:
        with progress.shown():
            results = run.go(progress)
    except KeyboardInterrupt:
        display.interrupted(program.folder, options.run, progress.last, hint)
        raise
    display.trained(results, program, options.run)
    return results


@app.command
def evaluate(
    program: Path,
    /,
    *,
    data: str | None = None,
    which: Which = NEWEST,
    results: Json = None,
    device: str | None = None,
) -> None:
    """Loss and accuracy on the test split. Needs no torch.

    Args:
        program: A Program folder.
        data: As for train.
        results: Write the figures to this JSON file.
        device: As for train.
    """
    from e2compile.runtime.export import check_writable, write_json

    check_writable(results)
    loaded = load(program, device)
    state = which.put_into(loaded)
    found = loaded.evaluate(data)
    display.evaluated(found, state)
    if results is not None:
        write_json(results, asdict(found) | {"state": state})


@app.command
def passes() -> None:
    """The passes with their options and defaults."""
    from e2compile.options import describe_passes
    from e2compile.presets import PRESETS

    display.passes(describe_passes())
    display.presets(PRESETS)


@app.command
def targets() -> None:
    """The targets and other hosts, and what this machine lacks for them."""
    from e2compile.targets import CPU, HOSTS, PLANNED, TARGETS

    missing = {name: target.missing() for name, target in TARGETS.items()}
    missing |= {f"--host {name}": CPU.hosted(name).missing() for name in HOSTS}
    rows = [(name, "available" if lack is None else f"needs {lack}") for name, lack in missing.items()]
    display.table([*rows, *((name, "not in this version") for name in PLANNED)])


@app.command
def doctor() -> None:
    """What this machine has and lacks to compile and train."""
    from e2compile.doctor import examine

    findings = examine()
    display.findings(findings)
    problems = [f"{finding.name}: {finding.problem}" for finding in findings if finding.problem]
    if problems:
        raise MissingError("\n".join(problems))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code: 0 done, 2 wrong usage, 3 unsupported model, 4 something
    missing, 5 verification failed, 6 a device failed, 130 interrupted. Anything else is a bug and keeps its
    traceback."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(tokens or ["--help"], exit_on_error=False, print_error=False, result_action="return_value")
    except KeyboardInterrupt:
        display.err.print("interrupted")
        return _INTERRUPTED
    except CycloptsError as error:
        display.complain(UsageError(f"{error}\nSee e2compile --help."))
        return UsageError.exit_code
    except E2CompileError as error:
        display.complain(error)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("e2compile"):
            raise
        display.complain(MissingError(f"{error.name} is not installed: see `e2compile doctor`"))
        return MissingError.exit_code
    except OSError as error:
        if error.errno not in _DISK:
            raise
        display.complain(error)
        return UsageError.exit_code
    return 0
