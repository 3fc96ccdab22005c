"""The e2.* operators: what ATen cannot say, each with a reference that PyTorch runs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Philox-4x32-10 (Salmon et al., SC 2011): four words of a counter and two of a key to four words.

    Words are int64 tensors in 0 .. 2^32 - 1 of one broadcast shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        high0, high1 = (p0 >> 32) & _WORD, (p1 >> 32) & _WORD
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, p1 & _WORD, high0 ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


@torch.library.custom_op("e2::uniform", mutates_args=())
def uniform(seed: Tensor, step: Tensor, site: int, size: Sequence[int]) -> Tensor:
    """float32 draws from [0, 1), shape `size`, a pure function of (seed, step, site, position).

    `seed` and `step` are int64 of shape (). Position i takes the first word of Philox with counter
    (i, site, step low, step high) and key (seed low, seed high), its upper 24 bits as a fraction.
    """
    position = torch.arange(math.prod(size), dtype=torch.int64)
    counter = (position, torch.full_like(position, site), step & _WORD, (step >> 32) & _WORD)
    word = philox(counter, (seed & _WORD, (seed >> 32) & _WORD))[0]
    return ((word >> 8).to(torch.float32) * 2.0**-24).reshape(list(size))


@uniform.register_fake
def _(seed: Tensor, step: Tensor, site: int, size: Sequence[int]) -> Tensor:  # noqa: ARG001
    return torch.empty(list(size), dtype=torch.float32)


UNIFORM = torch.ops.e2.uniform.default
