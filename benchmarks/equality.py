"""One verified step of every network: how close each program is to PyTorch, against what is allowed.

    python benchmarks/equality.py [--model resnet18 ...] [--json FILE]

Each check's worst tensor is quoted as its error over its bound; docs/architecture.md has the rules.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import machine
import nets
import torch

import e2compile
from e2compile.passes import BatchDrop

# Images a batch, pixels a side, classes.
SHAPES = dict.fromkeys(nets.NETS, (8, 32, 10)) | {"resnet18": (4, 224, 1000)}


def check(name: str) -> dict[str, Any]:
    size, pixels, classes = SHAPES[name]
    module = nets.net(name)
    batch = torch.randn(size, 3, pixels, pixels), torch.randint(0, classes, (size,))
    began = time.perf_counter()
    graph = e2compile.capture(module, batch).apply(BatchDrop(p=0.5))
    program = e2compile.compile(graph, cache=False)
    report = json.loads((program.folder / "verify" / "verify.json").read_text())
    ratios = {
        key: row["error"] / row["bound"] if row["bound"] else float(row["error"] > 0)
        for key, row in report["worst"].items()
    }
    return {
        "model": name,
        "batch": [size, 3, pixels, pixels],
        "passed": report["passed"],
        "tensors": report["tensors"],
        "seconds": time.perf_counter() - began,
        "worst_error_over_bound": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(SHAPES), action="append")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.model or SHAPES:
        rows.append(check(name))
        ratios = rows[-1]["worst_error_over_bound"]
        worst = max(ratios, key=ratios.__getitem__)
        print(
            f"{name:14s} {rows[-1]['tensors']} tensors compared, {rows[-1]['seconds']:.0f} s,"
            f" worst error / bound {ratios[worst]:.3f} ({worst})",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine.describe(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
