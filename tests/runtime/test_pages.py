"""Huge pages for a block of memory: Linux says what it gave."""

import mmap
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from e2compile.runtime.pages import ask_for_huge

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SIZE = 16 << 20


@dataclass(frozen=True)
class Placed:
    """A tensor at a place of a block, as TVM's are."""

    array: NDArray[np.float32]

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> str:
        return str(self.array.dtype)


def huge_bytes(address: int) -> int:
    """Bytes in huge pages of the mapping that an address is in."""
    found = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if bounds:
            is_inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif is_inside and line.startswith("AnonHugePages:"):
            found += 1024 * int(line.split()[1])
    return found


def test_a_block_gets_huge_pages() -> None:
    if not _SETTING.exists() or "[never]" in _SETTING.read_text():
        pytest.skip(f"Linux gives no huge pages here: {_SETTING}")
    # not malloc's: that may have been written before
    mapped = mmap.mmap(-1, _SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block = np.frombuffer(mapped, np.float32)
    first, second = block[: len(block) // 2], block[len(block) // 2 :]
    ask_for_huge([Placed(second), Placed(first)])
    block[:] = 1
    assert huge_bytes(block.ctypes.data + _SIZE // 2) >= _SIZE // 2


def test_too_little_for_a_page_and_nothing_at_all_are_left() -> None:
    ask_for_huge([])
    block = np.full(1000, 3, np.float32)
    ask_for_huge([Placed(block)])
    np.testing.assert_array_equal(block, 3)
