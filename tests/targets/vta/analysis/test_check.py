"""The checker reports each rule that a stream breaks, at the instruction that does, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from e2compile.errors import UsageError
from e2compile.targets.vta.analysis.check import check, violations
from e2compile.targets.vta.analysis.order import QUEUE, links
from e2compile.targets.vta.isa.config import named
from e2compile.targets.vta.isa.instructions import Finish, Instruction, Tokens, Uop
from e2compile.targets.vta.isa.text import assemble
from tests.targets.vta.cases import random_program

CONFIG = named("pynq")
UOPS = [Uop(i, i, i) for i in range(4)] + [Uop(0, 0), Uop(1, 0), Uop(0, 0)]

# Two tiles, the second loaded while the first is computed.
GOOD = """
load uop rows=1 columns=7 stride=7
load inp rows=1 columns=4 stride=4
load wgt rows=1 columns=4 stride=4 push=next
reset uops=0:4 src=1,1
gemm uops=0:4 loops=3,1 pop=prev push=prev
shr uops=0:4 imm=8 push=next
load inp sram=4 dram=4 rows=2 columns=4 stride=8 pad=1,1,1,1
load inp rows=1 columns=1 stride=1 pop=next
load inp dram=1 rows=1 columns=4 stride=4 push=next
store rows=1 columns=4 stride=4 pop=prev push=prev
reset uops=0:4 pop=prev,next
gemm uops=0:4
min uops=0:4 imm=127 push=next
store dram=4 rows=1 columns=4 stride=4 pop=prev push=prev
load uop pop=next
finish
"""


def lines() -> list[str]:
    return GOOD.strip().splitlines()


def found(text: list[str], uops: list[Uop] = UOPS) -> list[str]:
    return violations(assemble("\n".join(text)), uops, CONFIG)


def with_line(number: int, text: str) -> list[str]:
    content = lines()
    content[number] = text
    return content


def test_a_good_stream_passes() -> None:
    check(assemble(GOOD), UOPS, CONFIG, {"inp": 16, "wgt": 4, "out": 8})


# The line of GOOD that is replaced, by what, and what is then said of it.
BROKEN = {
    "field": (4, "gemm uops=0:4 loops=16384,1 pop=prev push=prev", "loop_0 = 16384 does not fit 14 bits"),
    "finish": (15, "finish pop=prev", "FINISH takes no tokens"),
    "before load": (1, "load inp rows=1 columns=4 stride=4 pop=prev", "no stage is before LOAD"),
    "after store": (9, "store rows=1 columns=4 stride=4 pop=prev push=prev,next", "no stage is after STORE"),
    "no rows": (11, "load acc columns=4", "a no-op has neither rows nor columns"),
    "no columns": (11, "load acc rows=4", "a no-op has neither rows nor columns"),
    "padded no-op": (11, "load acc pad=1,0,0,0", "a no-op has no padding"),
    "padded weights": (2, "load wgt rows=1 columns=4 stride=4 pad=0,0,0,1 push=next", "WGT has no padding"),
    "padded micro-ops": (0, "load uop rows=1 columns=7 pad=0,1,0,0", "UOP has no padding"),
    "padded store": (9, "store rows=1 columns=4 pad=1,0,0,0 pop=prev push=prev", "OUT has no padding"),
    "rows of micro-ops": (0, "load uop rows=2 columns=7", "micro-ops are loaded as one row"),
    "past WGT": (2, "load wgt sram=1021 rows=1 columns=4 push=next", "it ends at element 1025 of WGT"),
    "past INP": (6, "load inp sram=2044 rows=1 columns=4 pad=0,0,0,1", "it ends at element 2049 of INP"),
    "past the UOP buffer": (
        0,
        "load uop dram=1 rows=1 columns=7",
        "it ends at block 8 of the buffer",
    ),
    "past UOP": (4, "gemm uops=0:8193 pop=prev push=prev", "it ends at micro-op 8193 of 8192"),
    "no micro-ops": (4, "gemm uops=2:2 pop=prev push=prev", "it runs no micro-op"),
    "no iterations": (4, "gemm uops=0:4 loops=1,0 pop=prev push=prev", "it runs no micro-op"),
    "not loaded": (4, "gemm uops=6:8 pop=prev push=prev", "it runs micro-ops that are not loaded"),
    "past ACC": (
        4,
        "gemm uops=0:4 loops=2,1 dst=2045,0 pop=prev push=prev",
        "it reaches element 2048 of ACC",
    ),
    "reset past INP": (3, "reset uops=0:4 loops=1,2 src=0,2045", "it reaches element 2048 of INP"),
    "reset past WGT": (3, "reset uops=0:4 loops=1,2 wgt=0,1021", "it reaches element 1024 of WGT"),
    "a src factor": (5, "shr uops=0:4 loops=2,1 src=1,0 imm=8 push=next", "the factors of src must be"),
    "a src": (5, "shr uops=5:6 imm=8 push=next", "src must be dst in each micro-op"),
    "a shift": (5, "shr uops=0:4 imm=16 push=next", "a shift is by 15 bits at most"),
    "a shift left": (5, "shr uops=0:4 imm=-16 push=next", "a shift is by 15 bits at most"),
    "returns within": (3, "reset uops=4:7", "an accumulator returns after 2 micro-ops"),
    "returns at once": (4, "gemm uops=0:1 loops=2,1 pop=prev push=prev", "returns after 1 micro-ops"),
    "returns in a loop": (4, "gemm uops=0:2 loops=1,9 pop=prev push=prev", "returns after 2 micro-ops"),
    "returns where a loop wraps": (
        4,
        "gemm uops=0:1 loops=2,5 dst=3,1 pop=prev push=prev",
        "returns after 2 micro-ops",
    ),
    "unwritten sources": (11, "add uops=0:4 src=1,1 loops=1,2 dst=4,4", "reads element 4 of ACC"),
    "finish in between": (11, "finish", "FINISH is not the last instruction"),
    "no finish": (15, "load uop", "the last instruction is not FINISH"),
    "a token too many": (11, "gemm uops=0:4 push=prev", "its token from COMPUTE to LOAD is never popped"),
    "a token too few": (
        13,
        "store dram=4 rows=1 columns=4 stride=4 pop=prev",
        "a token that it pops is never pushed",
    ),
    "work after finish": (14, "load uop", "may run after FINISH"),
    "products before the load": (4, "gemm uops=0:4 push=prev", "running beside 2: load wgt"),
    "a load before the products": (7, "load inp rows=1 columns=1", "running beside 8: load inp"),
    "a store before the shift": (9, "store rows=1 columns=4 push=prev", "running beside 5: shr"),
    "a reset before the store": (10, "reset uops=0:4 pop=prev", "running beside 9: store"),
    "unwritten weights": (4, "gemm uops=0:4 wgt=0,1 loops=1,2 pop=prev push=prev", "reads element 4 of WGT"),
    "unwritten accumulators": (4, "gemm uops=0:4 dst=2,0 loops=2,1 pop=prev push=prev", "element 4 of ACC"),
    "cleared when stored": (12, "reset uops=0:4 push=next", "which neither a GEMM nor the ALU wrote last"),
    "loaded when stored": (12, "load acc rows=1 columns=1 push=next", "which neither a GEMM nor the ALU"),
}
# Where it is said, if not there.
AT = {
    "cleared when stored": 13,
    "loaded when stored": 13,
    "a token too few": 14,
    "work after finish": 13,
    "a load before the products": 4,
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_reported_at_its_instruction(rule: str) -> None:
    number, text, message = BROKEN[rule]
    reports = found(with_line(number, text))
    assert any(message in r and r.startswith(f"{AT.get(rule, number)}: ") for r in reports), reports


def test_a_src_that_was_written_one_or_two_micro_ops_before_is_reported() -> None:
    for distance, is_hazard in ((1, True), (2, True), (3, False)):
        uops = [Uop(0, 10), Uop(1, 11), Uop(2, 12), Uop(3, 13)]
        uops[distance] = Uop(distance, 0)
        text = ["load uop rows=1 columns=4", "load acc rows=1 columns=20", "add uops=0:4", "finish"]
        reports = found(text, uops)
        assert bool(reports) == is_hazard
        assert all(f"after {distance} micro-ops" in report for report in reports)


@pytest.mark.parametrize(
    "loops", [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (2, 3), (3, 3), (2, 4), (4, 5), (3, 7)]
)
def test_distances_are_those_of_all_micro_ops_one_by_one(loops: tuple[int, int]) -> None:
    rng = np.random.default_rng(loops)
    setup = ["load uop rows=1 columns={}", "load acc rows=1 columns=99"]
    for _ in range(60):
        uops = [Uop(int(d), int(s)) for d, s in rng.integers(0, 9, (rng.integers(1, 5), 2))]
        dst, src = rng.integers(0, 4, (2, 2))
        offsets = [np.array([i, j]) for i in range(loops[0]) for j in range(loops[1])]
        written = [u.dst + int(o @ dst) for o in offsets for u in uops]
        read = [u.src + int(o @ src) for o in offsets for u in uops]
        near = [(i, j) for i in range(len(written)) for j in (i - 1, i - 2) if j >= 0]
        hazard = any(written[i] == written[j] or read[i] == written[j] for i, j in near)
        add = (
            f"add uops=0:{len(uops)} loops={loops[0]},{loops[1]} dst={dst[0]},{dst[1]} src={src[0]},{src[1]}"
        )
        text = [setup[0].format(len(uops)), setup[1], add, "finish"]
        assert bool(found(text, uops)) == hazard, (uops, add)


def test_blocks_limit_transfers() -> None:
    reports = violations(assemble(GOOD), UOPS, CONFIG, {"inp": 16, "wgt": 4, "out": 7})
    assert [report.partition(":")[0] for report in reports] == ["13"]
    assert "it ends at block 8 of the buffer for OUT, which has 7" in reports[0]


def test_the_chisel_design_holds_fewer_micro_ops() -> None:
    text = with_line(4, "gemm uops=0:2049 pop=prev push=prev")
    reports = violations(assemble("\n".join(text)), UOPS, named("de10nano"))
    assert any("4: " in report and "it ends at micro-op 2049 of 2048" in report for report in reports)


def test_a_full_queue_that_nothing_empties_is_reported() -> None:
    waits = ["load uop pop=prev"] + ["load uop"] * QUEUE
    load, end = "load inp push=next", "finish"
    assert found([*waits[:-1], load, end]) == []
    reports = found([*waits, load, end])
    assert any(r.startswith("0: ") and "is never pushed" in r for r in reports)
    assert any(r.startswith(f"{QUEUE + 1}: ") and f"{QUEUE} instructions wait" in r for r in reports)


def test_more_tokens_than_a_counter_counts_are_reported() -> None:
    def stream(count: int) -> list[str]:
        return ["load inp push=next"] * count + ["load uop pop=prev"] * count + ["finish"]

    assert found(stream(255)) == []
    reports = found(stream(256))
    assert len(reports) == 1
    assert reports[0].startswith("255: ")
    assert "more than 255" in reports[0]


def test_an_empty_stream_and_one_without_end_are_reported() -> None:
    assert found([]) == ["there are no instructions"]
    assert found(["load uop"]) == ["0: load uop: the last instruction is not FINISH"]


def test_more_than_fits_a_transfer_is_reported() -> None:
    count = (32 << 20) // 4 + 1
    assert violations([Finish()], _Repeated(Uop(0, 0), count), CONFIG) == [
        f"{4 * count} bytes of micro-ops, {32 << 20} at most"
    ]


class _Repeated(list[Uop]):
    """A list that claims to be long."""

    def __init__(self, uop: Uop, count: int) -> None:
        super().__init__([uop])
        self.count_of_all = count

    def __len__(self) -> int:
        return self.count_of_all


def test_all_is_said_at_once() -> None:
    text = with_line(2, "load wgt sram=1021 rows=1 columns=4 pad=0,0,0,1 push=next")
    with pytest.raises(UsageError, match=r"(?s)breaks VTA's rules 4 times.*WGT has no padding.*1026 of WGT"):
        check(assemble("\n".join(text)), UOPS, CONFIG)


@pytest.mark.parametrize("seed", range(0, 24, 2))
def test_no_token_of_a_program_without_spare_ones_can_be_left_out(seed: int) -> None:
    """Each pair of a push and its pop, taken out, leaves a race, or work that may run after FINISH."""
    case = random_program(CONFIG, seed)
    instructions = list(case.stream.instructions)
    for pushing, popping in _pairs(instructions):
        without = list(instructions)
        (i, push), (j, pop) = pushing, popping
        without[i] = replace(without[i], tokens=replace(without[i].tokens, **{push: False}))
        without[j] = replace(without[j], tokens=replace(without[j].tokens, **{pop: False}))
        reports = violations(without, case.stream.uops, CONFIG)
        assert any("no token keeps it" in r or "may run after FINISH" in r for r in reports), (i, j)


def _pairs(instructions: list[Instruction]) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    pushes: dict[tuple[int, int], list[tuple[int, str]]] = {}
    pops: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for i, instruction in enumerate(instructions):
        for name in ("prev", "next"):
            only_pop = replace(instruction, tokens=Tokens(**{f"pop_{name}": True}))
            only_push = replace(instruction, tokens=Tokens(**{f"push_{name}": True}))
            if getattr(instruction.tokens, f"pop_{name}"):
                pops.setdefault(links(only_pop)[0][0], []).append((i, f"pop_{name}"))
            if getattr(instruction.tokens, f"push_{name}"):
                pushes.setdefault(links(only_push)[1][0], []).append((i, f"push_{name}"))
    return [pair for link, side in pushes.items() for pair in zip(side, pops[link], strict=True)]
