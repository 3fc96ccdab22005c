"""Sample calls of the operators that move, combine or reduce elements."""

from typing import Any

import torch
from torch import Tensor

from e2compile.ops import (
    GUARD,
    INTEGER_CONVOLUTION,
    INTEGER_INPUT_GRADIENT,
    INTEGER_WEIGHT_GRADIENT,
    MOMENTS,
    PLANES_INPUT_GRADIENT,
    SCALED_CONVOLUTION,
    SCALED_INPUT_GRADIENT,
    UNIFORM,
)
from tests.lower.sampling import SPECIAL, Sample, booleans, call, doubles, floats, integers, reduced

aten = torch.ops.aten

ALL_DIMS = [
    ((2, 5, 3, 4), [0, 2, 3]),
    ((2, 5, 3, 4), [0, 2, 3], True),
    ((2, 5, 3, 4), [1]),
    ((2, 5, 3, 4), [-1, -2]),
    ((2, 5, 3, 4), [0, 1, 2, 3]),
    ((1, 5, 1, 4), [0, 2], True),
    ((33, 17), [0]),
    ((33, 17), [1], True),
    ((70,), [0]),
    ((8, 24, 16, 16), [0, 2, 3]),
    ((4, 3, 100, 70), [2]),
    ((300, 130), [0]),
    ((20011,), [0]),
]

MASKED = [
    ((6, 5, 3, 4), booleans(6)),
    ((40, 16, 8, 8), booleans(40)),
    ((40, 16, 8, 8), torch.zeros(40).bool()),
    ((40, 3, 8, 8), torch.ones(40).bool()),
    ((5, 3, 2, 2), torch.arange(5) == 3),
]


def codes(*shape: int, signed: bool = True) -> Tensor:
    values = integers(*shape, low=-128 if signed else 0, high=128 if signed else 256)
    return values.to(torch.int8 if signed else torch.uint8)


def two_planes(*shape: int) -> tuple[Tensor, Tensor]:
    """A gradient's: a high byte of -128 would be beyond its range."""
    return codes(*shape).clamp_min(-127), codes(*shape)


STEP = torch.tensor(0.0123)
PLAIN = ([1, 1], [1, 1], [1, 1], 1)
STRIDED = ([2, 2], [0, 1], [1, 2], 2)

