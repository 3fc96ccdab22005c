"""The command line: arguments, progress, printing. Each verb is a call of the public functions."""

import errno
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from e2compile import __version__, cli_energy, display, load
from e2compile.arguments import Address, Flag, Json, Output, Positive, Seed, Settings
from e2compile.collector import paused
from e2compile.errors import E2CompileError, MissingError, UsageError

if TYPE_CHECKING:
    from e2compile.runtime.fit import Options, Results
    from e2compile.runtime.program import Program

_HELP = "Compile the training step of a PyTorch CNN so that it does not execute what it can do without."
_INTERRUPTED = 130
# What a user can mend without knowing this code.
_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR)


@Parameter(name="*")
@dataclass(frozen=True)
class Which:
    """Which state of a program is meant.

    Args:
        run: Whose newest checkpoint to take; by default the run `default`, or the initial state without one.
        best: Take the run's best state by validation instead.
        initial: Take the state the program was compiled with.
    """

    run: str | None = None
    best: Flag = False
    initial: Flag = False


_NEWEST = Which()

app = App(
    name="e2compile",
    help=_HELP,
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)


for verb in (
    cli_energy.estimate,
    cli_energy.compare,
    cli_energy.energy,
    cli_energy.measure,
    cli_energy.calibrate,
):
    app.command(verb)


