"""What compiling tells of a Program: the verb `report`, and a line of it when compiling."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from e2compile import load
from e2compile.arguments import Flag, Json

if TYPE_CHECKING:
    from e2compile.runtime.program import Program


def report(program: Path, /, *, time: Flag = False, results: Json = None) -> None:
    """What a program costs, as far as compiling tells: for the FPGA, each layer by a cycle model.

    Args:
        program: A Program folder.
        time: Run some steps here, too, and show what each layer takes the host.
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
