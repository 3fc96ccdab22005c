"""From a module of scheduled kernels to machine code, through TVM and LLVM."""

from collections.abc import Callable

import tvm
from tvm import IRModule, relax, transform
from tvm.target import codegen
from tvm.tirx import PrimFunc

from e2compile.targets.llvm.machine import Machine, host


def executable(module: IRModule, machine: Machine | None = None) -> relax.VMExecutable:
    """`module` compiled in memory, by default for this machine."""
    with _context():
        return tvm.compile(module, target=tvm_target(machine), relax_pipeline=relax_pipeline())


def function(kernel: PrimFunc, machine: Machine | None = None) -> Callable[..., None]:
    """A single kernel, compiled in memory like those of `executable`."""
    with _context():
        module = tvm.compile(kernel.with_attr("global_symbol", "main"), target=tvm_target(machine))
    compiled: Callable[..., None] = module["main"]
    return compiled


def _context() -> transform.PassContext:
    # CSE would bind vectors of booleans, which TVM's bound analysis cannot take; LLVM has its own
    return transform.PassContext(opt_level=3, config={"tirx.disable_cse_tir": True})


def tvm_target(machine: Machine | None = None) -> tvm.target.Target:
    """The TVM target that uses all of a CPU's instructions, by default of this one's."""
    machine = machine or host()
    if machine.triple:
        place = {"mtriple": machine.triple, "mcpu": machine.name}
    else:
        place = {"mcpu": str(codegen.llvm_get_system_cpu())}
    # LLVM knows few CPUs by what they are; it takes others for the nearest that it knows, which has no tiles.
    with_tiles = machine.tiles and not machine.is_emulated
    more = {"mattr": ["+amx-tile", "+amx-int8", "+avx512bf16"]} if with_tiles else {}
    return tvm.target.Target({"kind": "llvm", "num-cores": machine.threads} | place | more)


def relax_pipeline() -> transform.Pass:
    """Relax's build without fusion, legalisation and memory plan: calls and memory are there already."""
    return transform.Sequential(
        [
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )
