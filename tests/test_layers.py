"""Imports go downward only; the runtime needs no torch; no pass knows another."""

import subprocess
import sys

import pytest

from e2compile.passes import ALL
from tests.sources import PLACES, imports, modules

FLOORS = {
    "e2compile.__main__": 8,
    "e2compile.cli": 7,
    "e2compile.arguments": 7,
    "e2compile.cli_energy": 7,
    "e2compile.cli_views": 7,
    "e2compile.display": 7,
    "e2compile.display_energy": 7,
    "e2compile.tables": 7,
    "e2compile.artefact": 6,
    "e2compile.bill": 6,
    "e2compile.budget": 6,
    "e2compile.cache": 6,
    "e2compile.call_bill": 6,
    "e2compile.compare": 6,
    "e2compile.compiler": 6,
    "e2compile.counting": 6,
    "e2compile.doctor": 6,
    "e2compile.estimate": 6,
    "e2compile.measure": 6,
    "e2compile.options": 6,
    "e2compile.presets": 6,
    "e2compile.report": 6,
    "e2compile.schedule": 6,
    "e2compile.verification": 6,
    "e2compile.targets": 5,
    "e2compile.passes": 4,
    "e2compile.energy": 3,
    "e2compile.exchange": 3,
    "e2compile.decompose": 2,
    "e2compile.differentiate": 2,
    "e2compile.forward": 2,
    "e2compile.gates": 2,
    "e2compile.guards": 2,
    "e2compile.integers": 2,
    "e2compile.lower": 2,
    "e2compile.optimizer": 2,
    "e2compile.pipeline": 2,
    "e2compile.runtime": 2,
    "e2compile.graph": 1,
    "e2compile.graph_data": 1,
    "e2compile.ops": 1,
    "e2compile.task": 1,
    "e2compile.collector": 0,
    "e2compile.errors": 0,
}

# The subpackages of the FPGA target: each builds on those before it alone.
VTA = ("isa", "analysis", "schedule", "program", "host", "device", "simulator", "report")

MODULES = modules()
HOST = "llvm"


def place(name: str) -> str | None:
    """The entry of the floors table that a module, or something in it, belongs to."""
    parts = name.split(".")
    prefixes = (".".join(parts[:i]) for i in range(len(parts), 1, -1))
    return next((prefix for prefix in prefixes if prefix in FLOORS), None)


def test_every_module_has_a_floor() -> None:
    assert [name for name in MODULES if name != "e2compile" and place(name) is None] == []


@pytest.mark.parametrize("name", [name for name in MODULES if name != "e2compile"])
def test_imports_go_downward(name: str) -> None:
    own = place(name)
    assert own is not None
    targets = {target: place(target) for target in imports(MODULES[name]) if target.startswith("e2compile.")}
    upward = [t for t, other in targets.items() if other not in (None, own) and FLOORS[other] > FLOORS[own]]
    assert upward == []


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("e2compile.runtime")])
def test_the_runtime_imports_no_torch_and_only_itself(name: str) -> None:
    found = list(imports(MODULES[name]))
    assert [target for target in found if target.split(".")[0] == "torch"] == []
    own = [target for target in found if target.startswith("e2compile.")]
    assert [t for t in own if place(t) not in ("e2compile.runtime", "e2compile.errors", None)] == []


def test_no_pass_imports_a_pass() -> None:
    passes = [name for name in MODULES if name.startswith("e2compile.passes.")]
    for name in passes:
        assert [t for t in imports(MODULES[name]) if t.startswith("e2compile.passes")] == [], name


def test_every_pass_file_is_in_the_order() -> None:
    files = {path.stem for path in PLACES["e2compile.passes"].glob("*.py")} - {"__init__"}
    assert {item.__module__.rpartition(".")[2] for item in ALL} == files


def test_targets_do_not_know_each_other() -> None:
    """A target builds on what all share, and on the CPU's where that is its host, on no other target."""
    for name, path in MODULES.items():
        own = name.split(".")[:3]
        if name.startswith("e2compile.targets.") and len(own) == 3 and own[2] != "base":
            others = [
                t
                for t in imports(path)
                if t.startswith("e2compile.targets.") and t.split(".")[2] not in (own[2], "base", HOST)
            ]
            assert others == [], name


def vta_floor(name: str) -> int:
    """Of a module of the FPGA target's, or of something in it; what lies in no subpackage is above all."""
    part = name.removeprefix("e2compile.targets.vta.").split(".")[0]
    return VTA.index(part) if part in VTA else len(VTA)


@pytest.mark.parametrize("part", VTA)
def test_subpackages_of_the_fpga_target_build_on_earlier_ones(part: str) -> None:
    own = [name for name in MODULES if name.startswith(f"e2compile.targets.vta.{part}.")]
    assert own != []
    for name in own:
        used = [t for t in imports(MODULES[name]) if t.startswith("e2compile.targets.vta.")]
        assert [t for t in used if vta_floor(t) > VTA.index(part)] == [], name


def test_every_subpackage_of_the_fpga_target_has_a_floor() -> None:
    folder = PLACES["e2compile.targets"] / "vta"
    assert {path.parent.name for path in folder.glob("*/__init__.py")} == set(VTA)


def test_importing_the_package_loads_neither_torch_nor_tvm() -> None:
    code = "import sys, e2compile; assert not {'torch', 'tvm', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_targets_are_named_without_torch_and_tvm() -> None:
    code = "import sys, e2compile.targets; assert not {'torch', 'tvm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_loading_a_program_module_loads_no_torch() -> None:
    code = (
        "import sys, e2compile.runtime.program, e2compile.runtime.fit, e2compile.cli\n"
        "from e2compile.runtime.engine import import_tvm\n"
        "import_tvm()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
