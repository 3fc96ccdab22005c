"""Orders in which the three stages may run encoded instructions, for the simulator to run them in."""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from e2compile.errors import DeviceError
from e2compile.targets.vta.analysis.order import QUEUE
from e2compile.targets.vta.isa.instructions import Memory, Opcode, Stage, Words, transfer_fields

LOAD_FIRST = (Stage.LOAD, Stage.COMPUTE, Stage.STORE)
STORE_FIRST = (Stage.STORE, Stage.COMPUTE, Stage.LOAD)

_NAMES = ("load", "compute", "store")


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
    left = [_link(link) for link, number in enumerate(heads.balance) if number]
    if left:
        raise DeviceError(f"tokens {', '.join(left)} are left over: the next run would start with them")
    return order


class _Heads:
    """What the heads of all instructions say: opcodes, stages, and tokens taken from and put into links.

    A link is a queue of tokens: 0 and 1 lead from a stage to the next, 2 and 3 back.
    """

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
        tokens = {name: values(name) == 1 for name in ("pop_prev", "pop_next", "push_prev", "push_next")}
        prev, following = tokens["pop_prev"] | tokens["push_prev"], tokens["pop_next"] | tokens["push_next"]
        lost = (self.stages == Stage.LOAD) & prev | (self.stages == Stage.STORE) & following
        if lost.any():
            raise DeviceError(f"instruction {np.argmax(lost)} has a token for a stage that does not exist")
        self.pops = np.zeros((len(words), 4), bool)
        self.pushes = np.zeros((len(words), 4), bool)
        for stage in Stage:
            own = self.stages == stage
            if stage > Stage.LOAD:
                self.pops[:, stage - 1] |= own & tokens["pop_prev"]
                self.pushes[:, stage + 1] |= own & tokens["push_prev"]
            if stage < Stage.STORE:
                self.pops[:, stage + 2] |= own & tokens["pop_next"]
                self.pushes[:, stage] |= own & tokens["push_next"]

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
    stages = heads.stages.tolist()
    pops = [np.flatnonzero(row).tolist() for row in heads.pops]
    pushes = [np.flatnonzero(row).tolist() for row in heads.pushes]
    tokens = [0] * 4
    queues: list[deque[int]] = [deque() for _ in Stage]
    order: list[int] = []
    fetched = 0
    while len(order) < len(stages):
        while fetched < len(stages) and len(queues[stages[fetched]]) < QUEUE:
            queues[stages[fetched]].append(fetched)
            fetched += 1
        ready = [stage for stage in Stage if queues[stage] and all(tokens[t] for t in pops[queues[stage][0]])]
        if not ready:
            raise DeviceError(_deadlock(queues, pops, tokens, len(stages) - fetched))
        if first is None:
            stage = min(ready, key=lambda stage: queues[stage][0])
        else:
            stage = next(stage for stage in first if stage in ready)
        number = queues[stage].popleft()
        for link in pops[number]:
            tokens[link] -= 1
        for link in pushes[number]:
            tokens[link] += 1
        order.append(number)
    return np.array(order, np.int32)


def _deadlock(queues: list[deque[int]], pops: list[list[int]], tokens: list[int], waiting: int) -> str:
    heads = [
        f"instruction {queue[0]} for {' and '.join(_link(t) for t in pops[queue[0]] if not tokens[t])}"
        for queue in queues
        if queue
    ]
    full = f", with {waiting} more behind a full queue" if waiting else ""
    return f"the stream stops, waiting for tokens: {', '.join(heads)}{full}"


def _link(link: int) -> str:
    stage = link % 2
    near, far = _NAMES[stage], _NAMES[stage + 1]
    return f"{near} to {far}" if link < 2 else f"{far} to {near}"
