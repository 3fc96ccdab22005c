"""TVM's runtime: all cores, no torch."""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from e2compile.errors import MissingError, UsageError


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0))


def import_tvm() -> ModuleType:
    """TVM, using every core of the process unless TVM_NUM_THREADS says otherwise.

    tvm_ffi imports torch where it finds it, 200 MiB that a training process does not need; it is kept
    from that unless torch is loaded already.
    """
    os.environ.setdefault("TVM_NUM_THREADS", str(cores()))
    if "torch" in sys.modules or "tvm" in sys.modules:
        import tvm

        return tvm  # type: ignore[no-any-return]
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tvm
    finally:
        del sys.modules["torch"]
    return tvm  # type: ignore[no-any-return]


def _load(tvm: ModuleType, path: Path) -> Any:
    """A library under a name of its own: the loader keeps to the first file that it knew by a name."""
    with tempfile.TemporaryDirectory() as folder:
        return tvm.runtime.load_module(shutil.copy(path, folder))


class Library:
    """A compiled library's functions, called with TVM tensors."""

    def __init__(self, path: Path) -> None:
        tvm = import_tvm()
        from tvm import relax

        if not path.is_file():
            raise UsageError(f"{path} is missing: compile the program again")
        try:
            self.module = _load(tvm, path)
            self.machine = relax.VirtualMachine(self.module, tvm.cpu())
        except Exception as error:
            raise MissingError(
                f"{path} cannot be loaded on this machine: {str(error).splitlines()[-1]}"
            ) from error
        self.tensor = tvm.runtime.tensor

    def call(self, name: str, arguments: list[Any]) -> list[Any]:
        return list(self.machine[name](*arguments))
