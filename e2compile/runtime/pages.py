"""Huge pages: a program's memory in pages of 2 MiB, where Linux gives them to who asks.

Its kernels stream through it; with pages of 4 KiB they wait for addresses to be translated, too.
"""

import ctypes
import mmap
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

_SIZE = 1 << 21


def ask_for_huge(tensors: Sequence[Any]) -> None:
    """Asks for them for one block of memory, by the TVM tensors in it, before it is first written.

    Where they are refused, small ones serve.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None or not tensors:
        return
    starts = [tensor.data_ptr() for tensor in tensors]
    ends = [start + _bytes(tensor) for start, tensor in zip(starts, tensors, strict=True)]
    first = -(-min(starts) // _SIZE) * _SIZE
    length = max(ends) // _SIZE * _SIZE - first
    if length > 0:
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), advice)


def _bytes(tensor: Any) -> int:
    return prod(map(int, tensor.shape)) * np.dtype(str(tensor.dtype)).itemsize
