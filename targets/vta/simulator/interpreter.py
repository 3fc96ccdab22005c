"""VTA's semantics as TIR: one function that runs encoded instructions on the CPU, as exactly as hardware.

Where implementations differ it does what the HLS design does (apache/tvm-vta, hardware/xilinx/src/vta.cc): a
STORE takes what GEMM and ALU instructions left in the OUT scratchpad, which loads and resets do not touch;
micro-ops load as one row, and weights without padding; a shift is by the low five bits, as a signed number.
It never reads or writes outside its arguments: an instruction that would is not begun.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import tvm
import tvm.tirx.script.builder as T
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.target import codegen
from tvm.tirx import PrimFunc

from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import (
    AluOp,
    Field,
    Memory,
    Opcode,
    alu_fields,
    gemm_fields,
    transfer_fields,
    uop_fields,
)
from e2compile.targets.vta.simulator.machine import Machine, get, put, unless, when
from e2compile.targets.vta.simulator.simulator import INTERPRETER, Fault, scratchpads
from e2compile.targets.vta.simulator.transfers import LOADS, Fields, store

_SHIFT_BITS = 5
# Partial sums of a row's products: as many multiply-adds are under way at a time.
_CHAINS = 4


def interpreter(config: Config) -> PrimFunc:
    """(words, order, dram, uop, inp, wgt, acc, out, status): runs instruction order[0], order[1], ...

    words: int64 [n, 2], as encoded; order: int32 [steps]; dram: int8 [size], its index a physical address;
    scratchpads as `scratchpads` says; status: int32 [2], 0 or the Fault that ended the run, at which
    instruction. The first page of DRAM, where a forgotten address leads, belongs to no buffer.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(INTERPRETER)
        T.func_attr({"tirx.noalias": True})
        number, steps, size = (tirx.Var(name, "int64") for name in ("number", "steps", "size"))
        words = T.arg("words", T.buffer((number, 2), "int64", layout=None))
        order = T.arg("order", T.buffer((steps,), "int32", layout=None))
        dram = T.arg("dram", T.buffer((size,), "int8", layout=None))
        pads = {
            name: T.arg(name, T.buffer(shape, dtype, layout=None))
            for name, (dtype, shape) in scratchpads(config).items()
        }
        status = T.arg("status", T.buffer((2,), "int32", layout=None))
        machine = Machine(config, size, dram, **pads, status=status)
        T.buffer_store(status, 0, [0])
        with T.serial(0, steps) as step, when(status[0] == 0):
            position = T.bind(order[step])
            T.buffer_store(status, position, [1])
            _dispatch(machine, [T.bind(words[position, half]) for half in range(2)])
    return builder.get()


@cache
def compiled(config: Config) -> Callable[..., None]:
    """The function compiled for this CPU, in memory. It takes NumPy arrays too, if aligned to 64 bytes."""
    target = tvm.target.Target({"kind": "llvm", "mcpu": str(codegen.llvm_get_system_cpu())})
    # CSE would bind vectors of booleans, which TVM's bound analysis cannot take
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_cse_tir": True}):
        return tvm.compile(interpreter(config), target)[INTERPRETER]  # type: ignore[no-any-return]


def _dispatch(machine: Machine, words: list[Any]) -> None:
    opcode = T.bind(T.Cast("int32", words[0] & 7))
    memory = T.bind(_value(words, next(f for f in transfer_fields() if f.name == "memory")))
    is_load = opcode == Opcode.LOAD
    is_memory = tirx.any(*(memory == m for m in LOADS))
    is_store = T.And(opcode == Opcode.STORE, memory == Memory.OUT)
    known = tirx.any(opcode == Opcode.GEMM, opcode == Opcode.ALU, opcode == Opcode.FINISH)
    bad_memory = T.And(opcode <= Opcode.STORE, T.Not(T.Or(T.And(is_load, is_memory), is_store)))
    bad_opcode = T.Not(T.Or(known, opcode <= Opcode.STORE))
    with unless(machine, (bad_memory, Fault.MEMORY), (bad_opcode, Fault.OPCODE)):
        for which, load in LOADS.items():
            with when(T.And(is_load, memory == which)):
                load(machine, _decoded(words, transfer_fields()))
        with when(is_store):
            store(machine, _decoded(words, transfer_fields()))
        with when(opcode == Opcode.GEMM):
            _gemm(machine, _decoded(words, gemm_fields(machine.config)))
        with when(opcode == Opcode.ALU):
            _alu(machine, _decoded(words, alu_fields(machine.config)))


def _decoded(words: list[Any], fields: Sequence[Field]) -> Fields:
    return {field.name: T.bind(_value(words, field)) for field in fields}


def _value(words: list[Any], field: Field) -> Any:
    """A field, as int32, or int64 where it has as many bits."""
    if field.signed:
        top = T.shift_left(words[field.word], T.int64(64 - field.shift - field.width))
        value = T.shift_right(top, T.int64(64 - field.width))
    else:
        value = T.shift_right(words[field.word], T.int64(field.shift)) & T.int64((1 << field.width) - 1)
    return T.Cast("int64" if field.width >= 32 else "int32", value)


