"""What Linux says of a CPU, as the shape that kernels are given; and LLVM agrees."""

import platform

import pytest
from tvm.target import codegen

from e2compile.errors import UsageError
from e2compile.runtime.host import features, name, parsed
from e2compile.targets.llvm.build import tvm_target
from e2compile.targets.llvm.machine import CPUS, Dot, Machine, host, named, shaped

X86 = """processor\t: 0
model name\t: A CPU
flags\t\t: sse2 {}
bugs\t\t:

"""
# LLVM's names of what decides.
UNITS = {"avx512f": 16, "avx2": 8}


def described(cpuinfo: str, threads: int) -> Machine:
    known = parsed(cpuinfo)
    return shaped(features(known), threads, name(known))


@pytest.mark.parametrize(
    ("flags", "lanes", "registers", "dots"),
    [
        ("", 4, 16, Dot.NONE),
        ("avx avx2", 8, 16, Dot.VPMADDWD),
        ("avx avx2 avx_vnni", 8, 16, Dot.VPDPBUSD),
        ("avx2 avx512f avx512vl", 16, 32, Dot.NONE),
        ("avx2 avx512f avx512vl avx512bw", 16, 32, Dot.VPMADDWD),
        ("avx2 avx512f avx512vl avx512bw avx512_vnni", 16, 32, Dot.VPDPBUSD),
    ],
)
def test_x86_by_its_flags(flags: str, lanes: int, registers: int, dots: Dot) -> None:
    found = described(2 * X86.format(flags), 2)
    assert (found.lanes, found.registers, found.threads) == (lanes, registers, 2)
    assert (found.dots, found.name, found.triple) == (dots, "A CPU", "")
    assert set(found.needs) <= set(flags.split())


@pytest.mark.parametrize(("features", "dots"), [("asimd", Dot.NONE), ("asimd asimddp", Dot.SDOT)])
def test_arm_by_its_features(features: str, dots: Dot) -> None:
    found = described(f"processor\t: 0\nFeatures\t: fp {features}\nCPU part\t: 0xd40\n", 1)
    assert (found.lanes, found.registers, found.dots, found.name) == (4, 32, dots, "0xd40")
    assert found.needs == tuple(features.split())


def test_llvm_sees_the_same_vector_unit() -> None:
    features = set(codegen.llvm_get_cpu_features(tvm_target()))
    assert host().lanes == next((lanes for name, lanes in UNITS.items() if name in features), 4)
    assert host().host.lacking() is None
    assert host().host.architecture == platform.machine()


@pytest.mark.parametrize("text", [f"{triple}:{cpu}" for triple, cpus in CPUS.items() for cpu in cpus])
def test_llvm_knows_the_cpus_of_other_machines(text: str) -> None:
    machine = named(text)
    features = set(codegen.llvm_get_cpu_features(tvm_target(machine)))
    assert machine.lanes == next((lanes for name, lanes in UNITS.items() if name in features), 4)
    assert (machine.dots is Dot.SDOT) == ("dotprod" in features)
    assert machine.registers == (32 if {"neon", "avx512f"} & features else 16)


def test_a_machine_without_a_cpu_is_the_least_of_its_kind() -> None:
    assert named("aarch64-linux-gnu") == named("aarch64-linux-gnu:generic")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arm-linux-gnueabihf", "no host 'arm-linux-gnueabihf': there is aarch64-linux-gnu, x86_64"),
        ("", "no host ''"),
        ("aarch64-linux-gnu:cortex-a9", "no CPU 'cortex-a9' of aarch64-linux-gnu: there is generic, cor"),
    ],
)
def test_machines_that_are_not_known(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        named(text)
