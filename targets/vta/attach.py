"""From a Program's library to the device that runs its streams. Needs no torch."""

from pathlib import Path
from typing import Any

from e2compile.errors import UsageError
from e2compile.targets.vta.device import board
from e2compile.targets.vta.device.driver import Driver
from e2compile.targets.vta.device.interface import Device
from e2compile.targets.vta.device.remote import Remote
from e2compile.targets.vta.isa.config import BOARDS, Config
from e2compile.targets.vta.program import table as tables
from e2compile.targets.vta.simulator.simulator import INTERPRETER, Simulator

SIMULATOR, STRICT, BOARD, ANY = "simulator", "simulator:strict", "board", "vta"
DEVICES = (
    SIMULATOR,
    STRICT,
    BOARD,
    f"{BOARD}:BUFFER",
    f"{ANY}://HOST:PORT",
    *(f"{b}://HOST:PORT" for b in BOARDS),
)
FILES = (tables.TABLE, tables.STREAMS)


def attach(folder: Path, library: Any, device: str | None = None) -> Driver:
    """What serves the calls of a loaded library, a TVM module, by a device: by default the simulator in it.

    Raises UsageError for a device that is none, DeviceError for one that cannot be reached.
    """
    table = tables.read(folder)
    return Driver(table, _device(device or SIMULATOR, table.config, library))


def check(device: str) -> None:
    """Raise UsageError for what names no device."""
    kind, is_remote, address = device.partition("://")
    if is_remote:
        if kind != ANY and kind not in BOARDS:
            raise UsageError(f"no board {kind!r}: there is {', '.join([*BOARDS, ANY])}")
        if not address:
            raise UsageError(f"{kind}:// lacks an address: write {kind}://HOST:PORT")
    elif device not in (SIMULATOR, STRICT) and device.partition(":")[0] != BOARD:
        raise UsageError(f"no device {device!r}: there is {', '.join(DEVICES)}")


def _device(text: str, config: Config, library: Any) -> Device:
    check(text)
    if text in (SIMULATOR, STRICT):
        return Simulator(config, library.get_function(INTERPRETER, query_imports=True), strict=text == STRICT)
    kind, is_remote, address = text.partition("://")
    if not is_remote:
        return board.opened(config, text.partition(":")[2] or board.BUFFER)
    if kind not in (ANY, config.target):
        raise UsageError(
            f"the program is for {config.target}, not for {kind}: compile it with --target fpga:{kind}"
        )
    return Remote(address, config)
