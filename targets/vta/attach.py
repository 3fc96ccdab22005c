"""From a Program's library to the device that runs its streams. Needs no torch."""

from pathlib import Path
from typing import Any

from e2compile.errors import UsageError
from e2compile.targets.vta import board
from e2compile.targets.vta import table as tables
from e2compile.targets.vta.config import BOARDS, Config
from e2compile.targets.vta.device import Device
from e2compile.targets.vta.driver import Driver
from e2compile.targets.vta.remote import Remote
from e2compile.targets.vta.simulator import INTERPRETER, Simulator

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


def _device(text: str, config: Config, library: Any) -> Device:
    if text in (SIMULATOR, STRICT):
        return Simulator(config, library.get_function(INTERPRETER, query_imports=True), strict=text == STRICT)
    kind, is_remote, address = text.partition("://")
    if is_remote:
        return _remote(kind, address, config)
    kind, _, buffer = text.partition(":")
    if kind == BOARD:
        return board.opened(config, buffer or board.BUFFER)
    raise UsageError(f"no device {text!r}: there is {', '.join(DEVICES)}")


def _remote(kind: str, address: str, config: Config) -> Device:
    """The device of a server. Its address names a board, or any VTA; the server knows which one it has."""
    if kind != ANY and kind not in BOARDS:
        raise UsageError(f"no board {kind!r}: there is {', '.join([*BOARDS, ANY])}")
    if kind not in (ANY, config.target):
        raise UsageError(
            f"the program is for {config.target}, not for {kind}: compile it with --target fpga:{kind}"
        )
    if not address:
        raise UsageError(f"{kind}:// lacks an address: write {kind}://HOST:PORT")
    return Remote(address, config)
