"""An exported step, read as its documentation describes it, and run by the second interpreter."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2compile.targets.vta.isa.config import parse
from tests.targets.vta.interpreter import Interpreter


class Step:
    """An exported step, as docs/export-vta.md describes it."""

    def __init__(self, folder: Path) -> None:
        self.content = json.loads((folder / "runs.json").read_text())
        assert self.content["schema"] == 2
        self.config = parse(self.content["config"], "runs.json")
        image = np.fromfile(folder / self.content["image"], np.uint8)
        self.expected = np.fromfile(folder / self.content["expected"], np.uint8)
        self.memory = np.zeros(self.content["base"] + image.size, np.uint8)
        self.memory[self.content["base"] :] = image

    def bytes(self, run: dict[str, Any], name: str) -> NDArray[np.uint8]:
        """A buffer of a run's."""
        buffer = run["buffers"][name]
        return self.memory[buffer["address"] :][: buffer["bytes"]]

    def differing(self) -> list[str]:
        """The runs that do not give what is expected."""
        wrong = []
        for item in self.content["runs"]:
            for stream in item["streams"]:
                start, count = stream["instructions"]["address"], stream["instructions"]["count"]
                words = self.memory[start : start + 16 * count].view(np.uint64).reshape(count, 2)
                Interpreter(self.config, self.memory).run(words)
            first, size = item["expected"]["offset"], item["expected"]["bytes"]
            if not np.array_equal(self.bytes(item, "out"), self.expected[first : first + size]):
                wrong.append(item["name"])
        return wrong
