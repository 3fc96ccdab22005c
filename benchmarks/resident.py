"""The most resident memory of a process that trains: of a Program folder, or of a PyTorch variant.

    python benchmarks/resident.py PROGRAM
    python benchmarks/resident.py MODEL BATCH VARIANT

Prints bytes: the peak over three steps after two of warm-up, interpreter and libraries included. A Program's
process loads no torch.
"""

import sys
from collections.abc import Callable
from pathlib import Path


def program_step(folder: Path) -> Callable[[], object]:
    import numpy as np

    import e2compile

    program = e2compile.load(folder)
    arrays = [np.zeros(tensor.shape, tensor.dtype) for tensor in program.manifest.batch]
    return lambda: program.execute(arrays)


def pytorch_step(model: str, batch: str, variant: str) -> Callable[[], object]:
    from pytorch_step import PyTorchStep

    return PyTorchStep(model, int(batch), variant)


def main() -> None:
    arguments = sys.argv[1:]
    step = program_step(Path(*arguments)) if len(arguments) == 1 else pytorch_step(*arguments)
    for _ in range(2):
        step()
    Path("/proc/self/clear_refs").write_text("5")  # what was resident while compiling no longer counts
    for _ in range(3):
        step()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(1024 * int(status["VmHWM"].split()[0]))


if __name__ == "__main__":
    main()
