"""The trained network as ONNX, and what `export` says of graphs on the command line."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

import e2compile
from e2compile.passes import LayerGate
from e2compile.pipeline import capture
from e2compile.runtime.export import Saved, choose_state
from e2compile.runtime.fit import Options, Run
from tests import models
from tests.commands import run
from tests.steps import images, sgd

SHAPE = (4, 3, 16, 16)


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Program with gated blocks after two steps: gates open for some samples."""
    torch.manual_seed(0)
    model = models.functional_net(4)
    graph = capture(model, images(SHAPE), optimizer=sgd(model.parameters())).apply(LayerGate(first=True))
    return e2compile.compile(graph, output=tmp_path_factory.mktemp("gated") / "net", verify=False).folder


def network(path: Path, x: NDArray[Any]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(str(path))
    (name,) = (value.name for value in session.get_inputs())
    (found,) = session.run(None, {name: x})
    return np.asarray(found)


def test_the_network_answers_as_the_program_does(program_copy: Path, tmp_path: Path) -> None:
    """With the newest, the best and the initial state, each another."""
    assert run("train", program_copy, "--steps", "40") == 0
    program = e2compile.load(program_copy)
    batch = Run(program, None, Options()).loader.batch(0)
    answers = []
    which: tuple[Saved, ...] = ("newest", "best", "initial")
    for name in which:
        flags = () if name == "newest" else (f"--{name}",)
        path = tmp_path / "net.onnx"
        assert run("export", program_copy, "--format", "onnx", *flags, "-o", path) == 0
        loaded = e2compile.load(program_copy)
        choose_state(loaded, which=name)
        answers.append(network(path, batch[0]))
        expected = loaded.predict(batch)["output"]
        # float32 sums of at most some hundred terms in another order
        np.testing.assert_allclose(answers[-1], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert not np.allclose(answers[0], answers[2])
    assert {node.domain for node in onnx.load(path).graph.node} == {""}


def test_gated_blocks_are_if_and_both_ways_are_right(gated: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    assert run("export", gated, "--format", "onnx", "-o", path) == 0
    model = onnx.load(path)
    assert [node.op_type for node in model.graph.node].count("If") == 2
    program = e2compile.load(gated)
    for scale in (0.1, 1.0, 30.0):
        batch = [tensor.numpy() for tensor in images(SHAPE, seed=7)]
        batch[0] = (scale * batch[0]).astype(np.float32)
        expected = program.predict(batch)["output"]
        np.testing.assert_allclose(
            network(path, batch[0]), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "onnx", "--stage", "psg"), "no stage 'psg'; there is captured, differentiated, smd"),
        (("--stage", "smd"), "--stage goes with --format onnx, dot or json"),
        (("--format", "vta", "--stage", "smd"), "--stage goes with --format onnx, dot or json"),
        (("--format", "dot", "--best"), "a stage has no weights"),
        (("--format", "onnx", "--run", "none"), "has no run 'none'"),
        (("--format", "json", "-o", "{folder}/manifest.json/x"), "cannot write"),
        (("--format", "svg"), "--format"),
    ],
)
def test_what_cannot_be_exported_is_said(
    arguments: tuple[str, ...], message: str, program_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.format(folder=program_folder) for argument in arguments]
    assert run("export", program_folder, *given) == 2
    assert message in capsys.readouterr().err


def test_without_onnx_the_remedy_is_named(
    program_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert run("export", program_folder, "--format", "onnx") == 4
    assert "pip install 'e2compile[onnx]'" in capsys.readouterr().err


def test_stages_are_written_by_their_names(
    program_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("onnx", "dot", "json"):
        assert run("export", program_folder, "--format", name, "--stage", "differentiated") == 0
    assert run("export", program_folder, "--format", "json") == 0
    names = {path.name for path in tmp_path.iterdir()}
    stage = "digits-differentiated"
    assert names == {f"{stage}.onnx", f"{stage}.dot", f"{stage}.json", "digits-smd.json"}
    content = json.loads((tmp_path / "digits-smd.json").read_text())
    assert set(content["graph"]["branches"]) == {"execute", "skip"}
    assert (tmp_path / f"{stage}.dot").read_text().startswith("digraph")
