"""In which order a stream runs: fetched in order into a queue for each stage, tokens between neighbours.

Which instruction waits for which does not depend on time: the nth pop of a token waits for its nth push.
So one walk finds whether a stream gets stuck, and what is certain to be done before each instruction.
"""

from collections import deque
from collections.abc import Sequence

from e2compile.targets.vta.isa.instructions import Instruction, Stage

QUEUE = 512  # instructions that may wait for a stage, the one at its head too: both designs' depth

Link = int  # a queue of tokens, by its place here: a token goes from the first stage to the second
LINKS: tuple[tuple[Stage, Stage], ...] = (
    (Stage.LOAD, Stage.COMPUTE),
    (Stage.COMPUTE, Stage.LOAD),
    (Stage.COMPUTE, Stage.STORE),
    (Stage.STORE, Stage.COMPUTE),
)


def _link(source: int, destination: int) -> Link | None:
    return next((i for i, link in enumerate(LINKS) if link == (source, destination)), None)


# Of each stage the links that pop_prev, pop_next, push_prev and push_next mean. A stage at an end has no
# stage beyond it, and no link.
NEIGHBOURS: dict[Stage, tuple[Link | None, ...]] = {
    stage: (
        _link(stage - 1, stage),
        _link(stage + 1, stage),
        _link(stage, stage - 1),
        _link(stage, stage + 1),
    )
    for stage in Stage
}


def links(instruction: Instruction) -> tuple[list[Link], list[Link]]:
    """The links that an instruction pops a token from and pushes one to."""
    tokens = instruction.tokens
    used = tokens.pop_prev, tokens.pop_next, tokens.push_prev, tokens.push_next
    found = list(zip(NEIGHBOURS[instruction.stage], used, strict=True))
    pops, pushes = (
        [link for link, is_used in part if is_used and link is not None] for part in (found[:2], found[2:])
    )
    return pops, pushes


class Walk:
    """A stream on its way: instructions are fetched into their stages' `queues`, where the first one starts
    once the tokens that it pops are there.

    `tokens` are the instructions that pushed what waits in each link; `fetched` counts what is out of memory.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        pops: Sequence[Sequence[Link]],
        pushes: Sequence[Sequence[Link]],
    ) -> None:
        self._stages, self._pops, self._pushes = stages, pops, pushes
        self.fetched = 0
        self.queues: dict[Stage, deque[int]] = {stage: deque() for stage in Stage}
        self.tokens: list[deque[int]] = [deque() for _ in LINKS]
        self._fetch()

    def can_start(self, stage: Stage) -> bool:
        queue = self.queues[stage]
        return bool(queue) and all(self.tokens[link] for link in self._pops[queue[0]])

    def start(self, stage: Stage) -> tuple[int, tuple[int, ...]]:
        """Run a stage's next instruction, which can start: its number, and whose tokens it pops."""
        number = self.queues[stage].popleft()
        awaited = tuple(self.tokens[link].popleft() for link in self._pops[number])
        for link in self._pushes[number]:
            self.tokens[link].append(number)
        self._fetch()
        return number, awaited

    def _fetch(self) -> None:
        while self.fetched < len(self._stages):
            queue = self.queues[self._stages[self.fetched]]
            if len(queue) == QUEUE:
                return
            queue.append(self.fetched)
            self.fetched += 1


class Order:
    """A stream's instructions in an order in which they can run, `sequence`, as far as they get, the first
    `fetched` of them out of memory.

    `queues` are the instructions of each stage; `pushes` and `pops` those that push to and pop from each
    link, in order. Of an instruction in `sequence`, `awaited` are those whose tokens it pops, and `clocks`
    says how many instructions of each stage are certainly done when it starts: of its own, those before it.
    """

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        self.sequence: list[int] = []
        self.awaited: list[tuple[int, ...]] = [()] * len(instructions)
        self.clocks: list[tuple[int, ...]] = [(0,) * len(Stage)] * len(instructions)
        self.queues: dict[Stage, list[int]] = {stage: [] for stage in Stage}
        self.pushes: list[list[int]] = [[] for _ in LINKS]
        self.pops: list[list[int]] = [[] for _ in LINKS]
        self._stages = [instruction.stage for instruction in instructions]
        found = [links(instruction) for instruction in instructions]
        for i, (pops, pushes) in enumerate(found):
            self.queues[self._stages[i]].append(i)
            for link in pops:
                self.pops[link].append(i)
            for link in pushes:
                self.pushes[link].append(i)
        walk = Walk(self._stages, [pops for pops, _ in found], [pushes for _, pushes in found])
        self._run(walk)
        self.fetched = walk.fetched

    @property
    def stuck(self) -> list[int]:
        """The instructions that never start although those before them in their stage are done."""
        started = set(self.sequence)
        waiting = (next((i for i in queue if i not in started), None) for queue in self.queues.values())
        return sorted(i for i in waiting if i is not None)

    def may_come_before(self, i: int, other: int) -> bool:
        """Whether instruction i may run before one of another stage that can run is done."""
        stage = self._stages[other]
        return self.clocks[i][stage] <= self.clocks[other][stage]

    def _run(self, walk: Walk) -> None:
        """Run whatever can run until nothing can."""
        last: dict[Stage, int] = {}
        while any(walk.can_start(stage) for stage in Stage):
            for stage in Stage:
                while walk.can_start(stage):
                    i, awaited = walk.start(stage)
                    before = awaited if stage not in last else (*awaited, last[stage])
                    if before:
                        self.clocks[i] = tuple(map(max, zip(*map(self._after, before), strict=True)))
                    self.awaited[i], last[stage] = awaited, i
                    self.sequence.append(i)

    def _after(self, i: int) -> tuple[int, ...]:
        """What is done when instruction i is."""
        return tuple(
            count + (stage == self._stages[i]) for stage, count in zip(Stage, self.clocks[i], strict=True)
        )
