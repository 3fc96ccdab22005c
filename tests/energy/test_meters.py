"""Meters on fake sysfs trees, a fake NVML and files: joules, wraps, permissions, gaps."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pynvml
import pytest

from e2compile.energy.counters import Nvml, Rapl
from e2compile.energy.meters import METERS, meter
from e2compile.energy.watts import CsvMeter, hwmon, pmbus
from e2compile.errors import MissingError, UsageError


def files(folder: Path, **contents: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def rapl(root: Path, energy: object = 1_000_000, size: int = 262_143_328_850) -> Path:
    for zone, name in {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:1:0": "dram",
        "intel-rapl-mmio:0": "package-0",
    }.items():
        files(root / zone, name=name, energy_uj=energy, max_energy_range_uj=size)
    return root


def spend(root: Path, **counters: int) -> Callable[[], None]:
    """Work that leaves the counters at these values."""

    def work() -> None:
        for zone, value in counters.items():
            files(root / zone.replace("_", ":").replace("rapl", "intel-rapl"), energy_uj=value)

    return work


def test_rapl_adds_packages_and_dram_but_no_part_of_them(tmp_path: Path) -> None:
    found = Rapl(root=rapl(tmp_path))
    assert found.about == "RAPL: package-0, package-1, package-0.dram, package-1.dram"
    reading = found.measure(
        spend(tmp_path, rapl_0=3_500_000, rapl_0_0=9_000_000, rapl_0_1=1_250_000, rapl_1_0=1_125_000)
    )
    assert reading.joules == pytest.approx(2.5 + 0.25 + 0.125)
    assert reading.hz == 0
    assert Rapl(["package-1"], tmp_path).about == "RAPL: package-1"
    with pytest.raises(MissingError, match="no RAPL domain core; there is package-0"):
        Rapl(["core"], tmp_path)


def test_a_counter_that_wraps_is_followed(tmp_path: Path) -> None:
    found = Rapl(root=rapl(tmp_path, energy=99_000_000, size=100_000_000))
    reading = found.measure(spend(tmp_path, rapl_0=2_000_000, rapl_0_1=99_000_000))
    assert reading.joules == pytest.approx(3)


def test_a_stretch_in_which_a_counter_may_wrap_twice_is_refused(tmp_path: Path) -> None:
    found = Rapl(root=rapl(tmp_path, size=2_000_000))
    with pytest.raises(UsageError, match="wrap twice"):
        found.measure(lambda: time.sleep(0.01))


def test_a_counter_that_stands_still_or_says_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did not move"):
        Rapl(root=rapl(tmp_path)).measure(lambda: None)
    with pytest.raises(MissingError, match="says '', no number"):
        Rapl(root=rapl(tmp_path, energy=""))


def test_a_missing_meter_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (Rapl, hwmon, pmbus):
        with pytest.raises(MissingError, match=r"no RAPL domain|no power rail|no regulator"):
            make(root=tmp_path)
    with pytest.raises(MissingError, match="is not there"):
        CsvMeter(tmp_path / "absent.csv")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingError, match=r"pip install 'e2compile\[nvml\]'"):
        meter("nvml")
    with pytest.raises(UsageError, match="needs its file"):
        meter("csv")
    with pytest.raises(UsageError, match="no meter 'sun'; there is rapl, nvml, hwmon, pmbus, csv"):
        meter("sun")


@pytest.mark.parametrize("make", [Rapl, hwmon, pmbus])
def test_a_meter_that_may_not_be_read_says_how_to_allow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., object]
) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(path)

    regulators(monitors(rapl(tmp_path)))
    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(MissingError, match=r"chmod a\+r"):
        make(root=tmp_path)


class FakeNvml(ModuleType):
    """The functions of nvidia-ml-py that are called, and GPUs whose counters the test sets."""

    class NVMLError(Exception):
        pass

    class NVMLError_NoPermission(NVMLError):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    def __init__(self, *millijoules: int, error: str = "", initial: str = "") -> None:
        super().__init__("pynvml")
        self.millijoules, self.error, self.initial = list(millijoules), error, initial

    def nvmlInit(self) -> None:
        if self.initial:
            raise self.NVMLError(self.initial)

    def nvmlDeviceGetCount(self) -> int:
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"Fake {handle}"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if self.error:
            raise getattr(self, self.error)
        return self.millijoules[handle]


def test_the_fake_has_what_the_library_has() -> None:
    for name in vars(FakeNvml):
        assert name.startswith("_") or callable(getattr(pynvml, name))


def nvml(monkeypatch: pytest.MonkeyPatch, *millijoules: int, error: str = "", initial: str = "") -> FakeNvml:
    fake = FakeNvml(*millijoules, error=error, initial=initial)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_gpus_are_added_up_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = nvml(monkeypatch, 7_000, 2_000)

    def work() -> None:
        fake.millijoules[:] = [9_500, 2_250]

    assert meter("nvml").about == "NVML: gpu0 Fake 0, gpu1 Fake 1"
    assert Nvml().measure(work).joules == pytest.approx(2.5 + 0.25)
    fake.millijoules[:] = [7_000, 2_000]
    assert Nvml(["gpu1"]).measure(work).joules == pytest.approx(0.25)
    with pytest.raises(MissingError, match="no GPU gpu7; there is gpu0, gpu1"):
        Nvml(["gpu7"])


@pytest.mark.parametrize(
    ("millijoules", "error", "initial", "message"),
    [
        ((), "", "", "NVML sees no GPU"),
        ((1,), "NVMLError_NoPermission", "", "may not be read by this user"),
        ((1,), "NVMLError_NotSupported", "", "older than Volta"),
        ((1,), "", "Driver Not Loaded", "NVML cannot be read: Driver Not Loaded"),
    ],
)
def test_a_gpu_without_a_counter_is_an_error(
    monkeypatch: pytest.MonkeyPatch, millijoules: tuple[int, ...], error: str, initial: str, message: str
) -> None:
    nvml(monkeypatch, *millijoules, error=error, initial=initial)
    with pytest.raises(MissingError, match=message):
        Nvml()


def test_a_gpus_counter_that_goes_back_or_stands_still_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = nvml(monkeypatch, 7_000)
    with pytest.raises(UsageError, match="did not move"):
        Nvml().measure(lambda: None)
    with pytest.raises(UsageError, match="went back"):
        Nvml().measure(lambda: fake.millijoules.__setitem__(0, 1))


def monitors(root: Path) -> Path:
    """A ZCU102's INA226 with and without label, two chips of one name, and one with three channels."""
    files(root / "hwmon0", name="ina226_u76", power1_input=1_500_000, power1_label="VCCINT")
    files(root / "hwmon1", name="ina226_u77", power1_input=500_000, in1_input=850, curr1_input=588)
    for chip, address in (("hwmon2", "1-0040"), ("hwmon3", "1-0041")):
        files(root / chip, name="ina226", power1_input=125_000)
        files(root / "devices" / address)
        (root / chip / "device").symlink_to(root / "devices" / address)
    channels = {"in1_input": 5_000, "curr1_input": 100, "in1_label": "VDD_IN", "in2_input": 1_000}
    files(root / "hwmon4", name="ina3221", curr2_input=250, **channels)
    return root


