"""The verbs of the command line that show a Program or write what others read of it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from e2compile import display, load
from e2compile.arguments import NEWEST, Address, Flag, Json, Output, Which
from e2compile.errors import UsageError

if TYPE_CHECKING:
    from e2compile.runtime.program import Program


def inspect(
    program: Path,
    /,
    *,
    stage: str | None = None,
    diff: tuple[str, str] | None = None,
    energy: Flag = False,
    prices: str | None = None,
    run: str | None = None,
    stream: str | None = None,
) -> None:
    """The graphs on the way from the model to the program, and an FPGA program's instructions.

    Args:
        program: A Program folder.
        stage: Print this stage's graph, a typed line an operator with the model's line; without it, the list.
        diff: Two stages, to see what changed between them.
        energy: With --stage: its joules by layer and its dearest calls, instead of the graph.
        prices: With --energy: a price table, as for energy.
        run: With --energy: take what this run has executed.
        stream: Print this kernel's VTA streams as assembler, with cycles; a name that is none lists all.
    """
    from e2compile.runtime.stages import difference, find_stage, read_stages

    if sum(option is not None for option in (stage, diff, stream)) > 1:
        raise UsageError("--stage, --diff and --stream exclude one another")
    if energy and stage is None:
        raise UsageError("--energy goes with --stage")
    if not energy and (prices, run) != (None, None):
        raise UsageError("--prices and --run go with --energy")
    if stream is not None:
        display.graph(_listing(program, stream))
        return
    stages = read_stages(program)
    if diff is not None:
        display.difference(difference(*(find_stage(stages, name) for name in diff)))
    elif energy and stage is not None:
        from e2compile import display_energy
        from e2compile.call_bill import priced_calls

        found = find_stage(stages, stage)
        display_energy.stage(found.name, priced_calls(program, found, prices, run))
    elif stage is not None:
        display.graph(find_stage(stages, stage).text)
    else:
        display.stages(stages)


def _listing(program: Path, name: str) -> str:
    from e2compile.runtime import manifest
    from e2compile.runtime.summary import compile_report
    from e2compile.targets import find

    target = manifest.read(program).target
    accelerated = find(target).accelerated(program)
    if accelerated is None:
        raise UsageError(f"a program for target {target} has no streams")
    return accelerated.listing(name, compile_report(program)["lines"])


def export(
    program: Path,
    /,
    *,
    format: Literal["safetensors", "onnx", "dot", "json", "vta"] = "safetensors",
    output: Output = None,
    stage: str | None = None,
    which: Which = NEWEST,
    data: str | None = None,
    base: Address = None,
) -> None:
    """Write the weights for PyTorch: model.load_state_dict(safetensors.torch.load_file(FILE)).

    With --format onnx it is the network for inference, with its weights; with --stage too it is that graph
    of the training step, which dot (for Graphviz) and json write as well. With --format vta it is a folder: a
    training step as memory image, instructions and expected results, for any other VTA to run.

    Args:
        program: A Program folder.
        format: The file's format.
        output: The file or folder; by default the program's name, the stage's and the format.
        stage: With onnx, dot or json: a stage that inspect lists; by default the last with dot and json.
        data: With vta: what the step's batch is taken from, as for train.
        base: With vta: the image's address, 0x1000 by default.
    """
    from e2compile.runtime.export import save_weights

    if format != "vta" and (data, base) != (None, None):
        raise UsageError("--data and --base go with --format vta")
    if format in ("safetensors", "vta") and stage is not None:
        raise UsageError("--stage goes with --format onnx, dot or json")
    if format in ("dot", "json") or stage is not None:
        if which != NEWEST:
            raise UsageError("a stage has no weights: leave out --run, --best, --averaged and --initial")
        _export_stage(program, stage, format, output)
        return
    loaded = load(program)
    state = which.put_into(loaded)
    path = output or Path(f"{program.resolve().name}.{format}")
    if format == "vta":
        _export_step(loaded, data, path, state, base)
    elif format == "onnx":
        from e2compile.exchange.write import write_network

        size = write_network(loaded, path)
        display.say(f"the network with {state}, {display.size(size)}, written to {path}")
    else:
        display.say(f"{save_weights(loaded, path)} tensors of {state} written to {path}")


def _export_stage(program: Path, name: str | None, format: str, output: Path | None) -> None:
    from e2compile.exchange.write import write_stage
    from e2compile.runtime.stages import find_stage, read_stages

    stages = read_stages(program)
    chosen = stages[-1] if name is None else find_stage(stages, name)
    path = output or Path(f"{program.resolve().name}-{chosen.name}.{format}")
    display.say(f"stage {chosen.name}, {display.size(write_stage(chosen, path, format))}, written to {path}")


def _export_step(program: "Program", data: str | None, folder: Path, state: str, base: int | None) -> None:
    from e2compile.runtime.fit import Options, Run
    from e2compile.targets.vta.report.export import BASE, export

    batch = Run(program, data, Options()).loader.batch(0)
    written = export(program, batch, folder, BASE if base is None else base)
    text = f"{written.runs:,} runs of a step from {state}, in an image of {display.size(written.size)}"
    display.say(f"{text}, written to {folder}")


def report(
    program: Path,
    /,
    *,
    time: Flag = False,
    html: Flag = False,
    output: Output = None,
    prices: str | None = None,
    log: Path | None = None,
    results: Json = None,
) -> None:
    """What a program costs, as far as compiling tells: for the FPGA, each layer by a cycle model.

    With --html it is a page for a browser, one file that needs nothing else: graphs and what passes changed
    in them, joules, memory, the array, finished runs. Needs no torch.

    Args:
        program: A Program folder.
        time: Run some steps here, too, and show what each layer takes the host.
        html: Write the page.
        output: The page; by default report/index.html in the program.
        prices: With --html: a price table, as for energy.
        log: With --html: a measurement log, as measure writes it, to set beside what the prices predict.
        results: Write the figures to this JSON file.
    """
    from e2compile import tables
    from e2compile.report.page import PAGE, write_report
    from e2compile.runtime import manifest
    from e2compile.runtime.export import check_writable, write_json
    from e2compile.runtime.summary import compile_report
    from e2compile.targets import find

    if html and (time or results is not None):
        raise UsageError("--html goes without --time and --json")
    if not html and (output, prices, log) != (None, None, None):
        raise UsageError("--output, --prices and --log go with --html")
    if html:
        path = output or program / PAGE
        size = write_report(program, path, prices, log)
        display.say(f"{display.size(size)} written to {path}: open it in a browser")
        return
    check_writable(results)
    target = manifest.read(program).target
    accelerated = find(target).accelerated(program)
    content = {"compile": compile_report(program)}
    if accelerated is None:
        tables.compiled(content["compile"])
    else:
        tables.accelerated(accelerated.shown(content["compile"]["lines"]))
        content |= {target: accelerated.figures}
    if time:
        from e2compile.runtime.timing import measure

        measured = measure(load(program), content["compile"]["sequence"]["step"])
        tables.host(measured)
        content |= {"host": asdict(measured)}
    if results is not None:
        write_json(results, content)
