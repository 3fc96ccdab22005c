"""Configurations: the shipped ones, and what no hardware can be."""

import json
from importlib.resources import files
from typing import Any

import pytest

from e2compile.errors import UsageError
from e2compile.targets.vta import isa
from e2compile.targets.vta.isa.config import named, names, parse


def content(name: str = "pynq", **changed: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files(isa) / "configs" / f"{name}.json").read_text())
    return found | changed


@pytest.mark.parametrize("name", names())
def test_shipped_ones_are_possible(name: str) -> None:
    assert parse(content(name), name) == named(name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"TARGET": "zcu102"}, "TARGET is one of pynq, ultra96, zcu104, de10nano, not 'zcu102'"),
        ({"LOG_BLOCK": "4"}, "LOG_BLOCK is a log2, 0 to 31, not '4'"),
        ({"LOG_BLOCK": True}, "LOG_BLOCK is a log2"),
        ({"LOG_OUT_WIDTH": 3}, "LOG_OUT_WIDTH is not a key"),
        ({"LOG_INP_WIDTH": 4, "LOG_INP_BUFF_SIZE": 16}, "8-bit inputs and weights"),
        ({"LOG_WGT_BUFF_SIZE": 20}, "a micro-op's indices take 34 bits of 32"),
        ({"LOG_UOP_BUFF_SIZE": 17}, "a GEMM's micro-op range does not fit"),
        ({"LOG_INP_BUFF_SIZE": 14}, "the hardware reads wrong weights"),
        ({"LOG_WGT_BUFF_SIZE": 7}, "the WGT buffer holds less than one element"),
    ],
)
def test_what_no_hardware_can_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"mine.json: .*{message}"):
        parse(content(**changed), "mine.json")


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(UsageError, match=r"LOG_BLOCK is missing; .*TARGET is one of"):
        parse({k: v for k, v in content(TARGET="x").items() if k != "LOG_BLOCK"}, "mine.json")


def test_the_chisel_design_has_fewer_micro_ops_than_its_indices_reach() -> None:
    vta = named("de10nano")
    assert (vta.uop_bits, 1 << vta.log_uops) == (13, 2048)
    assert (named("pynq").uop_bits, 1 << named("pynq").log_uops) == (13, 8192)


def test_the_chisel_design_has_one_configuration() -> None:
    message = "the design for de10nano is 1x16_i8w8a32_15_15_18_17, not 1x16_i8w8a32_14_15_18_17"
    with pytest.raises(UsageError, match=message):
        parse(content("de10nano", LOG_UOP_BUFF_SIZE=14), "mine.json")
