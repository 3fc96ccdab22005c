"""Whether a stream means the same on every VTA, and neither gets stuck nor races on any.

What is allowed is what all of the accelerator's implementations do alike: the functional simulator, the HLS
design and the Chisel one. Operations that some lack, such as MUL, cannot be said in instructions.py. Three
kinds of rules: of an instruction by itself (rules.py), of tokens and FINISH (here), of scratchpads that two
stages share (sharing.py). Not checked, as it depends on data: sums that overflow, shifts by a register.
"""

from collections.abc import Iterator, Mapping, Sequence, Sized

from e2compile.errors import UsageError
from e2compile.targets.vta.analysis.footprint import NOTHING, Footprint, MicroOps, footprint
from e2compile.targets.vta.analysis.order import LINKS, QUEUE, Order
from e2compile.targets.vta.analysis.rules import encoding, rules
from e2compile.targets.vta.analysis.sharing import conflicts
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Finish, Instruction, Stage, Uop
from e2compile.targets.vta.isa.text import line

LARGEST_TRANSFER = 32 << 20  # bytes of instructions, and of micro-ops: the runtime's VTA_MAX_XFER
TOKENS = 255  # that may wait in one queue: Chisel's counters saturate there
_SHOWN = 20

Found = Iterator[tuple[int, str]]  # an instruction's number, what is wrong with it


def check(
    instructions: Sequence[Instruction],
    uops: Sequence[Uop],
    config: Config,
    blocks: Mapping[str, int] | None = None,
) -> None:
    """Raises UsageError, which lists what `violations` finds."""
    found = violations(instructions, uops, config, blocks)
    if found:
        shown = found[:_SHOWN] + [f"and {len(found) - _SHOWN} more"] * (len(found) > _SHOWN)
        raise UsageError(f"the stream breaks VTA's rules {len(found)} times:\n  " + "\n  ".join(shown))


def violations(
    instructions: Sequence[Instruction],
    uops: Sequence[Uop],
    config: Config,
    blocks: Mapping[str, int] | None = None,
) -> list[str]:
    """What is wrong with a stream, each with the instruction's number and text; empty if nothing.

    Addresses are those of a Stream: micro-ops are loaded from `uops` by index. `blocks` are the sizes of its
    buffers, by the names of their memories, in elements; where they are given, transfers stay inside.
    """
    found: list[tuple[int, str]] = []
    footprints: list[Footprint] = []
    micro_ops = MicroOps(uops, config)
    for i, instruction in enumerate(instructions):
        wrong = list(encoding(instruction, config))
        if wrong:
            footprints.append(NOTHING)
        else:
            loaded = micro_ops.of(instruction)
            wrong += rules(instruction, loaded, config, {"uop": len(uops)} | dict(blocks or {}))
            footprints.append(footprint(instruction, loaded, config))
        found += ((i, what) for what in wrong)
    order = Order(instructions)
    found += _tokens(order)
    found += _finish(instructions, order)
    found += conflicts(instructions, footprints, order, config)
    whole = [
        f"{size} bytes of {what}, {LARGEST_TRANSFER} at most"
        for what, size in transferred(instructions, uops).items()
        if size > LARGEST_TRANSFER
    ]
    if not instructions:
        whole.append("there are no instructions")
    return whole + [f"{i}: {line(instructions[i])}: {what}" for i, what in sorted(found)]


def transferred(instructions: Sized, uops: Sized) -> dict[str, int]:
    """Bytes of instructions and of micro-ops, which a run may have LARGEST_TRANSFER of."""
    return {"instructions": 16 * len(instructions), "micro-ops": 4 * len(uops)}


def _tokens(order: Order) -> Found:
    for i in order.stuck:
        if i < order.fetched:
            yield i, "never starts: a token that it pops is never pushed"
        else:
            yield i, f"is never fetched: {QUEUE} instructions wait for another stage"
    for (source, destination), pushes, pops in zip(LINKS, order.pushes, order.pops, strict=True):
        name = f"from {source.name} to {destination.name}"
        if len(pushes) > len(pops):
            yield pushes[len(pops)], f"its token {name} is never popped"
        for i, first in zip([] if order.stuck else pushes[TOKENS:], pops, strict=False):
            if order.may_come_before(i, first):
                yield i, f"its token {name} may be one of more than {TOKENS} that wait"
                break


def _finish(instructions: Sequence[Instruction], order: Order) -> Found:
    last = len(instructions) - 1
    for i, instruction in enumerate(instructions):
        if isinstance(instruction, Finish) and i < last:
            yield i, "FINISH is not the last instruction"
    if instructions and not isinstance(instructions[last], Finish):
        yield last, "the last instruction is not FINISH"
    elif instructions and not order.stuck:
        for stage in (Stage.LOAD, Stage.STORE):
            late = order.queues[stage][order.clocks[last][stage] :]
            if late:
                yield late[-1], "may run after FINISH, which waits for no token after it"
