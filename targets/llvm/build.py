"""From a module of scheduled kernels to machine code, through TVM and LLVM."""

import tvm
from tvm import IRModule, relax, transform
from tvm.target import codegen

from e2compile.runtime.engine import cores


def executable(module: IRModule) -> relax.VMExecutable:
    """`module` compiled in memory."""
    # CSE would bind vectors of booleans, which TVM's bound analysis cannot take; LLVM has its own
    with transform.PassContext(opt_level=3, config={"tirx.disable_cse_tir": True}):
        return tvm.compile(module, target=tvm_target(), relax_pipeline=relax_pipeline())


def tvm_target() -> tvm.target.Target:
    """The TVM target that uses all of this CPU's instructions."""
    return tvm.target.Target(
        {"kind": "llvm", "mcpu": str(codegen.llvm_get_system_cpu()), "num-cores": cores()}
    )


def relax_pipeline() -> transform.Pass:
    """Relax's build without fusion or legalisation: every call is a scheduled kernel already."""
    return transform.Sequential(
        [
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )
