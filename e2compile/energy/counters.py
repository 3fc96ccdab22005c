"""Energy counters, read before and after a stretch: RAPL of processors, NVML of NVIDIA's GPUs."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from e2compile.energy.reading import Reading, chosen, number, text
from e2compile.errors import MissingError, UsageError

POWERCAP = Path("/sys/class/powercap")

# No package takes more: between two readings a counter must not have wrapped twice.
_MOST_WATTS = 1000.0


class Rapl:
    """Intel's and AMD's energy counters: packages, and DRAM where there is a domain of it."""

    def __init__(self, domains: Sequence[str] = (), root: Path = POWERCAP) -> None:
        zones = {path.parent: text(path) for path in sorted(root.glob("*-rapl:*/name"))}
        found = {name: folder for folder, name in zones.items() if name.startswith("package")}
        for folder in (folder for folder, name in zones.items() if name == "dram"):
            found[f"{zones[folder.with_name(folder.name.rpartition(':')[0])]}.dram"] = folder
        if not found:
            raise MissingError(f"no RAPL domain under {root}: not this processor, or not in this container")
        self._domains = chosen(found, domains, "RAPL domain")
        self._ranges = [number(folder / "max_energy_range_uj") for folder in self._domains.values()]
        self._counters()

    @property
    def about(self) -> str:
        return f"RAPL: {', '.join(self._domains)}"

    def measure(self, work: Callable[[], object]) -> Reading:
        before, began = self._counters(), time.perf_counter()
        work()
        after, seconds = self._counters(), time.perf_counter() - began
        shortest = min(self._ranges) * 1e-6 / _MOST_WATTS
        if seconds > shortest:
            raise UsageError(
                f"the counters may wrap twice in {seconds:.0f} s: measure {shortest:.0f} s at most"
            )
        passed = (
            end - start if end >= start else end - start + size
            for start, end, size in zip(before, after, self._ranges, strict=True)
        )
        return _moved(sum(passed) * 1e-6, seconds)

    def _counters(self) -> list[int]:
        return [number(folder / "energy_uj") for folder in self._domains.values()]


class Nvml:
    """The energy counters of NVIDIA GPUs, of Volta and newer: all of the machine, or those named gpu0, gpu1.

    They count millijoules in 64 bits since the driver was loaded, and move every 20 to 100 ms.
    """

    def __init__(self, gpus: Sequence[str] = ()) -> None:
        try:
            import pynvml
        except ModuleNotFoundError as error:
            raise MissingError("the meter nvml needs nvidia-ml-py: pip install 'e2compile[nvml]'") from error
        self._nvml: Any = pynvml
        self._ask(self._nvml.nvmlInit)
        handles = map(self._nvml.nvmlDeviceGetHandleByIndex, range(self._ask(self._nvml.nvmlDeviceGetCount)))
        found = {f"gpu{i}": handle for i, handle in enumerate(self._ask(lambda: list(handles)))}
        if not found:
            raise MissingError("NVML sees no GPU")
        self._gpus = chosen(found, gpus, "GPU")
        self._counters()

    @property
    def about(self) -> str:
        names = (f"{gpu} {self._ask(self._nvml.nvmlDeviceGetName, h)}" for gpu, h in self._gpus.items())
        return f"NVML: {', '.join(names)}"

    def measure(self, work: Callable[[], object]) -> Reading:
        before, began = self._counters(), time.perf_counter()
        work()
        after, seconds = self._counters(), time.perf_counter() - began
        if any(end < start for start, end in zip(before, after, strict=True)):
            raise UsageError("a GPU's energy counter went back: its driver was loaded anew meanwhile")
        return _moved((sum(after) - sum(before)) * 1e-3, seconds)

    def _counters(self) -> list[int]:
        return [self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption, h) for h in self._gpus.values()]

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except self._nvml.NVMLError_NoPermission as error:
            raise MissingError("NVML may not be read by this user: run as root, or ask for access") from error
        except self._nvml.NVMLError_NotSupported as error:
            raise MissingError("a GPU has no energy counter: it is older than Volta, or virtual") from error
        except self._nvml.NVMLError as error:
            raise MissingError(f"NVML cannot be read: {error}") from error


def _moved(joules: float, seconds: float) -> Reading:
    """What counters have counted. UsageError for nothing: no machine takes no energy."""
    if joules == 0:
        raise UsageError(f"the energy counters did not move in {seconds:.3g} s: measure for longer")
    return Reading(joules, seconds, 0.0)
