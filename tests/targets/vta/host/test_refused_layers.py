"""What an array cannot run at all is refused when compiling, all layers at once, with their lines; what is in
groups is left to the host."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from e2compile.targets.vta import isa
from tests.commands import run

MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.fc = torch.nn.Linear(8, 10)

    def forward(self, x):
        x = self.conv(x)
        return self.fc(x.mean((2, 3)))

model = Net()
batch = (torch.randn(2, 3, 6, 6), torch.zeros(2).long())
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    content = json.loads((files(isa) / "configs" / "pynq.json").read_text())
    # Two accumulators: three are needed so that none comes back too soon.
    tiny = content | {"LOG_ACC_BUFF_SIZE": 7}
    (tmp_path / "tiny.json").write_text(json.dumps(tiny))
    return tmp_path


def test_layers_are_named_with_their_lines(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = f"fpga:{place / 'tiny.json'}"
    assert run(place / "model.py", "--target", target, "--passes", "none", "-o", place / "out") == 3
    shown = capsys.readouterr().err
    assert "an array of 1x16_i8w8a32_15_15_18_7 cannot run all layers\n" in shown
    why = "the scratchpads of 1x16_i8w8a32_15_15_18_7 are too small for any part of it"
    for layer in ("3->8 3x3 @6x6, forward", "3->8 3x3 @6x6, weight gradient", "8->10 1x1 @1x1, forward"):
        assert f"  {layer}: {why}\n" in shown
    assert "model.py:11: x = self.conv(x)" in shown
    assert "model.py:12: return self.fc(x.mean((2, 3)))" in shown
    assert not (place / "out").exists()


GROUPED = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.depthwise = torch.nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = torch.nn.Conv2d(8, 8, 1, groups=2)

    def forward(self, x):
        return self.grouped(self.depthwise(x).relu()).mean((2, 3))

model = Net()
batch = (torch.randn(2, 8, 6, 6), torch.zeros(2).long())
"""


def test_what_is_in_groups_goes_to_the_host_which_says_why(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "model.py").write_text(GROUPED)
    target = f"fpga:{place / 'tiny.json'}"
    assert run(place / "model.py", "--target", target, "--passes", "none", "-o", place / "out") == 0
    capsys.readouterr()
    assert run("report", place / "out") == 0
    shown = capsys.readouterr().out
    why = "the scratchpads of 1x16_i8w8a32_15_15_18_7 are too small for any part of it"
    layers = [line for line in shown.splitlines() if line.endswith(("model.py:11",))]
    assert [f"{kind}: {why}" in line for line in layers for kind in ["depthwise", "in groups"]].count(
        True
    ) == len(layers)
    assert len(layers) == 5  # the first one has no input gradient
