"""The part of a Program that the array runs: its operators, the streams of each, and what lies where."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from e2compile.errors import UsageError
from e2compile.lower.workload import Convolution
from e2compile.targets.vta.isa import config as configs
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Words
from e2compile.targets.vta.program.cost import Cost

TABLE, STREAMS = "program/vta.json", "program/vta.safetensors"
SCHEMA = 3

# What an operator computes.
FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = "forward", "input_gradient", "weight_gradient"


@dataclass(frozen=True)
class Run:
    """Streams that make some of a group's sums, one after another: where their inputs, their weights and the
    sums lie in the operator's buffers, in bytes."""

    streams: tuple[int, ...]
    inp: int
    inp_bytes: int
    wgt: int
    wgt_bytes: int
    out: int
    out_bytes: int


@dataclass(frozen=True)
class Operator:
    """One operator: the kernel that it stands in for, `name`, what that computes, and its runs.

    Buffer sizes are of one group of samples, in bytes, `groups` of them the most. Each group has weights of
    its own where `own_weights`, as a weight gradient's are the gradients of its samples.
    """

    name: str
    what: str
    workload: dict[str, Any]
    groups: int
    inp_bytes: int
    wgt_bytes: int
    out_bytes: int
    own_weights: bool
    runs: tuple[Run, ...]

    @property
    def conv(self) -> Convolution:
        return convolution(self.workload)


def convolution(content: dict[str, Any]) -> Convolution:
    """A workload from its fields."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    return Convolution(**values)


def phase(what: str) -> str:
    """What an operator computes, as people say it."""
    return what.replace("_", " ")


def words(conv: Convolution) -> str:
    """16->32 3x3 /2 @32x32: channels, kernel, stride, pixels of x."""
    kernel, stride = (f"{a}x{b}" for a, b in (conv.kernel, conv.stride))
    parts = [f"{conv.in_channels}->{conv.out_channels}", kernel]
    if conv.stride != (1, 1):
        parts.append(f"/{conv.stride[0]}" if conv.stride[0] == conv.stride[1] else f"/{stride}")
    if conv.dilation != (1, 1):
        parts.append(f"dilation {conv.dilation[0]}x{conv.dilation[1]}")
    if conv.groups > 1:
        parts.append(f"groups {conv.groups}")
    return " ".join([*parts, f"@{conv.height}x{conv.width}"])


@dataclass(frozen=True)
class Binary:
    """A stream as words: instructions uint64 [n, 2], with addresses counted from its buffers, and uops."""

    instructions: Words
    uops: NDArray[np.uint32]
    cost: Cost


@dataclass(frozen=True)
class Table:
    config: Config
    operators: tuple[Operator, ...]
    streams: tuple[Binary, ...]

    def cost(self, operator: Operator) -> Cost:
        """Of an operator's runs for one group."""
        return sum((self.streams[i].cost for run in operator.runs for i in run.streams), Cost())

    @cached_property
    def call(self) -> str:
        """The name of the function that the host calls to run an operator: one for each content."""
        digest = hashlib.sha256(json.dumps(_content(self)).encode())
        for stream in self.streams:
            digest.update(stream.instructions.tobytes() + stream.uops.tobytes())
        return f"e2.vta.{digest.hexdigest()[:16]}"


def write(table: Table, folder: Path) -> None:
    """Write a table into a Program folder."""
    arrays: dict[str, NDArray[Any]] = {}
    for number, stream in enumerate(table.streams):
        arrays |= {f"instructions.{number}": stream.instructions, f"uops.{number}": stream.uops}
    (folder / TABLE).write_text(json.dumps(_content(table), indent=1) + "\n")
    save_file(arrays, folder / STREAMS)


def _content(table: Table) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "config": {key.upper(): value for key, value in asdict(table.config).items()},
        "operators": [asdict(operator) for operator in table.operators],
        "streams": [asdict(stream.cost) for stream in table.streams],
    }


def read(folder: Path) -> Table:
    """The table of a Program folder. Raises UsageError where it is not one that this version writes."""
    path = folder / TABLE
    try:
        content, arrays = json.loads(path.read_text()), load_file(folder / STREAMS)
        if content["schema"] != SCHEMA:
            raise UsageError(f"{path} has schema {content['schema']}, this version reads {SCHEMA}")
        operators = tuple(Operator(**(o | {"runs": _runs(o["runs"])})) for o in content["operators"])
        streams = tuple(_binary(arrays, number, Cost(**c)) for number, c in enumerate(content["streams"]))
        return Table(configs.parse(content["config"], str(path)), operators, streams)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: compile the program again") from error


def _runs(content: list[dict[str, Any]]) -> tuple[Run, ...]:
    return tuple(Run(**(run | {"streams": tuple(run["streams"])})) for run in content)


def _binary(arrays: dict[str, NDArray[Any]], number: int, cost: Cost) -> Binary:
    return Binary(arrays[f"instructions.{number}"], arrays[f"uops.{number}"], cost)