SAMPLES: dict[Any, list[Sample]] = {
    # Views.
    aten.view.default: [
        call(floats(2, 6, 3, 4), [2, 2, 3, 3, 4]),
        call(floats(2, 6, 3, 4), [2, 72]),
        call(floats(6, 4), [4, 6]),
        call(floats(1, 5, 1), [5]),
        call(floats(1), []),
        call(integers(12), [3, 4]),
    ],
    aten._unsafe_view.default: [call(floats(2, 6, 3, 4), [12, 12])],
    aten.reshape.default: [call(floats(2, 6, 3, 4), [6, -1])],
    aten.unsqueeze.default: [call(floats(5, 3), 0), call(floats(5, 3), -1), call(floats(), 0)],
    aten.squeeze.default: [call(floats(2, 1, 3, 1))],
    aten.squeeze.dim: [call(floats(2, 1, 3, 1), 1), call(floats(2, 1, 3, 1), 2)],
    aten.squeeze.dims: [call(floats(2, 1, 3, 1), [1, 3])],
    aten.expand.default: [
        call(floats(5, 1, 1), [2, 5, 3, 4]),
        call(floats(5, 1), [-1, 3]),
        call(floats(), [4]),
        call(booleans(1, 3), [2, 3]),
    ],
    aten.permute.default: [
        call(floats(2, 5, 3, 4), [0, 2, 3, 1]),
        call(floats(2, 5, 3, 4), [3, 1, 0, 2]),
        call(floats(2, 1, 4), [-1, 0, 1]),
    ],
    aten.t.default: [call(floats(5, 3)), call(floats(5)), call(floats(1, 4))],
    aten.transpose.int: [call(floats(2, 5, 3, 4), 1, -1), call(floats(5, 3), 0, 1)],
    aten.select.int: [call(floats(2, 5, 3, 4), 1, 3), call(floats(5, 3), -1, -2), call(floats(5), 0, 4)],
    aten.slice.Tensor: [
        call(floats(2, 5, 3, 4), 1, 1, 4),
        call(floats(2, 5, 3, 4), 3, -3, -1),
        call(floats(11, 3), 0, 1, 9223372036854775807, 3),
        call(floats(2, 5), -1, None, 2),
        call(floats(7)),
        call(floats(5, 4), 0, 2, 3),
    ],
    aten.repeat.default: [
        call(floats(2, 3), [2, 1, 2]),
        call(floats(3), [4]),
        call(floats(1, 5, 1, 1), [2, 1, 3, 1]),
    ],
    aten.flip.default: [call(floats(2, 5, 3, 4), [1, -1]), call(floats(37), [0]), call(floats(1, 4), [0])],
    # Constants.
    aten.full.default: [
        call([2, 3], 1.5),
        call([2, 3, 4, 5], 2.5),
        call([3], True, dtype=torch.bool),
        call([], 7, dtype=torch.int64),
        call([3], float("-inf")),
    ],
    aten.full_like.default: [call(floats(2, 3), 1.5), call(floats(3), 2, dtype=torch.int64)],
    aten.scalar_tensor.default: [call(2.5), call(3, dtype=torch.int64)],
    # Reductions. Sums of up to 20011 normals: ATen's own rounding is 1e-6 of the largest partial sum.
    aten.sum.dim_IntList: [
        *reduced(*ALL_DIMS, ((2, 5, 3, 4), None), ((), []), ((1, 3, 1), [0]), atol=2e-5),
        call(doubles(33, 5), [0]),
        call(integers(33, 5), [1]),
        call(booleans(33, 5), [1]),
        call(floats(40), [0], dtype=torch.float64),
        call(SPECIAL[:3], [0]),
    ],
    aten.mean.default: reduced(((33, 17),), ((2, 5, 3, 4),), ((),)),
    aten.mean.dim: reduced(*ALL_DIMS, ((1, 3, 1), [0])),
    aten.amax.default: [
        *reduced(*ALL_DIMS, ((4, 3),), ((1, 3, 1), [0])),
        call(SPECIAL, [0]),
        call(torch.stack([SPECIAL, SPECIAL.flip(0), SPECIAL.roll(5)]), [0]),
        call(torch.stack([SPECIAL, SPECIAL.flip(0), SPECIAL.roll(5)]), [1]),
        call(torch.full((4, 3), -float("inf")), [0]),
        call(integers(30, 7), [0]),
        call(booleans(6, 3), [1]),
    ],
    aten.amin.default: [
        *reduced(*ALL_DIMS, ((4, 3),)),
        call(SPECIAL, [0]),
        call(torch.stack([SPECIAL, SPECIAL.flip(0), SPECIAL.roll(5)]), [0]),
        call(torch.full((4, 3), float("inf")), [1]),
        call(integers(30, 7), [0]),
    ],
    aten.argmax.default: [
        *reduced(
            ((6, 10), 1), ((6, 10), 0), ((6, 10), -1, True), ((2, 5, 3, 4), 1), ((37,), 0), ((200, 100), 1)
        ),
        *reduced(((37,),), ((1, 9, 1),)),
        call(torch.stack([SPECIAL, SPECIAL.flip(0), SPECIAL.roll(5)]), 1),
        call(torch.full((4, 3), -float("inf")), 1),
        call(torch.ones(5, 8), 1),
        call(integers(30, 7), 1),
    ],
    aten.var_mean.correction: [
        *(
            call(floats(*shape) + 10, [0, 2, 3], correction=0, keepdim=True)
            for shape in [(2, 5, 3, 4), (2, 3, 1, 1), (8, 24, 16, 16), (4, 1, 5, 5)]
        ),
        call(floats(33, 17), [0], correction=1),
        call(floats(33, 17), [1]),
        call(floats(33), None, correction=0.5),
        call(doubles(33, 17), [1], correction=0),
    ],
    aten.any.default: [call(booleans(3, 40)), call(torch.zeros(5).bool()), call(torch.tensor(True))],
    # Moments of live samples: all, none, one, some.
    MOMENTS: [
        *(call(floats(*shape) + 10, mask) for shape, mask in MASKED),
        call(doubles(4, 3, 5, 5), torch.tensor([True, False, False, True])),
    ],
    GUARD: [call(booleans(7), "a", True), call(booleans(1), "a", False)],
    # Integer contractions are exact; tests/targets/test_integer_contraction.py tries many more shapes.
    INTEGER_CONVOLUTION: [
        call(codes(3, 5, 9, 8, signed=False), codes(7, 5, 3, 3), *PLAIN),
        call(codes(3, 4, 9, 8), codes(6, 2, 3, 3), *STRIDED),
    ],
    INTEGER_INPUT_GRADIENT: [
        call(codes(3, 7, 9, 8), codes(7, 5, 3, 3), [3, 5, 9, 8], *PLAIN),
        call(codes(3, 6, 4, 3), codes(6, 2, 3, 3), [3, 4, 9, 8], *STRIDED),
    ],
    # So are scaled ones, in float32 as in bfloat16: both round where the reference does.
    SCALED_CONVOLUTION: [
        call(codes(3, 5, 9, 8, signed=False), codes(7, 5, 3, 3), STEP, *PLAIN, torch.float32),
        call(codes(3, 4, 9, 8), codes(6, 2, 3, 3), STEP, *STRIDED, torch.bfloat16),
    ],
    SCALED_INPUT_GRADIENT: [
        call(codes(3, 7, 9, 8), codes(7, 5, 3, 3), STEP, [3, 5, 9, 8], *PLAIN, torch.bfloat16),
        call(codes(3, 6, 4, 3), codes(6, 2, 3, 3), STEP, [3, 4, 9, 8], *STRIDED, torch.float32),
    ],
    PLANES_INPUT_GRADIENT: [
        call(*two_planes(3, 7, 9, 8), codes(7, 5, 3, 3), STEP, [3, 5, 9, 8], *PLAIN, torch.float32),
        call(*two_planes(3, 6, 4, 3), codes(6, 2, 3, 3), STEP, [3, 4, 9, 8], *STRIDED, torch.bfloat16),
    ],
    INTEGER_WEIGHT_GRADIENT: [
        call(codes(3, 5, 9, 8, signed=False), codes(3, 7, 9, 8), [7, 5, 3, 3], *PLAIN),
        call(codes(3, 4, 9, 8), codes(3, 6, 4, 3), [6, 2, 3, 3], *STRIDED),
    ],
    # Contractions: sums of up to 500 products, which rounds at 1e-6 of sums of their magnitudes.
    aten.convolution.default: [
        call(
            floats(2, 5, 7, 6),
            floats(3, 5, 3, 3),
            floats(3),
            [1, 1],
            [1, 1],
            [1, 1],
            False,
            [0, 0],
            1,
            atol=2e-5,
        ),
        call(
            floats(2, 6, 7, 6), floats(9, 2, 3, 3), None, [2, 2], [0, 1], [1, 1], False, [0, 0], 3, atol=2e-5
        ),
        call(
            floats(1, 4, 5, 5),
            floats(4, 1, 3, 3),
            floats(4),
            [1, 1],
            [2, 2],
            [2, 2],
            False,
            [0, 0],
            4,
            atol=2e-5,
        ),
        call(
            floats(1, 1, 5, 5), floats(1, 1, 1, 1), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, atol=2e-5
        ),
    ],
    aten.convolution_backward.default: [
        call(
            floats(2, 4, 5, 3),
            floats(2, 5, 7, 5),
            floats(4, 5, 3, 3),
            None,
            [1, 1],
            [0, 0],
            [1, 1],
            False,
            [0, 0],
            1,
            [first, not first, False],
            atol=5e-5,
        )
        for first in (True, False)
    ],
    aten.mm.default: [
        call(floats(5, 7), floats(7, 3), atol=2e-5),
        call(floats(1, 7), floats(7, 3), atol=2e-5),
        call(floats(5, 1), floats(1, 3)),
        call(floats(33, 64), floats(64, 10), atol=2e-5),
        call(floats(4, 7), floats(7, 1), atol=2e-5),
    ],
    # Poolings.
    aten.avg_pool2d.default: [
        call(floats(2, 5, 8, 6), [2, 2]),
        call(floats(2, 5, 7, 6), [3, 2], [2, 1], [1, 1], False, True),
        call(floats(2, 5, 7, 6), [3, 3], [2, 2], [1, 1], False, False),
        call(floats(2, 5, 7, 6), [3, 3], [2, 2], [1, 1], True, False),
        call(floats(2, 5, 7, 6), [3, 3], [2, 2], [1, 1], True, True),
        call(floats(1, 16, 4, 4), [2, 2], [2, 2], [0, 0], False, True, 3),
    ],
    aten.avg_pool2d_backward.default: [
        call(floats(2, 5, 4, 3), floats(2, 5, 8, 6), [2, 2], [2, 2], [0, 0], False, True, None),
        call(floats(2, 5, 4, 3), floats(2, 5, 7, 6), [3, 3], [2, 2], [1, 1], False, False, None),
        call(floats(2, 5, 4, 4), floats(2, 5, 7, 6), [3, 3], [2, 2], [1, 1], True, True, None),
        call(floats(1, 16, 2, 2), floats(1, 16, 4, 4), [2, 2], [2, 2], [0, 0], False, True, 3),
    ],
    aten.max_pool2d_with_indices.default: [
        call(floats(2, 5, 8, 6), [2, 2]),
        call(floats(2, 5, 7, 6), [3, 3], [2, 2], [1, 1]),
        call(floats(2, 5, 7, 9), [2, 2], [2, 3], [0, 1], [1, 2]),
        call(floats(2, 5, 7, 6), [3, 3], [2, 2], [1, 1], [1, 1], True),
        call(torch.full((1, 3, 4, 4), -float("inf")), [2, 2]),
        call(SPECIAL.repeat(4).reshape(1, 3, 4, 4), [2, 2], [1, 1]),
        call(torch.ones(1, 16, 4, 4), [2, 2]),
    ],
    aten.max_pool2d_with_indices_backward.default: [
        call(
            floats(2, 5, 4, 3),
            floats(2, 5, 7, 6),
            [3, 3],
            [2, 2],
            [1, 1],
            [1, 1],
            False,
            aten.max_pool2d_with_indices(floats(2, 5, 7, 6), [3, 3], [2, 2], [1, 1])[1],
        ),
        call(
            floats(1, 16, 2, 2),
            floats(1, 16, 4, 4),
            [2, 2],
            [2, 2],
            [0, 0],
            [1, 1],
            False,
            aten.max_pool2d_with_indices(floats(1, 16, 4, 4), [2, 2])[1],
        ),
    ],
    aten._adaptive_avg_pool2d.default: [call(floats(2, 5, 8, 6), [1, 1]), call(floats(2, 5, 8, 6), [4, 2])],
    aten._adaptive_avg_pool2d_backward.default: [
        call(floats(2, 5, 1, 1), floats(2, 5, 8, 6)),
        call(floats(2, 5, 4, 2), floats(2, 5, 8, 6)),
    ],
    # Assemblies.
    aten.cat.default: [
        call([floats(2, 5, 3, 4), floats(2, 3, 3, 4)], 1),
        call([floats(2, 16, 9, 9), floats(2, 32, 9, 9), floats(2, 1, 9, 9)], 1),
        call([floats(2, 5), floats(2, 5)], -1),
        call([floats(3, 1), floats(1, 1), floats(2, 1)]),
        call([floats(5), doubles(3), integers(2)]),
        call([booleans(5), booleans(12)]),
        call([floats(7)]),
    ],
    aten.constant_pad_nd.default: [
        call(floats(2, 5, 3, 4), [1, 2, 0, 1]),
        call(floats(2, 5, 3, 4), [0, 0, 0, 0, 2, 3], 1.5),
        call(floats(2, 5, 3, 4), [-1, 2, 0, -1], -float("inf")),
        call(floats(1), [3, 3]),
        call(integers(9), [1, 1], 7),
    ],
    aten.slice_scatter.default: [
        call(floats(2, 5, 3, 4), floats(2, 2, 3, 4), 1, 1, 3),
        call(floats(2, 5, 3, 9), floats(2, 5, 3, 5), 3, 0, 9223372036854775807, 2),
        call(floats(8), floats(3), 0, -4, -1),
        call(floats(8), floats(8)),
        call(floats(8), floats(1), 0, 7),
    ],
    aten.arange.start_step: [
        call(0, 5),
        call(2.0, 4.0, 0.5),
        call(7, 0, -2, dtype=torch.float32),
        call(3, 4),
    ],
    # The rest.
    aten.where.self: [
        call(booleans(2, 5, 3, 4), floats(2, 5, 3, 4), floats(2, 5, 3, 4)),
        call(booleans(2, 1, 3, 4), floats(5, 1, 1), floats()),
        call(booleans(12), SPECIAL, floats(12)),
        call(booleans(12), integers(12), floats(12)),
        call(booleans(12), booleans(12), booleans(12)),
    ],
    aten._to_copy.default: [
        call(source, dtype=dtype)
        for source in (floats(5, 7) * 9, SPECIAL, integers(5, 7), booleans(5, 7), doubles(2, 5, 3, 4))
        for dtype in (torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)
    ]
    + [
        call(source, dtype=dtype)
        for source in (integers(5, 37, low=0, high=128).float(), integers(33, low=0, high=128))
        for dtype in (torch.int8, torch.uint8, torch.int16)
    ]
    + [
        call(integers(3, 40, low=-128, high=128).to(source), dtype=dtype)
        for source in (torch.int8, torch.int16, torch.int32)
        for dtype in (torch.float32, torch.int32, torch.int64)
    ]
    + [call(integers(37, low=0, high=256).to(torch.uint8), dtype=torch.float32)],
    aten.gather.default: [
        call(floats(6, 10), 1, integers(6, 1, low=0)),
        call(floats(6, 10), -1, integers(6, 4, low=0)),
        call(floats(10, 6), 0, integers(3, 4, low=0)),
        call(floats(2, 10, 3, 4), 1, integers(2, 1, 3, 4, low=0)),
        call(floats(1, 10), 1, integers(1, 1, low=0)),
        call(floats(10), 0, integers(5, low=0)),
    ],
    aten.scatter.value: [
        call(floats(6, 10), 1, integers(6, 1, low=0), 1.5),
        call(torch.zeros(6, 10), -1, integers(6, 1, low=0), -1),
        call(floats(10), 0, integers(1, low=0), 2.0),
    ],
    UNIFORM: [
        call(torch.tensor(7), torch.tensor(3), 1, [2, 5, 3, 4]),
        call(torch.tensor(-(2**40)), torch.tensor(2**35 + 1), 2, [37]),
        call(torch.tensor(1), torch.tensor(0), 0, []),
    ],
}
