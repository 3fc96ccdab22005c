"""Recording: one step of a program, with the integers and flags that its kernels wrote."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from e2compile.errors import VerificationError
from e2compile.lower.taps import Tap
from e2compile.runtime.program import Program
from e2compile.verification.oracle import Stored, rows_of


@dataclass(frozen=True)
class Recording:
    """What is needed to tap a compiled function: the kernels that it calls, in order, and its taps."""

    kernels: tuple[str, ...]
    taps: tuple[Tap, ...]

    @contextmanager
    def of(self, program: Program) -> Iterator[dict[fx.Node, Stored]]:
        """Filled by the one step that is run in the block.

        Raises VerificationError where the program calls other kernels than were scheduled.
        """
        calls: list[str] = []
        raw: dict[Tap, Tensor] = {}
        by_call: dict[int, list[Tap]] = {}
        for tap in self.taps:
            by_call.setdefault(tap.call, []).append(tap)
        names = set(self.kernels)

        def note(_: Any, name: str, before: bool, __: Any, *arguments: Any) -> None:
            if before or name not in names:
                return
            for tap in by_call.get(len(calls), []):
                array = np.array(arguments[tap.argument].numpy())
                raw[tap] = tap.logical(torch.from_numpy(array))
            calls.append(name)

        stored: dict[fx.Node, Stored] = {}
        program.library.machine.set_instrument(note)
        try:
            yield stored
        finally:
            program.library.machine.set_instrument(lambda *_: None)
        if calls != list(self.kernels):
            raise VerificationError("the program calls its kernels in another order than was planned")
        stored.update(_stored(self.taps, raw))


def _stored(taps: Sequence[Tap], raw: dict[Tap, Tensor]) -> dict[fx.Node, Stored]:
    """The values that count: of kernels that ran, and of live samples."""
    values = {tap.node: raw[tap] for tap in taps}
    result = {}
    for tap in taps:
        mask = values[tap.mask] if tap.mask is not None else None
        ran = (mask is None or bool(mask.any())) and all(bool(values[p]) for p in tap.predicates)
        if not ran:
            continue
        rows = None
        if mask is not None and tap.axis is not None:
            rows = rows_of(mask, tap.axis, len(tap.shape))
        result[tap.node] = Stored(raw[tap], rows)
    return result
