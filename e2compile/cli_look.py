"""The verbs of the command line that show what a Program is: its graphs, and what it costs."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from e2compile import display, load
from e2compile.arguments import Flag, Json, Output
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
    from e2compile.targets.vta.program import table
    from e2compile.targets.vta.report.listing import listing

    made = manifest.read(program)
    if made.target != "fpga":
        raise UsageError(f"a program for target {made.target} has no streams: only fpga's has")
    manifest.check(made, program, [table.TABLE, table.STREAMS])
    return listing(table.read(program), name, compile_report(program)["lines"])


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
    made = manifest.read(program)
    content = {"compile": compile_report(program)}
    if made.target == "fpga":
        from e2compile.targets.vta.report import layers as fpga

        manifest.check(made, program, [fpga.REPORT])
        found = fpga.read(program)
        tables.fpga(found, content["compile"]["lines"])
        content |= {"fpga": asdict(found)}
    else:
        tables.compiled(content["compile"])
    if time:
        from e2compile.runtime.timing import measure

        measured = measure(load(program), content["compile"]["sequence"]["step"])
        tables.host(measured)
        content |= {"host": asdict(measured)}
    if results is not None:
        write_json(results, content)


def left_on_host(program: "Program") -> str | None:
    """What of a step an accelerator leaves to its host, in one line; None if nothing."""
    if program.manifest.target != "fpga":
        return None
    from e2compile import tables
    from e2compile.targets.vta.report import layers

    return tables.left_on_host(layers.read(program.folder))
