"""Programs with gates: verified, trained, resumed and exported, and taken from the cache with their gates."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import e2compile
from e2compile import pipeline
from e2compile.passes import BatchDrop, LayerGate
from e2compile.pipeline import TrainingGraph, capture_task
from e2compile.runtime.export import choose_state, save_weights
from e2compile.runtime.program import Program
from e2compile.task import load_task
from tests.small import small


def captured(model_file: Path) -> TrainingGraph:
    return capture_task(load_task(str(model_file))).apply(BatchDrop(p=0.3), LayerGate(first=True))


@pytest.fixture(scope="module")
def folder(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gated") / "digits"
    return e2compile.compile(captured(model_file), output=folder).folder


@pytest.fixture
def program(folder: Path, tmp_path: Path) -> Program:
    return e2compile.load(shutil.copytree(folder, tmp_path / "digits"))


def test_the_gated_program_is_verified(folder: Path) -> None:
    report = json.loads((folder / "verify" / "verify.json").read_text())
    assert report["passed"] is True
    checks = {key.partition(",")[0].partition(", at a kink")[0] for key in report["worst"]}
    assert {"captured graph = eager", "evaluation", "dropped step"} <= checks


def test_a_step_counts_the_samples_of_each_block(program: Program) -> None:
    program.position = next(s for s in range(99) if program.keep(s))
    shapes = [(t.shape, t.dtype) for t in program.manifest.batch]
    counters = program.step([np.ones(*shape) for shape in shapes]).counters
    assert set(counters) == {"slu.0.executed", "slu.1.executed"}
    assert all(0 <= int(count) <= program.batch_size for count in counters.values())


def test_exported_weights_load_into_the_users_model(
    program: Program, model_file: Path, tmp_path: Path
) -> None:
    assert any(name.startswith("slu.") for name in program.arrays())
    save_weights(program, tmp_path / "weights.safetensors")
    model = load_task(str(model_file)).model
    model.load_state_dict(load_file(tmp_path / "weights.safetensors"))


def test_a_resumed_run_ends_with_the_same_bits(program: Program, folder: Path, tmp_path: Path) -> None:
    program.fit(steps=8)
    parts = e2compile.load(shutil.copytree(folder, tmp_path / "parts"))
    parts.fit(steps=5)
    parts = e2compile.load(parts.folder)
    parts.fit(steps=8, resume=True)
    found, expected = ({n: a.tobytes() for n, a in p.arrays().items()} for p in (parts, program))
    assert found == expected


def test_the_best_state_holds_the_gates_that_were_trained_with_it(program: Program) -> None:
    start = program.arrays()["slu.head.bias"]
    program.fit(steps=program.steps_per_epoch * 4)
    again = e2compile.load(program.folder)
    choose_state(again, which="best")
    assert not np.array_equal(again.arrays()["slu.head.bias"], start)


def test_a_program_from_the_cache_has_its_gates_and_differentiates_nothing(
    folder: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise AssertionError("differentiated")

    monkeypatch.setattr(pipeline, "differentiate", fails)
    torch.manual_seed(5)
    again = e2compile.compile(captured(model_file), output=tmp_path / "again")
    first = e2compile.load(folder)
    assert again.manifest.fingerprint == first.manifest.fingerprint
    assert again.manifest.hidden == first.manifest.hidden
    for name, array in first.arrays().items():
        if "slu." in name:
            assert np.array_equal(again.arrays()[name], array), name


def test_other_options_are_another_program(tmp_path: Path) -> None:
    """Even in the folder of the one before, in the same process."""
    out = tmp_path / "out"
    first = e2compile.compile(small().apply(BatchDrop(p=0.1)), output=out, verify=False)
    second = e2compile.compile(small().apply(BatchDrop(p=0.9)), output=out, verify=False)
    kept = [[p.keep(step) for step in range(50)] for p in (first, second)]
    assert sum(kept[0]) > 35
    assert sum(kept[1]) < 15
