"""A VTA's configuration: the published JSON keys, what follows from them, and what makes one impossible."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from e2compile.errors import UsageError

_FOLDER = files(__package__) / "configs"  # may lie in an archive
_WORD = 32  # bits of a micro-op
_PAGE = 4096  # bytes; no element may be larger


@dataclass(frozen=True)
class Board:
    """What carries a VTA: its clock, its DMA port's bytes a clock, the most micro-ops that its design holds
    whatever LOG_UOP_BUFF_SIZE says, and the only configuration that its design has, where that is fixed."""

    clock_hz: float
    port_bytes: int
    log_most_uops: int = 16
    only: str | None = None


# tvm-vta's config/ and hardware/: the clocks and AXI data widths that the shipped bitstreams are built with.
# The Chisel design has its sizes in its source: fields as wide as its sample configuration says (ISA.scala),
# which is 13 bits for a micro-op's index, but 2048 micro-ops (Configs.scala).
BOARDS = {
    "pynq": Board(100e6, 8),
    "ultra96": Board(333e6, 16),
    "zcu104": Board(333e6, 16),
    "de10nano": Board(100e6, 8, log_most_uops=11, only="1x16_i8w8a32_15_15_18_17"),
}


@dataclass(frozen=True)
class Config:
    """The size of one VTA. Fields are the log2 values of the published keys, buffer sizes in bytes.

    A micro-op multiplies `batch` rows of `block` input lanes by `block` rows of weights into `batch` rows of
    `block` accumulators. Elements are what a scratchpad's indices count: one such operand.
    """

    target: str
    log_inp_width: int
    log_wgt_width: int
    log_acc_width: int
    log_batch: int
    log_block: int
    log_uop_buff_size: int
    log_inp_buff_size: int
    log_wgt_buff_size: int
    log_acc_buff_size: int
    hw_ver: str = "0.0.2"

    @property
    def board(self) -> Board:
        return BOARDS[self.target]

    @property
    def batch(self) -> int:
        return 1 << self.log_batch

    @property
    def block(self) -> int:
        return 1 << self.log_block

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one micro-op, which takes one cycle."""
        return self.batch * self.block * self.block

    @property
    def inp_bytes(self) -> int:
        return self.batch * self.block << self.log_inp_width >> 3

    @property
    def wgt_bytes(self) -> int:
        return self.block * self.block << self.log_wgt_width >> 3

    @property
    def acc_bytes(self) -> int:
        return self.batch * self.block << self.log_acc_width >> 3

    @property
    def out_bytes(self) -> int:
        """An element as it is stored: as wide as an input."""
        return self.inp_bytes

    @property
    def uop_bits(self) -> int:
        """Of a micro-op's index in an instruction."""
        return self.log_uop_buff_size - 2

    @property
    def log_uops(self) -> int:
        """log2 of the micro-ops that their scratchpad holds; likewise below, in elements."""
        return min(self.uop_bits, self.board.log_most_uops)

    @property
    def log_inps(self) -> int:
        return self.log_inp_buff_size - self.log_batch - self.log_block - self.log_inp_width + 3

    @property
    def log_wgts(self) -> int:
        return self.log_wgt_buff_size - 2 * self.log_block - self.log_wgt_width + 3

    @property
    def log_accs(self) -> int:
        return self.log_acc_buff_size - self.log_batch - self.log_block - self.log_acc_width + 3

    @property
    def name(self) -> str:
        """As bitstreams are named: 1x16_i8w8a32_15_15_18_17."""
        widths = f"i{1 << self.log_inp_width}w{1 << self.log_wgt_width}a{1 << self.log_acc_width}"
        sizes = "_".join(
            str(s)
            for s in (
                self.log_uop_buff_size,
                self.log_inp_buff_size,
                self.log_wgt_buff_size,
                self.log_acc_buff_size,
            )
        )
        return f"{self.batch}x{self.block}_{widths}_{sizes}"


