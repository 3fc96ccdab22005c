"""Orders in which the three stages may run encoded instructions, for the simulator to run them in."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from e2compile.errors import DeviceError
from e2compile.targets.vta.analysis.order import LINKS, NEIGHBOURS, Link, Walk
from e2compile.targets.vta.isa.instructions import Memory, Opcode, Stage, Words, transfer_fields

LOAD_FIRST = (Stage.LOAD, Stage.COMPUTE, Stage.STORE)
STORE_FIRST = (Stage.STORE, Stage.COMPUTE, Stage.LOAD)


def execution_order(words: Words, first: Sequence[Stage] | None = None) -> NDArray[np.int32]:
    """The instructions' numbers in an order that hardware may run them in.

    `first` says which of the stages that can go on does; None keeps as near to the stream as tokens allow.
    Raises DeviceError where the stages stop, where FINISH is not the last, and where tokens are left over.
    """
    heads = _Heads(words)
    if first is None and heads.may_run_in_place:
        order = np.arange(len(words), dtype=np.int32)
    else:
        order = _by_tokens(heads, first)
    finishes = np.count_nonzero(heads.opcodes == Opcode.FINISH)
    if finishes != 1:
        raise DeviceError(f"the stream has {finishes or 'no'} FINISH, not one")
    if heads.opcodes[order[-1]] != Opcode.FINISH:
        raise DeviceError(f"instruction {order[-1]} can run after FINISH, when the host no longer waits")
    left = [_name(link) for link, number in enumerate(heads.balance) if number]
    if left:
        raise DeviceError(f"tokens {', '.join(left)} are left over: the next run would start with them")
    return order


class _Heads:
    """What the heads of all instructions say: opcodes, stages, and the links they pop from and push to."""

    def __init__(self, words: Words) -> None:
        fields = {f.name: f for f in transfer_fields()}

        def values(name: str) -> NDArray[np.int64]:
            field = fields[name]
            cut = words[:, field.word] >> np.uint64(field.shift) & np.uint64((1 << field.width) - 1)
            return cut.astype(np.int64)

        self.opcodes = values("opcode")
        is_input = np.isin(values("memory"), (Memory.INP, Memory.WGT))
        self.stages = np.full(len(words), Stage.COMPUTE, np.int64)
        self.stages[(self.opcodes == Opcode.LOAD) & is_input] = Stage.LOAD
        self.stages[self.opcodes == Opcode.STORE] = Stage.STORE
        self.pops = np.zeros((len(words), len(LINKS)), bool)
        self.pushes = np.zeros((len(words), len(LINKS)), bool)
        pops = [(values(f"pop_{side}") == 1, self.pops) for side in ("prev", "next")]
        pushes = [(values(f"push_{side}") == 1, self.pushes) for side in ("prev", "next")]
        for stage, neighbours in NEIGHBOURS.items():
            for link, (flags, links) in zip(neighbours, (*pops, *pushes), strict=True):
                used = (self.stages == stage) & flags
                if link is not None:
                    links[:, link] |= used
                elif used.any():
                    raise DeviceError(
                        f"instruction {np.argmax(used)} has a token for a stage that does not exist"
                    )

    @property
    def balance(self) -> list[int]:
        """The tokens that each link holds in the end."""
        return [int(pushes - pops) for pushes, pops in zip(self.pushes.sum(0), self.pops.sum(0), strict=True)]

    @property
    def may_run_in_place(self) -> bool:
        """Whether each token is there by the time that it is taken if instructions run as they are listed."""
        ahead = self.pushes.cumsum(0) - self.pushes - self.pops.cumsum(0)
        return bool((ahead >= 0).all())


def _by_tokens(heads: _Heads, first: Sequence[Stage] | None) -> NDArray[np.int32]:
    stages = [Stage(stage) for stage in heads.stages.tolist()]
    pops, pushes = ([np.flatnonzero(row).tolist() for row in links] for links in (heads.pops, heads.pushes))
    walk = Walk(stages, pops, pushes)
    order: list[int] = []
    while len(order) < len(stages):
        ready = [stage for stage in first or Stage if walk.can_start(stage)]
        if not ready:
            raise DeviceError(_deadlock(walk, pops, len(stages) - walk.fetched))
        stage = ready[0] if first else min(ready, key=lambda stage: walk.queues[stage][0])
        order.append(walk.start(stage)[0])
    return np.array(order, np.int32)


def _deadlock(walk: Walk, pops: Sequence[Sequence[Link]], unfetched: int) -> str:
    heads = [
        f"instruction {queue[0]} for {' and '.join(_name(t) for t in pops[queue[0]] if not walk.tokens[t])}"
        for queue in walk.queues.values()
        if queue
    ]
    full = f", with {unfetched} more behind a full queue" if unfetched else ""
    return f"the stream stops, waiting for tokens: {', '.join(heads)}{full}"


def _name(link: Link) -> str:
    source, destination = LINKS[link]
    return f"{source.name.lower()} to {destination.name.lower()}"
