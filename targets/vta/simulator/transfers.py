"""LOAD and STORE as TIR."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.targets.vta.device.interface import PAGE
from e2compile.targets.vta.isa.instructions import Memory
from e2compile.targets.vta.simulator.machine import Machine, get, put, unless, when
from e2compile.targets.vta.simulator.simulator import Fault

Fields = dict[str, Any]  # of the instruction, decoded

_BARE = dict.fromkeys(("pad_top", "pad_bottom", "pad_left", "pad_right"), 0)


@contextmanager
def _transfer(
    machine: Machine, fields: Fields, bytes_: int, log_depth: int, fault: Fault
) -> Iterator[tuple[Any, Any, Any]]:
    """For each element of a transfer: its place in the scratchpad, its DRAM address, whether it is data."""
    f = fields
    width = T.bind(f["pad_left"] + f["columns"] + f["pad_right"])
    height = T.bind(f["pad_top"] + f["rows"] + f["pad_bottom"])
    stride = T.Cast("int64", f["stride"])
    end = f["dram"] + T.Cast("int64", f["rows"] - 1) * stride + T.Cast("int64", f["columns"])
    room = T.Cast("int64", f["sram"]) + T.Cast("int64", height) * T.Cast("int64", width)
    outside = T.Or(f["dram"] * bytes_ < PAGE, end * bytes_ > machine.size)
    with (
        when(f["columns"] > 0),
        unless(machine, (room > 1 << log_depth, fault), (T.And(f["rows"] > 0, outside), Fault.DRAM)),
        T.serial(0, height) as y,
        T.serial(0, width) as x,
    ):
        row, column = T.bind(y - f["pad_top"]), T.bind(x - f["pad_left"])
        inside = tirx.all(row >= 0, row < f["rows"], column >= 0, column < f["columns"])
        address = (f["dram"] + T.Cast("int64", row) * stride + T.Cast("int64", column)) * bytes_
        yield T.bind(f["sram"] + y * width + x), T.bind(address), inside


def _load_uop(machine: Machine, fields: Fields) -> None:
    fields = fields | _BARE | {"rows": T.int32(1)}
    with (
        _transfer(machine, fields, 4, machine.config.log_uops, Fault.UOP) as (place, address, inside),
        _filled(machine.uop, place, 1, inside),
    ):
        T.buffer_store(machine.uop, _words(machine.dram, address, 1), [place])


def _load_acc(machine: Machine, fields: Fields) -> None:
    config, lanes = machine.config, machine.lanes
    with (
        _transfer(machine, fields, config.acc_bytes, config.log_accs, Fault.ACC) as (place, address, inside),
        _filled(machine.acc, place, lanes, inside),
    ):
        put(machine.acc, place * lanes, _words(machine.dram, address, lanes), lanes)


def _load_inp(machine: Machine, fields: Fields) -> None:
    config, lanes = machine.config, machine.lanes
    with (
        _transfer(machine, fields, config.inp_bytes, config.log_inps, Fault.INP) as (place, address, inside),
        _filled(machine.inp, place, lanes, inside),
    ):
        values = machine.dram[T.ramp(address, T.int64(1), lanes)]
        put(machine.inp, place * lanes, T.Cast(f"float32x{lanes}", values), lanes)


def _load_wgt(machine: Machine, fields: Fields) -> None:
    config, block = machine.config, machine.config.block
    elements = _transfer(machine, fields | _BARE, config.wgt_bytes, config.log_wgts, Fault.WGT)
    with (
        elements as (place, address, inside),
        _filled(machine.wgt, place, block * block, inside),
        T.serial(0, block) as k,
    ):
        column = machine.dram[T.ramp(address + T.Cast("int64", k), T.int64(block), block)]
        put(machine.wgt, (place * block + k) * block, T.Cast(f"float32x{block}", column), block)


@contextmanager
def _filled(pad: Any, place: Any, lanes: int, inside: Any) -> Iterator[None]:
    """Runs its body where an element is data; else the element is zero."""
    with T.If(inside):
        with T.Then():
            yield
        with T.Else(), T.serial(0, lanes) as lane:
            T.buffer_store(pad, tirx.const(0, str(pad.dtype)), [place * lanes + lane])


def _words(dram: Any, address: Any, lanes: int) -> Any:
    """Neighbouring bytes as int32. DRAM is read as bytes only: LLVM is told that types do not overlap."""
    dtype = "int32" if lanes == 1 else f"int32x{lanes}"
    return T.reinterpret(dtype, dram[T.ramp(address, T.int64(1), 4 * lanes)])


def store(machine: Machine, fields: Fields) -> None:
    config, lanes = machine.config, machine.lanes
    elements = _transfer(machine, fields | _BARE, config.out_bytes, config.log_accs, Fault.ACC)
    with elements as (place, address, inside), when(inside):
        values = get(machine.out, place * lanes, lanes)
        T.buffer_store(machine.dram, values, [T.ramp(address, T.int64(1), lanes)])


LOADS: dict[Memory, Callable[[Machine, Fields], None]] = {
    Memory.UOP: _load_uop,
    Memory.INP: _load_inp,
    Memory.WGT: _load_wgt,
    Memory.ACC: _load_acc,
}
