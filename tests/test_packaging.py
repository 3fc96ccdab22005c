"""The wheel: what it holds is what is there, and the command line runs from it, with and without torch."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import torch

from tests.sources import PLACES, ROOT

OUTER = Path(torch.__file__).parent.parent
# What of the surrounding environment a device has not: torch, its parts, and this project itself.
ABSENT = ("torch", "functorch", "nvidia", "triton", "e2compile", "__editable__", "_distutils", "distutils")


MODEL = """
import torch
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
batch = (torch.randn(32, 1, 8, 8), torch.zeros(32).long())
data = "digits"
"""


def project() -> dict[str, object]:
    content: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return content


def setuptools_table() -> dict[str, object]:
    return project()["tool"]["setuptools"]  # type: ignore[index, no-any-return]


def test_every_package_on_disk_is_declared() -> None:
    found = set()
    for package, folder in PLACES.items():
        for init in folder.rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(folder).parts]))
    assert found == set(setuptools_table()["packages"])  # type: ignore[call-overload]


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for folder in PLACES.values() for path in folder.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_every_data_file_is_declared() -> None:
    declared = set()
    for package, patterns in setuptools_table()["package-data"].items():  # type: ignore[attr-defined]
        base = next(name for name in sorted(PLACES, key=len, reverse=True) if package.startswith(name))
        folder = PLACES[base].joinpath(*package.removeprefix(base).strip(".").split("."))
        declared |= {path for pattern in patterns for path in folder.glob(pattern)}
    files = {
        p
        for folder in PLACES.values()
        for p in folder.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert {path for path in files if path.suffix != ".py"} == declared


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel by way of an sdist, built from a copy, as building leaves files behind."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("e2compile", "passes", "targets"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    (path,) = (folder / "dist").glob("*.whl")
    return path


def test_the_wheel_holds_every_source_file_and_no_other(wheel: Path) -> None:
    expected = set()
    for package, folder in PLACES.items():
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add("/".join([*package.split("."), *path.relative_to(folder).parts]))
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and all it depends on but torch; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(
        subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )
    for path in OUTER.iterdir():
        if not path.name.lower().startswith(ABSENT) and path.suffix != ".pth":
            (site / path.name).symlink_to(path)
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return python


def run(python: Path, *arguments: str, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    found = subprocess.run(
        [python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_the_environment_has_the_wheel_and_no_torch(device: Path, tmp_path: Path) -> None:
    code = "import e2compile, importlib.util as u; print(e2compile.__file__, u.find_spec('torch'))"
    file, spec = run(device, "-c", code, cwd=tmp_path).split()
    assert Path(file).is_relative_to(device.parent.parent)
    assert spec == "None"


def test_a_program_trains_and_is_evaluated_without_torch(
    device: Path, program_copy: Path, tmp_path: Path
) -> None:
    out = str(program_copy)
    run(device, "-m", "e2compile", "train", out, "--steps", "30", "--json", "train.json", cwd=tmp_path)
    run(device, "-m", "e2compile", "evaluate", out, "--json", "evaluate.json", cwd=tmp_path)
    results = json.loads((tmp_path / "train.json").read_text())
    assert results["steps_scheduled"] == 30
    assert json.loads((tmp_path / "evaluate.json").read_text())["accuracy"] == results["accuracy"]


def test_energy_is_priced_and_calibrated_without_torch(
    device: Path, program_folder: Path, tmp_path: Path
) -> None:
    assert "joules" in run(device, "-m", "e2compile", "energy", str(program_folder), cwd=tmp_path)
    log = PLACES["e2compile"] / "energy" / "logs" / "zcu102_dpu.csv"
    options = ("--target", "fpga", "--inherits", "zynq")
    assert "written" in run(device, "-m", "e2compile", "calibrate", "--log", str(log), *options, cwd=tmp_path)


def test_a_report_is_written_and_graphs_are_exported_without_torch(
    device: Path, program_folder: Path, tmp_path: Path
) -> None:
    out = str(program_folder)
    run(device, "-m", "e2compile", "report", out, "--html", "-o", "report.html", cwd=tmp_path)
    assert "<script" in (tmp_path / "report.html").read_text()
    for name in ("onnx", "dot", "json"):
        options = ("--format", name, "--stage", "smd", "-o", f"stage.{name}")
        assert "written" in run(device, "-m", "e2compile", "export", out, *options, cwd=tmp_path)


def test_targets_are_listed_without_torch(device: Path, tmp_path: Path) -> None:
    assert "cpu" in run(device, "-m", "e2compile", "targets", cwd=tmp_path)


def test_what_needs_torch_says_so(device: Path, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    command = [device, "-m", "e2compile", "model.py"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (4, "")
    assert "torch is not installed" in found.stderr


def test_the_wheels_command_line_compiles(device: Path, tmp_path: Path) -> None:
    """With torch from the surrounding environment, and the package itself still from the wheel."""
    (tmp_path / "model.py").write_text(MODEL)
    (site,) = (device.parent.parent / "lib").glob("*/site-packages")
    link = site / "zz_outer.pth"
    link.write_text(f"{OUTER}\n")
    try:
        code = "import e2compile, torch; print(e2compile.__file__)"
        assert Path(run(device, "-c", code, cwd=tmp_path).strip()).is_relative_to(site)
        command = device.parent / "e2compile"
        run(device, str(command), "model.py", "--passes", "smd", "--no-verify", "-o", "out", cwd=tmp_path)
    finally:
        link.unlink()
    run(device, "-m", "e2compile", "train", "out", "--steps", "5", cwd=tmp_path)
