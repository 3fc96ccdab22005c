"""Meters on fake sysfs trees and files: joules, wraps, permissions, gaps."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from e2compile.energy.meters import CsvMeter, Hwmon, Rapl, meter
from e2compile.errors import MissingError, UsageError


def files(folder: Path, **contents: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def rapl(root: Path, energy: int = 1_000_000, size: int = 262_143_328_850) -> Path:
    for zone, name in {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
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
    found = Rapl(rapl(tmp_path))
    assert found.about == "RAPL: package-0, dram"
    reading = found.measure(spend(tmp_path, rapl_0=3_500_000, rapl_0_0=9_000_000, rapl_0_1=1_250_000))
    assert reading.joules == pytest.approx(2.5 + 0.25)


def test_a_counter_that_wraps_is_followed(tmp_path: Path) -> None:
    found = Rapl(rapl(tmp_path, energy=99_000_000, size=100_000_000))
    reading = found.measure(spend(tmp_path, rapl_0=2_000_000, rapl_0_1=99_000_000))
    assert reading.joules == pytest.approx(3)


def test_a_stretch_in_which_a_counter_may_wrap_twice_is_refused(tmp_path: Path) -> None:
    found = Rapl(rapl(tmp_path, size=2_000_000))
    with pytest.raises(UsageError, match="wrap twice"):
        found.measure(lambda: time.sleep(0.01))


def test_a_missing_meter_is_an_error(tmp_path: Path) -> None:
    for make in (Rapl, lambda root: Hwmon(root=root), lambda root: CsvMeter(root / "absent.csv")):
        with pytest.raises(MissingError):
            make(tmp_path)
    with pytest.raises(UsageError, match="needs its file"):
        meter("csv")
    with pytest.raises(UsageError, match="no meter 'sun'"):
        meter("sun")


def test_a_meter_that_may_not_be_read_says_how_to_allow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(path)

    rapl(tmp_path)
    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(MissingError, match=r"chmod a\+r"):
        Rapl(tmp_path)


def hwmon(root: Path) -> Path:
    files(root / "hwmon0", name="ina226_u76", power1_input=1_500_000, power1_label="VCCINT")
    files(root / "hwmon1", name="ina226_u77", power1_input=500_000)
    return root


def test_rails_are_integrated(tmp_path: Path) -> None:
    both, one = Hwmon(root=hwmon(tmp_path)), Hwmon(["VCCINT"], tmp_path)
    assert both.about == "hwmon: VCCINT, ina226_u77.power1"
    for found, watts in ((both, 2.0), (one, 1.5)):
        reading = found.measure(lambda: time.sleep(0.4))
        assert reading.joules == pytest.approx(watts * reading.seconds, rel=1e-6)
        assert reading.hz > 5
    with pytest.raises(MissingError, match="no power rail VCC9; there is VCCINT"):
        Hwmon(["VCC9"], tmp_path)


def test_a_rail_that_goes_away_is_an_error(tmp_path: Path) -> None:
    found = Hwmon(root=hwmon(tmp_path))

    def pull() -> None:
        (tmp_path / "hwmon0" / "power1_input").unlink()
        time.sleep(0.2)

    with pytest.raises(MissingError, match="cannot be read"):
        found.measure(pull)


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
    [(lambda _: 3.0, 3, "too few"), (lambda i: -1.0 if i == 4 else 3.0, 21, "negative")],
)
def test_a_file_that_does_not_cover_the_time_is_refused(
    tmp_path: Path, watts: Callable[[int], float], samples: int, message: str
) -> None:
    path = tmp_path / "meter.csv"
    work = external(path, watts, samples)
    with pytest.raises(UsageError, match=message):
        CsvMeter(path).measure(work)


def test_a_file_without_its_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "meter.csv"
    path.write_text("time,power\n1,2\n")
    with pytest.raises(UsageError, match="seconds and watts"):
        CsvMeter(path).measure(lambda: None)