def regulators(root: Path) -> Path:
    """A ZCU102's MAX15301, which measures no power, and an IRPS5401 with an input and two outputs."""
    files(
        root / "hwmon5",
        name="max15301",
        in1_input=12_000,
        in1_label="vin",
        in2_input=850,
        in2_label="vout1",
        curr1_input=2_000,
        curr1_label="iout1",
    )
    outputs = {
        "power2_label": "pout1",
        "power2_input": 600_000,
        "power3_label": "pout2",
        "in2_label": "vout3",
    }
    files(
        root / "hwmon6",
        name="irps5401",
        power1_label="pin",
        power1_input=9_000_000,
        power3_input=1,
        **outputs,
    )
    return root


def test_rails_are_integrated(tmp_path: Path) -> None:
    every, one = hwmon(root=regulators(monitors(tmp_path))), hwmon(["VCCINT"], tmp_path)
    names = "VCCINT, ina226_u77.power1, ina226.power1@1-0040, ina226.power1@1-0041, VDD_IN, ina3221.2"
    assert every.about == f"hwmon: {names}"
    for found, watts in ((every, 1.5 + 0.5 + 2 * 0.125 + 0.5 + 0.25), (one, 1.5)):
        reading = found.measure(lambda: time.sleep(0.4))
        assert reading.joules == pytest.approx(watts * reading.seconds, rel=1e-6)
        assert reading.hz > 5
    with pytest.raises(MissingError, match="no power rail VCC9; there is VCCINT"):
        hwmon(["VCC9"], tmp_path)


def test_regulators_are_read_at_their_outputs(tmp_path: Path) -> None:
    found = pmbus(root=regulators(monitors(tmp_path)))
    assert found.about == "PMBus: max15301.out1, irps5401.out1, irps5401.out2"
    reading = found.measure(lambda: time.sleep(0.4))
    assert reading.joules == pytest.approx((1.7 + 0.6 + 1e-6) * reading.seconds, rel=1e-6)


def test_a_rail_that_goes_away_is_an_error(tmp_path: Path) -> None:
    found = hwmon(root=monitors(tmp_path))

    def pull() -> None:
        (tmp_path / "hwmon0" / "power1_input").unlink()
        time.sleep(0.2)

    with pytest.raises(MissingError, match="cannot be read"):
        found.measure(pull)


def test_every_meter_is_tested() -> None:
    assert set(METERS) == {"rapl", "nvml", "hwmon", "pmbus"}


def external(
    path: Path, watts: Callable[[int], float] = lambda _: 3.0, samples: int = 21
) -> Callable[[], None]:
    """Work of 0.2 s in which a meter writes its file."""

    def work() -> None:
        began = time.time()
        time.sleep(0.2)
        rows = [f"{began + 0.2 * i / (samples - 1)},{watts(i)}" for i in range(samples)]
        path.write_text("\n".join(["seconds,watts", *rows]) + "\n")

    path.write_text("seconds,watts\n")
    return work


def test_an_external_meters_file_is_integrated(tmp_path: Path) -> None:
    path = tmp_path / "meter.csv"
    work = external(path)
    reading = CsvMeter(path).measure(work)
    assert reading.seconds >= 0.2
    assert reading.joules == pytest.approx(3.0 * reading.seconds, rel=1e-6)


@pytest.mark.parametrize(
    ("watts", "samples", "message"),
    [
        (lambda _: 3.0, 3, "too few"),
        (lambda i: -1.0 if i == 4 else 3.0, 21, "negative"),
        (lambda i: float("nan") if i == 4 else 3.0, 21, "not finite"),
    ],
)
def test_a_file_that_does_not_cover_the_time_is_refused(
    tmp_path: Path, watts: Callable[[int], float], samples: int, message: str
) -> None:
    path = tmp_path / "meter.csv"
    work = external(path, watts, samples)
    with pytest.raises(UsageError, match=message):
        CsvMeter(path).measure(work)


@pytest.mark.parametrize(
    "content", ["time,power\n1,2\n", "seconds,watts [mW]\n1,2\n", "seconds,watts\n1,much\n"]
)
def test_a_file_without_its_columns_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "meter.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match="seconds and watts"):
        CsvMeter(path).measure(lambda: None)
