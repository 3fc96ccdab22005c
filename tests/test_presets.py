"""Presets are the settings that they stand for, and can be compiled."""

import json
from pathlib import Path

import pytest

from e2compile.options import parse_passes
from e2compile.passes import BatchDrop, LayerGate, SignPredict
from e2compile.presets import PRESETS
from tests.commands import run

# E2-Train, section 3.3: 8-bit x and w, 16-bit g, a predictor of 4-bit x and 10-bit g, beta 0.05,
# the full product for each unsure element.
PAPER = SignPredict(
    preset="paper",
    activation_bits=8,
    weight_bits=8,
    gradient_bits=16,
    predictor_activation_bits=4,
    predictor_gradient_bits=10,
    beta=0.05,
    fallback="element",
    scale="max",
    scales="current",
)


def test_the_default_is_what_the_study_recommends_with_each_passs_own_settings() -> None:
    assert parse_passes() == (BatchDrop(), SignPredict())
    assert parse_passes("slu,smd") == (BatchDrop(), LayerGate())
    assert PRESETS["default"].swa_start is None


def test_paper_is_the_published_setting() -> None:
    drop, gate, signs = parse_passes(preset="paper")
    assert drop == BatchDrop(p=0.5)
    assert gate == LayerGate(target_skip=0.4, floor=0.0, evaluation="sample", frozen=False)
    assert isinstance(signs, SignPredict)
    assert signs.settings() == PAPER.settings()
    assert PRESETS["paper"].swa_start == 0.8  # epochs 161 to 200 of 200


def test_official_is_what_the_authors_code_does_by_default() -> None:
    """--minimum 100, --beta 1e-5; a weight's scale by output channel; a predictor of 4-bit x and 16-bit g."""
    drop, gate, signs = parse_passes(preset="official")
    assert drop == BatchDrop(p=0.5)
    assert gate == LayerGate(
        target_skip=0.0,
        controller="bang_bang",
        beta=1e-5,
        estimator="dense",
        floor=0.0,
        evaluation="sample",
        frozen=False,
    )
    assert isinstance(signs, SignPredict)
    settings = signs.settings()
    assert (settings.predictor_activation_bits, settings.predictor_gradient_bits) == (4, 16)
    assert (settings.by_channel, settings.scale, settings.scales, settings.fallback) == (
        True,
        "max",
        "current",
        "element",
    )
    assert PRESETS["official"].swa_start is None


def test_a_setting_goes_over_the_presets() -> None:
    (gate,) = parse_passes("slu", ["slu.target_skip=0.2"], "paper")
    assert gate == LayerGate(target_skip=0.2, floor=0.0, evaluation="sample", frozen=False)


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_a_preset_compiles_and_averages_where_it_says_so(
    preset: str, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(model_file, "--preset", preset, "-o", out, "--train", "2") == 0
    shown = capsys.readouterr().out
    averages = preset == "paper"
    assert (f"e2compile train {out} --swa-start 0.8" in shown) == averages
    results = json.loads((out / "runs" / "default" / "results.json").read_text())
    assert results["averaged_epochs"] == int(averages)
    assert (out / "runs" / "default" / "averaged.safetensors").exists() == averages


def test_without_signs_nothing_is_averaged() -> None:
    assert PRESETS["paper"].swa_start_of(parse_passes("smd,slu", preset="paper")) is None
    assert PRESETS["paper"].swa_start_of(parse_passes("psg", preset="paper")) == 0.8


def test_the_list_of_passes_shows_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("passes") == 0
    shown = capsys.readouterr().out
    for preset in PRESETS.values():
        assert all(f"--set {setting}" in shown for setting in preset.settings)
    assert "train --swa-start 0.8" in shown
