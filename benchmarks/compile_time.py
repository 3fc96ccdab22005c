"""Seconds to compile a network, verification included, and again from the cache; each in a fresh process.

python benchmarks/compile_time.py [--model resnet20 --model resnet74] [--batch 128] [--json FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine
import nets

_COMPILE = """
import json, sys
sys.path.insert(0, {folder!r})
import nets, e2compile
from e2compile.passes import BatchDrop
phases = dict()
graph = e2compile.capture(nets.net({name!r}), nets.batch({batch})).apply(BatchDrop(p=0.5))
e2compile.compile(graph, output={output!r}, watch=phases.__setitem__)
print(json.dumps(phases))
"""


def timed(name: str, batch: int, output: Path, cache: Path) -> tuple[float, dict[str, float]]:
    """Wall seconds of a whole process, imports included, and of its phases."""
    code = _COMPILE.format(folder=str(Path(__file__).parent), name=name, batch=batch, output=str(output))
    environment = os.environ | {"E2COMPILE_CACHE": str(cache)}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    return time.perf_counter() - began, json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(nets.NETS), action="append")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.model or ["resnet20", "resnet74"]:
        with tempfile.TemporaryDirectory() as folder:
            output, cache = Path(folder) / "out", Path(folder) / "cache"
            cold, phases = timed(name, options.batch, output, cache)
            warm, _ = timed(name, options.batch, output, cache)
        rows.append({"model": name, "batch": options.batch, "cold": cold, "warm": warm, "phases": phases})
        print(
            f"{name} batch {options.batch}: {cold:.1f} s, from the cache {warm:.1f} s; {phases}", flush=True
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine.describe(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
