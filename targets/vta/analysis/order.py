"""In which order a stream runs: fetched in order into a queue for each stage, tokens between neighbours.

Which instruction waits for which does not depend on time: the nth pop of a token waits for its nth push.
So one walk finds whether a stream gets stuck, and what is certain to be done before each instruction.
"""

from collections import deque
from collections.abc import Sequence

from e2compile.targets.vta.isa.instructions import Instruction, Stage

QUEUE = 512  # instructions that may wait for a stage, the one at its head too: both designs' depth

Link = tuple[int, int]  # stages; a token goes from the first to the second
LINKS: tuple[Link, ...] = (
    (Stage.LOAD, Stage.COMPUTE),
    (Stage.COMPUTE, Stage.LOAD),
    (Stage.COMPUTE, Stage.STORE),
    (Stage.STORE, Stage.COMPUTE),
)


# The links from the stage before each stage, from the one after it, to the one before, to the one after.
_NEIGHBOURS: dict[Stage, tuple[Link | None, ...]] = {
    stage: tuple(
        link if link in LINKS else None
        for link in ((stage - 1, stage), (stage + 1, stage), (stage, stage - 1), (stage, stage + 1))
    )
    for stage in Stage
}


def links(instruction: Instruction) -> tuple[list[Link], list[Link]]:
    """The links that an instruction pops a token from and pushes one to. A stage at an end has no stage
    beyond it, and no link."""
    tokens = instruction.tokens
    before, after, to_before, to_after = _NEIGHBOURS[instruction.stage]
    pops = [link for link, used in ((before, tokens.pop_prev), (after, tokens.pop_next)) if used and link]
    pushes = [
        link for link, used in ((to_before, tokens.push_prev), (to_after, tokens.push_next)) if used and link
    ]
    return pops, pushes


class Order:
    """A stream's instructions in an order in which they can run, `sequence`, as far as they get, the first
    `fetched` of them out of memory.

    `queues` are the instructions of each stage; `pushes` and `pops` those that push to and pop from each
    link, in order. Of an instruction in `sequence`, `awaited` are those whose tokens it pops, and `clocks`
    says how many instructions of each stage are certainly done when it starts: of its own, those before it.
    """

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        self.sequence: list[int] = []
        self.fetched = 0
        self.awaited: list[tuple[int, ...]] = [()] * len(instructions)
        self.clocks: list[tuple[int, ...]] = [(0,) * len(Stage)] * len(instructions)
        self.queues: dict[Stage, list[int]] = {stage: [] for stage in Stage}
        self.pushes: dict[Link, list[int]] = {link: [] for link in LINKS}
        self.pops: dict[Link, list[int]] = {link: [] for link in LINKS}
        self._stages = [instruction.stage for instruction in instructions]
        self._links = [links(instruction) for instruction in instructions]
        for i, (pops, pushes) in enumerate(self._links):
            self.queues[self._stages[i]].append(i)
            for link in pops:
                self.pops[link].append(i)
            for link in pushes:
                self.pushes[link].append(i)
        self._walk()

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

    def _walk(self) -> None:
        """Run whatever can run until nothing can."""
        waiting, done = dict.fromkeys(Stage, 0), dict.fromkeys(Stage, 0)
        tokens: dict[Link, deque[int]] = {link: deque() for link in LINKS}
        progress = True
        while progress:
            progress = False
            while self.fetched < len(self._stages) and waiting[self._stages[self.fetched]] < QUEUE:
                waiting[self._stages[self.fetched]] += 1
                self.fetched += 1
            for stage, queue in self.queues.items():
                while waiting[stage] and all(tokens[link] for link in self._links[queue[done[stage]]][0]):
                    self._start(queue[done[stage]], queue[done[stage] - 1] if done[stage] else None, tokens)
                    waiting[stage] -= 1
                    done[stage] += 1
                    progress = True

    def _start(self, i: int, previous: int | None, tokens: dict[Link, deque[int]]) -> None:
        pops, pushes = self._links[i]
        self.awaited[i] = tuple(tokens[link].popleft() for link in pops)
        before = [self._after(j) for j in (*self.awaited[i], *([] if previous is None else [previous]))]
        if before:
            self.clocks[i] = tuple(map(max, zip(*before, strict=True)))
        for link in pushes:
            tokens[link].append(i)
        self.sequence.append(i)

    def _after(self, i: int) -> tuple[int, ...]:
        """What is done when instruction i is."""
        return tuple(
            count + (stage == self._stages[i]) for stage, count in zip(Stage, self.clocks[i], strict=True)
        )