def named(name: str) -> Config:
    """A shipped configuration. Raises UsageError for a name that is none."""
    if name not in names():
        raise UsageError(f"no VTA configuration is named {name!r}: there are {', '.join(names())}")
    return parse(json.loads((_FOLDER / f"{name}.json").read_text()), name)


def names() -> list[str]:
    return sorted(file.name.removesuffix(".json") for file in _FOLDER.iterdir())


def read(path: Path) -> Config:
    """The configuration in a JSON file with the published keys. Raises UsageError for an impossible one."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    return parse(content, str(path))


def parse(content: Any, source: str) -> Config:
    """A configuration from the published keys. Raises UsageError, naming all that is wrong at once."""
    if not isinstance(content, Mapping):
        raise UsageError(f"{source}: a VTA configuration is an object with the keys {', '.join(_KEYS)}")
    wrong = [f"{key} is missing" for key in _KEYS if key not in content and key != "HW_VER"]
    wrong += [f"{key} is not a key" for key in content if key not in _KEYS]
    for key, value in content.items():
        if key in ("TARGET", "HW_VER"):
            if not isinstance(value, str):
                wrong.append(f"{key} is a text, not {value!r}")
        elif key in _KEYS and not (
            isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 32
        ):
            wrong.append(f"{key} is a log2, 0 to 31, not {value!r}")
    if isinstance(content.get("TARGET"), str) and content["TARGET"] not in BOARDS:
        wrong.append(f"TARGET is one of {', '.join(BOARDS)}, not {content['TARGET']!r}")
    if not wrong:
        config = Config(**{key.lower(): value for key, value in content.items()})
        wrong = _impossible(config)
        if not wrong:
            return config
    raise UsageError(f"{source}: " + "; ".join(wrong))


_KEYS = (
    "TARGET",
    "HW_VER",
    "LOG_INP_WIDTH",
    "LOG_WGT_WIDTH",
    "LOG_ACC_WIDTH",
    "LOG_BATCH",
    "LOG_BLOCK",
    "LOG_UOP_BUFF_SIZE",
    "LOG_INP_BUFF_SIZE",
    "LOG_WGT_BUFF_SIZE",
    "LOG_ACC_BUFF_SIZE",
)


def _impossible(config: Config) -> list[str]:
    """Why no hardware of this size can be built or driven, from the fields of its instructions."""
    lu, li, lw, la = config.uop_bits, config.log_inps, config.log_wgts, config.log_accs
    depths = {"UOP": lu, "INP": li, "WGT": lw, "ACC": la}
    wrong = [f"the {name} buffer holds less than one element" for name, d in depths.items() if d < 0]
    wrong += [f"the {name} buffer holds 2^{d} elements, 2^16 at most" for name, d in depths.items() if d > 16]
    if config.log_inp_width != 3 or config.log_wgt_width != 3 or config.log_acc_width != 5:
        wrong.append("streams are made for 8-bit inputs and weights and 32-bit accumulators only")
    if la + max(la, li) + lw > _WORD:
        wrong.append(
            f"a micro-op's indices take {la + max(la, li) + lw} bits of {_WORD}: use smaller buffers"
        )
    if 2 * (la + li + lw) > 64:
        wrong.append(f"a GEMM's factors take {2 * (la + li + lw)} bits of 64: use smaller buffers")
    if 8 + 2 * lu + 1 + 28 > 64:
        wrong.append("a GEMM's micro-op range does not fit: use a smaller UOP buffer")
    if 4 * la + 20 > 64:
        wrong.append("an ALU instruction's factors do not fit: use a smaller ACC buffer")
    if li < la:
        wrong.append("the ACC buffer has more elements than the INP buffer: the hardware reads wrong weights")
    if config.board.only not in (None, config.name):
        wrong.append(f"the design for {config.target} is {config.board.only}, not {config.name}")
    largest = max(config.inp_bytes, config.wgt_bytes, config.acc_bytes)
    if largest > _PAGE:
        wrong.append(f"an element has {largest} bytes, {_PAGE} at most")
    return wrong
