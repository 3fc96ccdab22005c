"""One verified step of every network: how close each program is to PyTorch, against what is allowed.

    python benchmarks/equality.py [--model resnet18 ...] [--target fpga] [--passes smd,slu,psg] [--batch N]
                                  [--json FILE]

For the target fpga a step is run on the strict simulator as well, which must give the same results.
Each check's worst tensor is quoted as its error over its bound; docs/architecture.md has the rules.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import machine
import nets
import numpy as np
import torch

import e2compile
from e2compile.options import parse_passes

# Images a batch, pixels a side, classes.
SHAPES = dict.fromkeys(nets.NETS, (8, 32, 10)) | {"resnet18": (4, 224, 1000)}


def check(name: str, target: str, passes: str, given: int | None) -> dict[str, Any]:
    size, pixels, classes = SHAPES[name]
    size, module = given or size, nets.net(name)
    batch = torch.randn(size, 3, pixels, pixels), torch.randint(0, classes, (size,))
    began = time.perf_counter()
    graph = e2compile.capture(module, batch).apply(*parse_passes(passes))
    program = e2compile.compile(graph, target, cache=False)
    report = json.loads((program.folder / "verify" / "verify.json").read_text())
    ratios = {
        key: row["error"] / row["bound"] if row["bound"] else float(row["error"] > 0)
        for key, row in report["worst"].items()
    }
    return {
        "model": name,
        "target": target,
        "passes": passes,
        "batch": [size, 3, pixels, pixels],
        "passed": report["passed"],
        "tensors": report["tensors"],
        "seconds": time.perf_counter() - began,
        "worst_error_over_bound": ratios,
        **({"fpga": strictly(program, batch)} if target.startswith("fpga") else {}),
    }


def strictly(program: e2compile.Program, batch: Any) -> dict[str, Any]:
    """A step on the simulator, and the same on the strict one: seconds, and those modelled on the board."""
    arrays = [tensor.numpy() for tensor in batch]
    strict = e2compile.load(program.folder, "simulator:strict")
    program.execute(arrays)
    began = time.perf_counter()
    loss = program.execute(arrays).loss
    seconds = time.perf_counter() - began
    losses = [strict.execute(arrays).loss for _ in range(2)]
    driver = program.driver
    return {
        "strict_is_equal": losses[1] == loss and same(program.arrays(), strict.arrays()),
        "seconds": seconds,
        "board_seconds": driver.cycles / 2 / driver.table.config.board.clock_hz,
    }


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return all(np.array_equal(left[name], right[name]) for name in left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(SHAPES), action="append")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--passes", default="smd")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.model or SHAPES:
        rows.append(check(name, options.target, options.passes, options.batch))
        ratios = rows[-1]["worst_error_over_bound"]
        worst = max(ratios, key=ratios.__getitem__)
        print(
            f"{name:14s} {rows[-1]['tensors']} tensors compared, {rows[-1]['seconds']:.0f} s,"
            f" worst error / bound {ratios[worst]:.3f} ({worst})",
            rows[-1].get("fpga", ""),
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine.describe(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
