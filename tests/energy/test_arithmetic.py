"""Every operator that the counter knows, counted by hand on a small case."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from e2compile.energy.arithmetic import RULES, operations
from e2compile.energy.work import Amounts
from e2compile.ops import (
    INTEGER_CONVOLUTION,
    INTEGER_INPUT_GRADIENT,
    INTEGER_WEIGHT_GRADIENT,
    MOMENTS,
    PLANES_INPUT_GRADIENT,
    POWER_OF_TWO_ABOVE,
    SCALED_CONVOLUTION,
    SCALED_INPUT_GRADIENT,
    UNIFORM,
)

aten = torch.ops.aten

Case = tuple[tuple[Any, ...], Mapping[str, Any], Amounts]


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def case(*arguments: Any, counted: Amounts, **named: Any) -> Case:
    return arguments, named, counted


def each(ops: str, counted: Amounts, *arguments: Any) -> dict[Any, list[Case]]:
    """One case for several operators, named as they are in aten."""
    found = (
        getattr(getattr(aten, name), overload) for name, overload in (op.split(".") for op in ops.split())
    )
    return {op: [case(*arguments, counted=counted)] for op in found}


X = tensor(2, 3, 4)  # 24 elements
TRUE = tensor(2, 3, 4, dtype=torch.bool)
INTEGERS = tensor(2, 3, 4, dtype=torch.int32)
BYTES = torch.int8
IMAGES = tensor(2, 3, 8, 8)  # 384 elements
WEIGHT = tensor(4, 3, 3, 3)  # 27 products for each of 4 channels
GRADIENT = tensor(2, 4, 4, 4)  # of IMAGES under WEIGHT at stride 2, padding 1: 128 elements
CONVOLVED = ([2, 2], [1, 1], [1, 1], False, [0, 0])
POOLED = ([2, 2], [2, 2], [0, 0])

CASES: dict[Any, list[Case]] = {
    **each(
        "neg.default abs.default sign.default relu.default floor.default ceil.default", {"add.float32": 24}, X
    ),
    **each("maximum.default minimum.default", {"add.float32": 24}, X, X),
    **each("eq.Tensor ne.Tensor lt.Tensor le.Tensor gt.Tensor ge.Tensor", {"add.float32": 24}, X, X),
    **each("eq.Scalar ne.Scalar lt.Scalar le.Scalar gt.Scalar ge.Scalar", {"add.float32": 24}, X, 1),
    **each("bitwise_and.Tensor bitwise_or.Tensor", {"add.int32": 24}, INTEGERS, INTEGERS),
    **each("bitwise_not.default", {"add.int32": 24}, INTEGERS),
    # a truth value is a byte
    **each("logical_and.default logical_or.default", {"add.int8": 24}, TRUE, TRUE),
    **each("logical_not.default", {"add.int8": 24}, TRUE),
    **each("mul.Tensor", {"multiply.float32": 24}, X, X),
    **each("mul.Scalar", {"multiply.float32": 24}, X, 3),
    **each("div.Tensor pow.Tensor_Tensor", {"special.float32": 24}, X, X),
    **each("div.Scalar", {"special.float32": 24}, X, 3),
    **each(
        "reciprocal.default sqrt.default rsqrt.default exp.default exp2.default", {"special.float32": 24}, X
    ),
    **each("expm1.default log.default log1p.default sin.default cos.default", {"special.float32": 24}, X),
    **each("tanh.default erf.default sigmoid.default", {"special.float32": 24}, X),
    # a square is a product
    aten.pow.Tensor_Scalar: [
        case(X, 2, counted={"multiply.float32": 24}),
        case(X, 3, counted={"special.float32": 24}),
    ],
    # alpha times the second operand first; an operand of one row is added to each
    aten.add.Tensor: [
        case(X, tensor(4), counted={"add.float32": 24}),
        case(X, X, alpha=2, counted={"add.float32": 24, "multiply.float32": 24}),
        case(INTEGERS, X, counted={"add.float32": 24}),
    ],
    aten.sub.Tensor: [
        case(X, X, counted={"add.float32": 24}),
        case(X, X, alpha=2, counted={"add.float32": 24, "multiply.float32": 24}),
    ],
    **each("add.Scalar sub.Scalar rsub.Scalar", {"add.float32": 24}, X, 1),
    # a comparison for each bound
    aten.clamp.default: [
        case(X, 0, 6, counted={"add.float32": 48}),
        case(X, None, 6, counted={"add.float32": 24}),
    ],
    **each("clamp_min.default clamp_max.default", {"add.float32": 24}, X, 0),
    # the exponent's bits cut out, compared, one added
    POWER_OF_TWO_ABOVE: [case(tensor(5), counted={"add.int32": 15})],
    # of the widest operand, which is no choice's condition
    aten.where.self: [case(TRUE, X, tensor(4), counted={"add.float32": 24})],
    # a conversion from what is read
    aten._to_copy.default: [case(X, dtype=BYTES, counted={"add.float32": 24})],
    aten.arange.start_step: [case(0, 10, 2, device="meta", counted={"add.int64": 5})],
    # ten rounds of two products, four exclusive ors and two sums
    UNIFORM: [
        case(
            tensor(dtype=torch.int64),
            tensor(dtype=torch.int64),
            3,
            [2, 3],
            counted={"multiply.int32": 6 * 20, "add.int32": 6 * 60},
        )
    ],
    # places alone
    aten.cat.default: [case([X, X], 1, counted={})],
    aten.constant_pad_nd.default: [case(X, [1, 1], counted={})],
    aten.slice_scatter.default: [case(X, tensor(2, 1, 4), 1, 0, 1, counted={})],
    aten.gather.default: [case(X, 2, tensor(2, 3, 1, dtype=torch.int64), counted={})],
    aten.scatter.value: [case(X, 2, tensor(2, 3, 1, dtype=torch.int64), 1, counted={})],
    # what is reduced, 24 elements; a mean multiplies each of its sums by 1 / n
    aten.sum.dim_IntList: [case(X, [1], counted={"add.float32": 24})],
    aten.mean.default: [case(X, counted={"add.float32": 24, "multiply.float32": 1})],
    aten.mean.dim: [case(X, [0, 2], counted={"add.float32": 24, "multiply.float32": 3})],
    **each("amax.default amin.default", {"add.float32": 24}, X, [1]),
    **each("argmax.default", {"add.float32": 24}, X, 1),
    **each("any.default", {"add.int8": 24}, TRUE),
    # 2 x 64 values in each of 3 channels: sum, difference, its square's sum; two divisions a channel
    aten.var_mean.correction: [
        case(
            IMAGES,
            [0, 2, 3],
            correction=0,
            counted={"add.float32": 3 * 384, "multiply.float32": 384, "special.float32": 2 * 3},
        )
    ],
    MOMENTS: [
        case(
            IMAGES,
            tensor(2, dtype=torch.bool),
            counted={"add.float32": 3 * 384, "multiply.float32": 384, "special.float32": 2 * 3},
        )
    ],
    # 96 results of four elements, and their products by a quarter
    aten.avg_pool2d.default: [
        case(IMAGES, *POOLED, counted={"add.float32": 96 * 4, "multiply.float32": 96}),
    ],
    aten.avg_pool2d_backward.default: [
        case(
            tensor(2, 3, 4, 4),
            IMAGES,
            *POOLED,
            False,
            True,
            None,
            counted={"add.float32": 96 * 4, "multiply.float32": 96},
        )
    ],
    # 3 x 3 at stride 2, padding 1: 96 results, nine comparisons each; a gradient goes to one place
    aten.max_pool2d_with_indices.default: [
        case(IMAGES, [3, 3], [2, 2], [1, 1], counted={"add.float32": 96 * 9}),
    ],
    aten.max_pool2d_with_indices_backward.default: [
        case(
            tensor(2, 3, 4, 4),
            IMAGES,
            [3, 3],
            [2, 2],
            [1, 1],
            [1, 1],
            False,
            tensor(2, 3, 4, 4, dtype=torch.int64),
            counted={"add.float32": 96},
        )
    ],
    # 6 results of 64 elements
    aten._adaptive_avg_pool2d.default: [
        case(IMAGES, [1, 1], counted={"add.float32": 384, "multiply.float32": 6}),
    ],
    aten._adaptive_avg_pool2d_backward.default: [
        case(tensor(2, 3, 1, 1), IMAGES, counted={"add.float32": 384, "multiply.float32": 6}),
    ],
    # 5 x 10 results of 6 products
    aten.mm.default: [case(tensor(5, 6), tensor(6, 10), counted={"mac.float32": 300})],
    aten.convolution.default: [
        case(IMAGES, WEIGHT, None, *CONVOLVED, 1, counted={"mac.float32": 128 * 27}),
        case(
            IMAGES,
            WEIGHT,
            tensor(4),
            *CONVOLVED,
            1,
            counted={"mac.float32": 128 * 27, "add.float32": 128},
        ),
        # depthwise: nine products for each of 2 x 3 x 16 results
        case(IMAGES, tensor(3, 1, 3, 3), None, *CONVOLVED, 3, counted={"mac.float32": 96 * 9}),
        # transposed: each of 384 elements is spread over 4 channels of 3 x 3
        case(
            IMAGES,
            tensor(3, 4, 3, 3),
            None,
            [2, 2],
            [1, 1],
            [1, 1],
            True,
            [1, 1],
            1,
            counted={"mac.float32": 384 * 36},
        ),
    ],
    # as many products for either gradient; a bias's is a sum of 128
    aten.convolution_backward.default: [
        case(
            GRADIENT,
            IMAGES,
            WEIGHT,
            [4],
            *CONVOLVED,
            1,
            mask,
            counted={
                quantity: amount
                for quantity, amount in (
                    ("mac.float32", 128 * 27 * (mask[0] + mask[1])),
                    ("add.float32", 128 * mask[2]),
                )
                if amount
            },
        )
        for mask in ([True, True, True], [False, True, False], [True, False, False], [False, False, True])
    ],
    INTEGER_CONVOLUTION: [
        case(
            tensor(2, 3, 8, 8, dtype=BYTES),
            tensor(4, 3, 3, 3, dtype=BYTES),
            *CONVOLVED[:3],
            1,
            counted={"mac.int8": 128 * 27},
        )
    ],
    INTEGER_INPUT_GRADIENT: [
        case(
            tensor(2, 4, 4, 4, dtype=BYTES),
            tensor(4, 3, 3, 3, dtype=BYTES),
            [2, 3, 8, 8],
            *CONVOLVED[:3],
            1,
            counted={"mac.int8": 128 * 27},
        )
    ],
    SCALED_CONVOLUTION: [
        case(
            tensor(2, 3, 8, 8, dtype=BYTES),
            tensor(4, 3, 3, 3, dtype=BYTES),
            tensor(),
            *CONVOLVED[:3],
            1,
            torch.bfloat16,
            counted={"mac.int8": 128 * 27, "multiply.float32": 128},
        )
    ],
    SCALED_INPUT_GRADIENT: [
        case(
            tensor(2, 4, 4, 4, dtype=BYTES),
            tensor(4, 3, 3, 3, dtype=BYTES),
            tensor(),
            [2, 3, 8, 8],
            *CONVOLVED[:3],
            1,
            torch.float32,
            counted={"mac.int8": 128 * 27, "multiply.float32": 384},
        )
    ],
    PLANES_INPUT_GRADIENT: [
        case(
            tensor(2, 4, 4, 4, dtype=BYTES),
            tensor(2, 4, 4, 4, dtype=BYTES),
            tensor(4, 3, 3, 3, dtype=BYTES),
            tensor(),
            [2, 3, 8, 8],
            *CONVOLVED[:3],
            1,
            torch.bfloat16,
            counted={"mac.int8": 2 * 128 * 27, "multiply.float32": 768, "add.float32": 384},
        )
    ],
    INTEGER_WEIGHT_GRADIENT: [
        case(
            tensor(2, 3, 8, 8, dtype=BYTES),
            tensor(2, 4, 4, 4, dtype=BYTES),
            [4, 3, 3, 3],
            *CONVOLVED[:3],
            1,
            counted={"mac.int8": 128 * 27},
        )
    ],
}


def test_every_rule_has_a_case() -> None:
    assert set(map(str, CASES)) == set(map(str, RULES))


@pytest.mark.parametrize(
    ("op", "arguments", "named", "counted"),
    list(chain.from_iterable([(op, *found) for found in cases] for op, cases in CASES.items())),
    ids=[str(op) for op, cases in CASES.items() for _ in cases],
)
def test_by_hand(op: Any, arguments: tuple[Any, ...], named: dict[str, Any], counted: Amounts) -> None:
    assert operations(call(op, *arguments, **named)) == counted


def call(op: Any, *arguments: Any, **named: Any) -> fx.Node:
    """A call in a graph of its own, with its operands' shapes and its results'."""
    graph = fx.Graph()

    def placed(value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], Tensor):
            return [placed(item) for item in value]
        if not isinstance(value, Tensor):
            return value
        node = graph.placeholder(f"x{len(graph.nodes)}")
        node.meta["val"] = value
        return node

    node = graph.call_function(op, tuple(map(placed, arguments)), named)
    node.meta["val"] = op(*arguments, **named)
    return node
