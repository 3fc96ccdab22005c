"""From a Program's library to the device that runs its streams. Needs no torch."""

from pathlib import Path
from typing import Any

from e2compile.errors import UsageError
from e2compile.targets.vta import table as tables
from e2compile.targets.vta.config import Config
from e2compile.targets.vta.device import Device
from e2compile.targets.vta.driver import Driver
from e2compile.targets.vta.simulator import INTERPRETER, Simulator

SIMULATOR, STRICT = "simulator", "simulator:strict"
FILES = (tables.TABLE, tables.STREAMS)


def attach(folder: Path, library: Any, device: str | None = None) -> Driver:
    """Serve the calls of a loaded library, a TVM module, by a device: by default the simulator in it.

    Raises UsageError for a device that is none, DeviceError for one that cannot be reached.
    """
    import tvm_ffi

    table = tables.read(folder)
    driver = Driver(table, _device(device or SIMULATOR, table.config, library))
    tvm_ffi.register_global_func(table.call, driver.run, override=True)
    return driver


def _device(text: str, config: Config, library: Any) -> Device:
    if text in (SIMULATOR, STRICT):
        return Simulator(config, library.get_function(INTERPRETER, query_imports=True), strict=text == STRICT)
    raise UsageError(f"no device {text!r}: there is {SIMULATOR}, {STRICT}")
