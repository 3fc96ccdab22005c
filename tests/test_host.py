"""Programs for other machines: what their code is made of, what is verified of them, and who refuses them."""

import ctypes
import json
import platform
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import e2compile
from e2compile.compiler import _fingerprint
from e2compile.errors import MissingError
from e2compile.pipeline import capture_task
from e2compile.runtime import host as hosts
from e2compile.runtime.program import LIBRARY, Program
from e2compile.targets import find
from e2compile.task import load_task
from tests.commands import run

AARCH64 = "aarch64-linux-gnu"
# Neither has more than SSE2, so any x86-64 runs the first.
OLDEST = "x86_64-linux-gnu:x86-64"
LACKING = find("cpu", AARCH64).missing()

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="aarch64 has to be another machine")
cross = pytest.mark.skipif(LACKING is not None, reason=f"needs {LACKING}")


@pytest.fixture(scope="module", params=["cpu", "fpga"])
def built(
    request: pytest.FixtureRequest, model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Program:
    """The quarter of the digits' network for a Cortex-A76; weights of the CPU's are quantised, too."""
    target, host = request.param, f"{AARCH64}:cortex-a76"
    folder = tmp_path_factory.mktemp("host") / target
    options = ["--passes", "psg" if target == "cpu" else "none"]
    assert run(model_file, "--target", target, "--host", host, *options, "-o", folder) == 0
    return e2compile.load(folder)


def mnemonics(library: Path) -> Counter[str]:
    """How often the code has each instruction, by name, with what it works on where vectors are."""
    command = [f"{AARCH64}-objdump", "-d", "--no-show-raw-insn", str(library)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Counter(re.findall(r"^ +[0-9a-f]+:\t(\w+)\tv[0-9]+\.", text, re.MULTILINE))


@cross
def test_the_code_is_the_other_machines(built: Program) -> None:
    library = built.folder / LIBRARY
    header = subprocess.run(
        [f"{AARCH64}-readelf", "-h", str(library)], capture_output=True, text=True, check=True
    ).stdout
    assert "AArch64" in header
    found = mnemonics(library)
    assert found["fmla"] > 0
    assert bool(found["sdot"]) is (built.manifest.target == "cpu")  # the array does the other's products


@cross
def test_a_cpu_without_the_dot_product_gets_none(model_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    host = f"{AARCH64}:cortex-a53"
    options = ["--passes", "psg", "--no-verify", "-o", folder]
    assert run(model_file, "--host", host, *options) == 0
    found = mnemonics(folder / LIBRARY)
    assert found["fmla"] > 0
    assert not found["sdot"]


@cross
def test_it_says_what_was_verified(built: Program) -> None:
    found = json.loads((built.folder / "verify" / "verify.json").read_text())
    assert found["passed"] is True
    assert found["tensors"] > 10
    expected = "its kernels compiled for x86_64; the library for aarch64 (cortex-a76) was not run"
    assert found["ran"] == expected


@cross
def test_what_a_user_is_told(model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model_file, "--host", AARCH64, "--passes", "none", "-o", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "passed, by its kernels compiled for x86_64; the library for aarch64 (generic) was not" in shown
    assert f"e2compile train {tmp_path / 'out'}, on aarch64 (generic)" in shown


@cross
def test_this_machine_does_not_train_it(built: Program, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("train",), ("evaluate",), ("report", "--time")):
        assert run(*arguments, built.folder) == MissingError.exit_code
        error = capsys.readouterr().err
        assert "was compiled for aarch64 (cortex-a76), and this machine is x86_64: run it there" in error
    with pytest.raises(MissingError, match="this machine is x86_64"):
        built.step([np.zeros(t.shape, t.dtype) for t in built.manifest.batch])
    assert not (built.folder / "runs").exists()


@cross
def test_what_needs_no_code_works_anywhere(built: Program, tmp_path: Path) -> None:
    assert run("export", built.folder, "-o", tmp_path / "weights.safetensors") == 0
    assert run("report", built.folder) == 0
    assert run("energy", built.folder) == 0
    assert run("inspect", built.folder) == 0


def test_a_cpu_that_lacks_what_the_code_needs_is_refused(
    program_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from e2compile.runtime import manifest as manifests

    folder = shutil.copytree(program_folder, tmp_path / "digits")
    made = manifests.read(folder)
    object.__setattr__(made, "host", e2compile.runtime.host.Host("x86_64", "a new CPU", ("avx2048",)))
    manifests.write(made, folder)
    assert run("train", folder) == MissingError.exit_code
    assert "for x86_64 (a new CPU), and this machine's CPU has no avx2048" in capsys.readouterr().err


@pytest.mark.parametrize("refused", [False, True])
def test_tiles_are_there_where_linux_gives_them(refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Linux:
        def syscall(self, *_: int) -> int:
            return -refused

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Linux())
    monkeypatch.setattr(hosts, "cpuinfo", lambda: {"flags": "sse2 amx_tile amx_int8 avx512_bf16"})
    assert (hosts.available.__wrapped__() >= hosts.TILES) is not refused
    assert "sse2" in hosts.available.__wrapped__()


def test_a_program_for_an_older_cpu_runs_here(model_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert run(model_file, "--host", OLDEST, "--passes", "psg", "-o", folder) == 0
    found = json.loads((folder / "verify" / "verify.json").read_text())
    assert (found["passed"], found["ran"]) == (True, "this program")
    assert e2compile.load(folder).manifest.host.features == ()


def test_the_host_is_part_of_the_fingerprint(model_file: Path) -> None:
    graph = capture_task(load_task(str(model_file)))
    hosts = [None, AARCH64, f"{AARCH64}:cortex-a53", f"{AARCH64}:cortex-a76", OLDEST]
    for target in ("cpu", "fpga"):
        prints = {_fingerprint(graph, find(target, host), True) for host in hosts}
        assert len(prints) == len(hosts)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--host", "arm-linux-gnueabihf"], 2, "no host 'arm-linux-gnueabihf'"),
        (["--host", f"{AARCH64}:6502"], 2, "no CPU '6502' of aarch64-linux-gnu"),
        (["--host", AARCH64, "--train", "1"], 2, "this machine is x86_64. Train where the program runs"),
    ],
)
def test_bad_hosts(
    arguments: list[str], code: int, message: str, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model_file, *arguments) == code
    assert message in capsys.readouterr().err


def test_a_missing_cross_compiler_is_named(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for target in ("cpu", "fpga"):
        assert run(model_file, "--target", target, "--host", AARCH64, "-o", tmp_path / "out") == 4
        assert "apt-get install gcc-aarch64-linux-gnu" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert run("targets") == 0
    assert "--host aarch64-linux-gnu  needs aarch64-linux-gnu-gcc" in capsys.readouterr().out
