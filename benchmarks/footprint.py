"""What a training process costs besides the step: import, peak memory, a dropped step, a loaded batch.

    python benchmarks/footprint.py PROGRAM [--data NAME-or-DIR] [--json FILE]

Run it in an environment with torch and in one without: a training process loads torch in neither.
"""

import argparse
import importlib.util
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    import e2compile
    from e2compile.runtime.fit import Options, Run

    program = e2compile.load(options.program)
    loaded = time.perf_counter() - began
    run = Run(program, options.data, Options())
    batch = run.loader.batch(0)
    program.execute(batch)
    first_step = time.perf_counter() - began
    for _ in range(3):
        program.execute(batch)
    step = seconds(lambda: program.execute(batch), 15)
    steps = iter(range(10**6))
    dropped = seconds(lambda: (program.keep(next(steps)), program.drop()), 1000)
    positions = iter(range(10**6))
    loading = seconds(lambda: run.loader.batch(next(positions)), 30)
    import machine  # here, as it imports of e2compile what was timed above

    row = {
        "torch_installed": importlib.util.find_spec("torch") is not None,
        "torch_loaded": "torch" in sys.modules,
        "import_and_load_seconds": loaded,
        "import_to_first_step_seconds": first_step,
        "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "step_seconds": step,
        "dropped_step_seconds": dropped,
        "dropped_share_of_step": dropped / step,
        "load_batch_seconds": loading,
        "load_share_of_step": loading / step,
        "machine": machine.describe(),
    }
    print(json.dumps(row, indent=1))
    if options.json:
        options.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
