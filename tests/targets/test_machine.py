"""What Linux says of a CPU, as the shape that kernels are given; and LLVM agrees."""

import pytest
from tvm.target import codegen

from e2compile.targets.llvm.build import tvm_target
from e2compile.targets.llvm.machine import Machine, host, machine

X86 = """processor\t: 0
model name\t: A CPU
flags\t\t: sse2 {}
bugs\t\t:

"""


@pytest.mark.parametrize(
    ("flags", "lanes", "registers", "dots"),
    [
        ("", 4, 16, False),
        ("avx avx2", 8, 16, False),
        ("avx avx2 avx_vnni", 8, 16, True),
        ("avx2 avx512f avx512vl", 16, 32, False),
        ("avx2 avx512f avx512vl avx512_vnni", 16, 32, True),
    ],
)
def test_x86_by_its_flags(flags: str, lanes: int, registers: int, dots: bool) -> None:
    assert machine(2 * X86.format(flags), 2) == Machine(lanes, registers, 2, dots, "A CPU")


def test_arm_by_its_features() -> None:
    text = "processor\t: 0\nFeatures\t: fp asimd\nCPU part\t: 0xd40\n"
    assert machine(text, 1) == Machine(4, 32, 1, False, "0xd40")


def test_llvm_sees_the_same_vector_unit() -> None:
    features = set(codegen.llvm_get_cpu_features(tvm_target()))
    found = next((lanes for name, lanes in {"avx512f": 16, "avx2": 8}.items() if name in features), 4)
    assert host().lanes == found
