"""The Program folder: whole or not at all, checked when loaded, built once and then taken from the cache."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

import e2compile
from e2compile import compiler
from e2compile.errors import MissingError, UsageError
from e2compile.passes import BatchDrop
from e2compile.pipeline import TrainingGraph, capture
from e2compile.runtime.program import Program
from tests.small import BATCH, LOSS, Net, contents, small, tiny
from tests.steps import images


@pytest.fixture(scope="module")
def graph() -> TrainingGraph:
    return small()


@pytest.fixture(scope="module")
def program(graph: TrainingGraph, tmp_path_factory: pytest.TempPathFactory) -> Program:
    return e2compile.compile(graph, output=tmp_path_factory.mktemp("program") / "out", seed=3)


def test_a_failed_compile_leaves_the_old_program_and_its_runs(
    graph: TrainingGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    e2compile.compile(graph, output=out)
    (out / "runs" / "default").mkdir(parents=True)
    (out / "runs" / "default" / "results.json").write_text("{}")
    before = contents(out)

    def fails(*_: Any) -> None:
        raise RuntimeError("no space")

    monkeypatch.setattr(compiler.artefact, "seal", fails)
    with pytest.raises(RuntimeError, match="no space"):
        e2compile.compile(graph, output=out)
    assert contents(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_runs_survive_a_recompilation(graph: TrainingGraph, tmp_path: Path) -> None:
    out = tmp_path / "out"
    e2compile.compile(graph, output=out)
    (out / "runs" / "mine").mkdir(parents=True)
    (out / "runs" / "mine" / "note").write_text("kept")
    e2compile.compile(graph, output=out, seed=5)
    assert (out / "runs" / "mine" / "note").read_text() == "kept"
    assert e2compile.load(out).seed == 5


def test_a_folder_that_is_no_program_is_not_replaced(graph: TrainingGraph, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not a Program"):
        e2compile.compile(graph, output=tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_output_that_cannot_be_written_is_refused(graph: TrainingGraph, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        e2compile.compile(graph, output=tmp_path / "file" / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(graph: TrainingGraph, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot write"):
        e2compile.compile(graph, output=tmp_path / "out")


def test_the_cache_gives_the_same_program(graph: TrainingGraph, program: Program, tmp_path: Path) -> None:
    seen: list[str] = []
    again = e2compile.compile(
        graph, output=tmp_path / "out", seed=3, watch=lambda phase, _: seen.append(phase)
    )
    assert seen == ["from the cache"]
    own, other = contents(program.folder), contents(again.folder)
    assert own.keys() == other.keys()
    assert [name for name in own if own[name] != other[name] and name != "manifest.json"] == []
    assert again.manifest.fingerprint == program.manifest.fingerprint


def test_the_cache_holds_no_weights(tmp_path: Path) -> None:
    """The same graph with other weights is a cache hit, and starts from its own weights."""
    seen: list[str] = []
    graph = small(seed=1)
    program = e2compile.compile(graph, output=tmp_path / "out", watch=lambda phase, _: seen.append(phase))
    weight = graph.task.model.get_parameter("head.weight").detach().numpy()
    assert seen == ["from the cache"]
    assert program.state_dict()["head.weight"].tobytes() == weight.tobytes()


def test_a_damaged_cache_entry_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2COMPILE_CACHE", str(tmp_path / "cache"))
    graph = tiny()
    e2compile.compile(graph, output=tmp_path / "out", verify=False)
    (library,) = (tmp_path / "cache").glob("*/program/program.so")
    library.write_bytes(library.read_bytes()[:1000])
    program = e2compile.compile(graph, output=tmp_path / "out", verify=False)
    assert math.isfinite(program.step(BATCH).loss or math.nan)


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("E2COMPILE_CACHE", str(tmp_path / "file" / "cache"))
    e2compile.compile(tiny(), output=tmp_path / "out", verify=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out"]


def fingerprint(graph: TrainingGraph) -> str:
    return compiler._fingerprint(graph, compiler.find("cpu"), True)


def test_the_fingerprint_is_of_all_that_the_code_depends_on(
    graph: TrainingGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.Adam
    others = [
        small(make=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, weight_decay=1e-3)),
        small(make=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=2e-3)),
        small(make=lambda p: optimizer(p)),
        capture(Net(5), BATCH, LOSS, None),
        capture(Net(), BATCH, nn.CrossEntropyLoss(), None),
        capture(Net(), images((4, 1, 6, 6), classes=3), LOSS, None),
        graph.apply(BatchDrop(p=0.5)),
        graph.apply(BatchDrop(p=0.25)),
    ]
    prints = [fingerprint(g) for g in (graph, *others)]
    assert len(set(prints)) == len(prints)
    assert fingerprint(small(seed=4)) == prints[0]
    assert (
        fingerprint(small(make=lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, weight_decay=1e-3)))
        == prints[0]
    )
    assert compiler._fingerprint(graph, compiler.find("cpu"), True, 10**6) != prints[0]
    monkeypatch.setattr(compiler, "source_digest", lambda: "another compiler")
    assert fingerprint(graph) != prints[0]


def test_an_unknown_target_is_missing(graph: TrainingGraph, tmp_path: Path) -> None:
    with pytest.raises((UsageError, MissingError), match="abacus"):
        e2compile.compile(graph, target="abacus", output=tmp_path / "out")


def test_a_missing_linker_is_said_before_anything_is_built(
    graph: TrainingGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="a C compiler"):
        e2compile.compile(graph, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["program/program.so", "state/initial.safetensors", "state/rates.safetensors"]
)
def test_a_damaged_file_is_found_on_loading(program: Program, tmp_path: Path, name: str) -> None:
    folder = copied(program, tmp_path)
    damaged = bytearray((folder / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (folder / name).write_bytes(damaged)
    with pytest.raises(UsageError, match="is corrupted"):
        e2compile.load(folder)


def test_a_changed_manifest_is_found_on_loading(program: Program, tmp_path: Path) -> None:
    folder = copied(program, tmp_path)
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(UsageError, match="is corrupted"):
        e2compile.load(folder)
    path.write_text("{")
    with pytest.raises(UsageError, match="is corrupted"):
        e2compile.load(folder)
    path.unlink()
    with pytest.raises(UsageError, match="is not a Program"):
        e2compile.load(folder)


def copied(program: Program, tmp_path: Path) -> Path:
    return Path(shutil.copytree(program.folder, tmp_path / "copy"))


def test_a_program_folder_says_what_it_holds(program: Program) -> None:
    names = contents(program.folder)
    assert {
        "manifest.json",
        "program/program.so",
        "graphs/00_captured.txt",
        "graphs/01_differentiated.json",
    } <= set(names)
    manifest = json.loads(names["manifest.json"])
    assert set(manifest["checksums"]) == {
        n for n in names if n != "manifest.json" and not n.startswith("runs/")
    }
    assert set(load_file(program.folder / "state" / "initial.safetensors")) == set(program.arrays())