@contextmanager
def _uops(machine: Machine, fields: Fields, depths: dict[str, tuple[int, Fault]]) -> Iterator[None]:
    """Runs its body unless an index of the micro-ops, at the end of both loops, is beyond its scratchpad."""
    f = fields
    most = {name: T.alloc_buffer((1,), "int32", layout=None) for name in depths}
    for buffer in most.values():
        T.buffer_store(buffer, 0, [0])
    runs = tirx.all(f["loop_0"] > 0, f["loop_1"] > 0, f["uop_end"] > f["uop_begin"])
    bad_range = f["uop_end"] > 1 << machine.config.log_uops
    with unless(machine, (bad_range, Fault.UOP)), when(runs):
        with T.serial(f["uop_begin"], f["uop_end"]) as position:
            word = T.bind(machine.uop[position])
            for name, buffer in most.items():
                T.buffer_store(buffer, tirx.max(buffer[0], _index(machine.config, word, name)), [0])
        beyond = [
            (most[name][0] + _moved(f, name, f["loop_0"] - 1, f["loop_1"] - 1) >= 1 << log_depth, fault)
            for name, (log_depth, fault) in depths.items()
        ]
        with unless(machine, *beyond):
            yield


@contextmanager
def _each(machine: Machine, fields: Fields, *names: str) -> Iterator[list[Any]]:
    """The nest of a GEMM or ALU instruction; gives the indices of these names."""
    f = fields
    with T.serial(0, f["loop_0"]) as i, T.serial(0, f["loop_1"]) as j:
        starts = [T.bind(_moved(f, name, i, j)) for name in names]
        with T.serial(f["uop_begin"], f["uop_end"]) as position:
            word = T.bind(machine.uop[position])
            indices = zip(names, starts, strict=True)
            yield [T.bind(_index(machine.config, word, name) + start) for name, start in indices]


def _index(config: Config, word: Any, name: str) -> Any:
    """An index that a micro-op holds."""
    field = next(f for f in uop_fields(config) if f.name == name)
    return T.shift_right(word, T.int32(field.shift)) & T.int32((1 << field.width) - 1)


def _moved(fields: Fields, name: str, i: Any, j: Any) -> Any:
    return i * fields[f"{name}_0"] + j * fields[f"{name}_1"]


def _gemm(machine: Machine, fields: Fields) -> None:
    config, lanes = machine.config, machine.lanes
    depths = {
        "dst": (config.log_accs, Fault.ACC),
        "src": (config.log_inps, Fault.INP),
        "wgt": (config.log_wgts, Fault.WGT),
    }
    with _uops(machine, fields, depths), T.If(fields["reset"] == 1):
        with T.Then(), _each(machine, fields, "dst") as (dst,):
            put(machine.acc, dst * lanes, T.broadcast(T.int32(0), lanes), lanes)
        with T.Else(), _each(machine, fields, "dst", "src", "wgt") as (dst, src, wgt):
            _multiply(machine, dst * lanes, src * lanes, wgt * (config.block * config.block))


def _multiply(machine: Machine, dst: Any, src: Any, wgt: Any) -> None:
    """acc[dst] += inp[src] . wgt[wgt]^T, from flat indices of their first lanes."""
    block = machine.config.block
    wide = f"float32x{block}"
    weights = [T.bind(get(machine.wgt, wgt + k * block, block)) for k in range(block)]
    for row in range(machine.config.batch):
        sums: list[Any] = [T.broadcast(T.float32(0), block)] * _CHAINS
        for k, column in enumerate(weights):
            value = T.broadcast(machine.inp[src + row * block + k], block)
            chain = k % _CHAINS
            sums[chain] = T.bind(T.call_llvm_pure_intrin(wide, "llvm.fmuladd", value, column, sums[chain]))
        total = (sums[0] + sums[1]) + (sums[2] + sums[3])
        index = dst + row * block
        _result(machine, index, get(machine.acc, index, block) + T.Cast(f"int32x{block}", total), block)


def _result(machine: Machine, index: Any, value: Any, lanes: int) -> None:
    """Writes accumulators, and their low bits to OUT."""
    value = T.bind(value)
    put(machine.acc, index, value, lanes)
    put(machine.out, index, T.Cast(f"int8x{lanes}", value), lanes)


def _alu(machine: Machine, fields: Fields) -> None:
    config, lanes = machine.config, machine.lanes
    op, immediate = fields["alu_op"], fields["imm"]
    depth = (config.log_accs, Fault.ACC)
    bad_op = (op > AluOp.SHR, Fault.ALU_OP)
    with unless(machine, bad_op), _uops(machine, fields, {"dst": depth, "src": depth}):
        for which, apply in _APPLY.items():
            with when(op == which), _each(machine, fields, "dst", "src") as (dst, src):
                left, other = (T.bind(get(machine.acc, index * lanes, lanes)) for index in (dst, src))
                choice = T.broadcast(fields["use_imm"] == 1, lanes)
                right = T.bind(T.Select(choice, T.broadcast(immediate, lanes), other))
                _result(machine, dst * lanes, apply(left, right, lanes), lanes)


def _shifted(left: Any, right: Any, lanes: int) -> Any:
    up = T.broadcast(T.int32(32 - _SHIFT_BITS), lanes)
    zero = T.broadcast(T.int32(0), lanes)
    amount = T.bind(T.shift_right(T.shift_left(right, up), up))
    return T.shift_left(T.shift_right(left, tirx.max(amount, zero)), tirx.max(zero - amount, zero))


_APPLY: dict[AluOp, Callable[[Any, Any, int], Any]] = {
    AluOp.MIN: lambda left, right, _: tirx.min(left, right),
    AluOp.MAX: lambda left, right, _: tirx.max(left, right),
    AluOp.ADD: lambda left, right, _: left + right,
    AluOp.SHR: _shifted,
}