@app.default
def compile_model(
    model: str,
    /,
    *,
    target: str = "cpu",
    passes: str | None = None,
    preset: str = "default",
    settings: Settings = (),
    output: Output = None,
    seed: Seed = 0,
    train: Positive | None = None,
    init: Path | None = None,
    verify: bool = True,
    cache: bool = True,
) -> None:
    """Compile a model file into a Program folder.

    Args:
        model: A Python file that defines `model` and `batch`, or FILE.py:FUNCTION that returns them.
        target: Where the program runs: see `e2compile targets`; fpga:CONFIGURATION or fpga:FILE.json too.
        passes: Names with commas between, or none; by default all. See `e2compile passes`.
        preset: Settings of all passes: default, paper or official. See `e2compile passes`.
        settings: An option of a pass, like smd.p=0.5; may be given several times.
        output: The Program folder; by default out/ and the model file's name.
        seed: Of all random draws: dropped batches, dropout, the order of the data.
        train: Train this many epochs at once, on the model file's own data.
        init: A safetensors file to start the weights from.
        verify: Compare the program's numbers with PyTorch's.
        cache: Take a program that was compiled before from the cache.
    """
    phases = display.Phases()
    with paused():
        from e2compile.compiler import compile
        from e2compile.options import parse_passes
        from e2compile.pipeline import capture_task
        from e2compile.runtime.fit import Options
        from e2compile.runtime.summary import summarise
        from e2compile.targets import find
        from e2compile.task import load_task

    chosen, output = parse_passes(passes, settings, preset), output or _default_output(model)
    find(target)
    with display.working(f"compiling {model}"):
        task = load_task(model, init)
        graph = capture_task(task).apply(*chosen)
        phases.mark("imported and captured")
        program = compile(graph, target, output, seed, verify, cache, phases)
    display.compiled(program, summarise(program), f"e2compile train {shlex.quote(str(output))}")
    if train is not None:
        hint = ["--epochs", str(train)] if isinstance(task.data, str) else None
        _train(program, task.data, Options(epochs=train), hint)


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
    device: str | None = None,
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
        device: What runs an FPGA program's streams: simulator, simulator:strict, board (the one that this
            is), or a server's address like pynq://HOST:PORT.
    """
    from e2compile.runtime.export import check_writable, write_json
    from e2compile.runtime.fit import Options

    options = Options(epochs, steps, run, resume, checkpoint_every=checkpoint_every)
    check_writable(results)
    given = {"--data": data, "--epochs": epochs, "--steps": steps, "--json": results}
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
    which: Which = _NEWEST,
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
    from e2compile.runtime.export import check_writable, choose_state, write_json

    check_writable(results)
    loaded = load(program, device)
    state = choose_state(loaded, which.run, which.best, which.initial)
    found = loaded.evaluate(data)
    display.evaluated(found, state)
    if results is not None:
        write_json(results, asdict(found) | {"state": state})


@app.command
def inspect(program: Path, /, *, stage: str | None = None, diff: tuple[str, str] | None = None) -> None:
    """The graphs on the way from the model to the program.

    Args:
        program: A Program folder.
        stage: Print this stage's graph, a typed line an operator with the model's line; without it, the list.
        diff: Two stages, to see what changed between them.
    """
    from e2compile.runtime.stages import difference, find_stage, read_stages

    if stage is not None and diff is not None:
        raise UsageError("--stage and --diff exclude each other")
    stages = read_stages(program)
    if diff is not None:
        display.difference(difference(*(find_stage(stages, name) for name in diff)))
    elif stage is not None:
        display.graph(find_stage(stages, stage).text)
    else:
        display.stages(stages)


@app.command
def export(
    program: Path,
    /,
    *,
    format: Literal["safetensors", "vta"] = "safetensors",
    output: Output = None,
    which: Which = _NEWEST,
    data: str | None = None,
    base: Address = None,
) -> None:
    """Write the weights for PyTorch: model.load_state_dict(safetensors.torch.load_file(FILE)).

    With --format vta it is a folder: a training step as memory image, instructions and expected results,
    for any other VTA to run.

    Args:
        program: A Program folder.
        format: The file's format.
        output: The file or folder; by default the program's name and the format.
        data: With vta: what the step's batch is taken from, as for train.
        base: With vta: the image's address, 0x1000 by default.
    """
    from e2compile.runtime.export import choose_state, save_weights

    if format != "vta" and (data, base) != (None, None):
        raise UsageError("--data and --base go with --format vta")
    loaded = load(program)
    state = choose_state(loaded, which.run, which.best, which.initial)
    path = output or Path(f"{program.resolve().name}.{format}")
    if format == "vta":
        _export_step(loaded, data, path, state, base)
    else:
        display.say(f"{save_weights(loaded, path)} tensors of {state} written to {path}")


def _export_step(program: "Program", data: str | None, folder: Path, state: str, base: int | None) -> None:
    from e2compile.runtime.fit import Options, Run
    from e2compile.targets.vta.export import BASE, export

    batch = Run(program, data, Options()).loader.batch(0)
    written = export(program, batch, folder, BASE if base is None else base)
    text = f"{written.runs:,} runs of a step from {state}, in an image of {display.size(written.size)}"
    display.say(f"{text}, written to {folder}")


@app.command
def report(program: Path, /, *, results: Json = None) -> None:
    """What a program costs, as far as compiling tells: for the FPGA, each layer by a cycle model.

    Args:
        program: A Program folder.
        results: Write the figures to this JSON file.
    """
    from e2compile import tables
    from e2compile.runtime import manifest
    from e2compile.runtime.export import check_writable, write_json
    from e2compile.runtime.summary import compile_report

    check_writable(results)
    made = manifest.read(program)
    content = {"compile": compile_report(program)}
    if made.target == "fpga":
        from e2compile.targets.vta import report as fpga

        manifest.check(made, program, [fpga.REPORT])
        found = fpga.read(program)
        tables.fpga(found, content["compile"]["lines"])
        content |= {"fpga": asdict(found)}
    else:
        tables.compiled(content["compile"])
    if results is not None:
        write_json(results, content)


@app.command
def passes() -> None:
    """The passes with their options and defaults."""
    from e2compile.options import describe_passes
    from e2compile.presets import PRESETS

    display.passes(describe_passes())
    display.presets(PRESETS)


@app.command
def targets() -> None:
    """The targets, and what this machine lacks for them."""
    from e2compile.targets import PLANNED, TARGETS

    missing = {name: target.missing() for name, target in TARGETS.items()}
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
