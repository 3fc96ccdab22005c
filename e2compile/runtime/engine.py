"""TVM's runtime: all cores, no torch."""

import os
import sys
import tempfile
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from e2compile.errors import MissingError, UsageError
from e2compile.runtime.pages import ask_for_huge


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0))


def use_threads(count: int | None) -> None:
    """How many threads this process's programs run on; None for all cores that it may use.

    To be called before a program first runs. Raises UsageError for more threads than cores: where two share a
    core, all wait for both.
    """
    if count is None:
        return
    if not 1 <= count <= cores():
        raise UsageError(f"{count} threads, but this process may use {cores()} cores: give it 1 to {cores()}")
    os.environ["TVM_NUM_THREADS"] = str(count)


def import_tvm() -> ModuleType:
    """TVM, using every core of the process unless TVM_NUM_THREADS says otherwise.

    Its threads are bound to no cores unless TVM_BIND_THREADS says so: TVM counts from the machine's first,
    whichever the process may use, and threads can leave a core that is busy, with loading a batch for one.

    tvm_ffi imports torch where it finds it, 200 MiB that a training process does not need; it is kept
    from that unless torch is loaded already.
    """
    os.environ.setdefault("TVM_NUM_THREADS", str(cores()))
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    if "torch" in sys.modules or "tvm" in sys.modules:
        import tvm

        return tvm  # type: ignore[no-any-return]
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tvm
    finally:
        del sys.modules["torch"]
    return tvm  # type: ignore[no-any-return]


def memory_of(name: str) -> str:
    """The function of a library that makes the tensors which `name` takes after its own arguments."""
    return f"{name}_memory"


class Library:
    """A compiled library's functions, called with TVM tensors.

    It is read at once and loaded, TVM with it, when it is first called: who only compiles or exports does
    without, and a folder that is compiled anew leaves the programs in memory as they are.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UsageError(f"{path} is missing: compile the program again")
        self.path, self.code = path, path.read_bytes()
        self._memory: dict[str, list[Any]] = {}

    @property
    def module(self) -> Any:
        return self._loaded[0]

    @property
    def machine(self) -> Any:
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        tvm = import_tvm()
        from tvm import relax

        try:
            module = self._load(tvm)
            return module, relax.VirtualMachine(module, tvm.cpu())
        except Exception as error:
            raise MissingError(
                f"{self.path} cannot be loaded on this machine: {str(error).splitlines()[-1]}"
            ) from error

    def _load(self, tvm: ModuleType) -> Any:
        """Under a name of its own: the loader keeps to the first file that it knew by a name."""
        with tempfile.TemporaryDirectory() as folder:
            own = Path(folder) / self.path.name
            own.write_bytes(self.code)
            return tvm.runtime.load_module(str(own))

    def tensor(self, array: NDArray[Any]) -> Any:
        return import_tvm().runtime.tensor(array)

    def call(self, name: str, arguments: list[Any]) -> list[Any]:
        """What a function gives, in memory that its next call writes again."""
        if name not in self._memory:
            self._memory[name] = list(self.machine[memory_of(name)]())
            ask_for_huge(self._memory[name])
        return list(self.machine[name](*arguments, *self._memory[name]))
