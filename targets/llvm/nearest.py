"""bfloat16 by the instruction that rounds to it (AVX512-BF16), which takes denormal numbers for zero."""

from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

# Values that one instruction rounds.
WIDTH = 32
_HALVES = [", ".join(f"i32 {lane + first}" for lane in range(WIDTH // 2)) for first in (0, WIDTH // 2)]
# LLVM code to import, as TVM has no vectors of bfloat.
ROUNDING = f"""
declare <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(<16 x float>, <16 x float>)

define linkonce_odr <32 x i16> @nearest_bfloat(<32 x float> %values) alwaysinline {{
  %low = shufflevector <32 x float> %values, <32 x float> poison, <16 x i32> <{_HALVES[0]}>
  %high = shufflevector <32 x float> %values, <32 x float> poison, <16 x i32> <{_HALVES[1]}>
  %nearest = call <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(<16 x float> %high, <16 x float> %low)
  %bits = bitcast <32 x bfloat> %nearest to <32 x i16>
  ret <32 x i16> %bits
}}
"""


def nearest(values: Any) -> Any:
    """The bits of the bfloat16 nearest to each of 32 float32, as `functions.narrowed` has them."""
    return T.call_pure_extern(f"uint16x{WIDTH}", "nearest_bfloat", values)


def is_denormal(value: Any) -> Any:
    magnitude = T.bitwise_and(T.reinterpret("uint32", value), T.uint32(0x7FFFFFFF))
    return tirx.all(magnitude > T.uint32(0), magnitude < T.uint32(0x00800000))
