"""Calibration: known coefficients found again, what cannot be told apart refused, the shipped fits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from e2compile.energy.calibrate import Calibration, calibrate
from e2compile.energy.prices import Tag, read
from e2compile.errors import UsageError
from tests.sources import ROOT

HEAD = "# source: a test\n# licence: none\n# date: 2026-01\n"
COLUMNS = "group,mac.float32 [G],dram [MiB],time [ms],joules [mJ]\n"
LOGS = ROOT / "e2compile" / "energy" / "logs"

# Each shipped log, its table, what that inherits from, and the largest median error on what was held out.
SHIPPED = {
    "x86_server": ("targets/llvm/prices/server", "x86", 0.05),
    "x86_desktop": ("targets/llvm/prices/desktop", "x86", 0.08),
    "raspberry_pi4": ("targets/llvm/prices/raspberry_pi4", "arm", 0.08),
    "ultra96_dpu": ("targets/vta/prices/ultra96", "zynq", 0.05),
    "zcu102_dpu": ("targets/vta/prices/zcu102", "zynq", 0.05),
    "zcu104_dpu": ("targets/vta/prices/zcu104", "zynq", 0.05),
    "rtx6000": ("e2compile/energy/tables/rtx6000", "reference", 0.05),
}


def log(tmp_path: Path, rows: str, head: str = HEAD, columns: str = COLUMNS) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text(head + columns + rows)
    return path


def synthetic(tmp_path: Path, joules: Callable[..., float], rows: int = 90, noise: float = 0.02) -> Path:
    random = np.random.default_rng(1)
    lines = []
    for i in range(rows):
        macs, mib, ms = 10 ** random.uniform(0, 3, 3)
        energy = joules(macs * 1e9, mib * 2**20, ms * 1e-3) * random.normal(1, noise)
        lines.append(f"g{i % 9},{macs:.6g},{mib:.6g},{ms:.6g},{1e3 * energy:.6g}")
    return log(tmp_path, "\n".join(lines) + "\n")


def test_known_coefficients_are_found_again(tmp_path: Path) -> None:
    found = calibrate(synthetic(tmp_path, lambda m, b, t: 20e-12 * m + 3e-9 * b + 2.5 * t))
    for quantity, value in {"mac.float32": 20, "dram": 3000, "time": 2.5}.items():
        figure = found.table.prices[quantity]
        assert figure.value == pytest.approx(value, rel=0.1)
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low <= figure.value <= figure.high
        assert figure.tag is Tag.MODELLED
    assert found.joules.held_groups == ("g1", "g4", "g7")
    assert found.joules.held_out is not None
    assert found.joules.held_out.median < 0.03
    assert len(found.joules.left_out) == 9
    assert found.joules.left_out[found.joules.worst].median < 0.05


@pytest.mark.parametrize(
    ("rows", "held"),
    [
        ({"a": 8, "b": 8, "c": 8, "d": 8, "e": 8, "f": 8}, ("b", "e")),
        ({"a": 2, "b": 8, "c": 12, "d": 10}, ("d",)),
        ({"a": 32, "b": 8}, ("b",)),
        ({"a": 8, "b": 8}, ("a",)),
        ({"a": 8}, ()),
        ({"idle": 8, "copy": 8, "a": 8, "b": 9}, ("a",)),
    ],
)
def test_a_third_is_held_out_by_whole_groups(
    tmp_path: Path, rows: dict[str, int], held: tuple[str, ...]
) -> None:
    groups = [group for group, count in rows.items() for _ in range(count)]
    lines = [f"{group},{1 + i % 7},{1 + i % 5},{1 + i % 3},{i + 1}\n" for i, group in enumerate(groups)]
    found = calibrate(log(tmp_path, "".join(lines)))
    fitted = sum(count for group, count in rows.items() if group not in held)
    for fit in (found.joules, found.seconds):
        assert fit is not None
        assert (fit.held_groups, fit.rows) == (held, fitted)
    assert ("held-out groups" in found.table.about) == bool(held)


def test_idle_rows_tell_watts_and_no_seconds(tmp_path: Path) -> None:
    rows = [f"idle,0,0,{1000 + i},{2500 + 2.5 * i}\n" for i in range(3)]
    rows += [f"{'ab'[i % 2]},{i},{1 + i % 5},{3 * i},{40 + 20.5 * i}\n" for i in range(1, 11)]
    found = calibrate(log(tmp_path, "".join(rows)), without=("dram",))
    assert found.table.prices["time"].value == pytest.approx(2.5, rel=0.01)
    assert found.table.seconds["mac.float32"].value == pytest.approx(3e-3)


def test_what_a_log_does_not_show_is_a_bound(tmp_path: Path) -> None:
    found = calibrate(synthetic(tmp_path, lambda _, b, t: 3e-9 * b + 2.5 * t, noise=0))
    assert found.table.prices["mac.float32"].value < 1e-3


def test_columns_that_rise_together_are_refused_by_name(tmp_path: Path) -> None:
    rows = "".join(f"g{i % 3},{i},{2 * i + i % 2 / 1e4},{(i * 7) % 11 + 1},{3 * i}\n" for i in range(1, 30))
    with pytest.raises(UsageError, match="cannot be told apart") as error:
        calibrate(log(tmp_path, rows))
    assert "mac.float32" in str(error.value)
    assert "dram" in str(error.value)
    assert "--without" in str(error.value)
    assert set(calibrate(log(tmp_path, rows), without=("dram",)).table.prices) == {"mac.float32", "time"}
    with pytest.raises(UsageError, match="no column joy"):
        calibrate(log(tmp_path, rows), without=("joy",))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,1,1,1,-1\n", "row 1: joules .* negative"),
        ("a,1,1,1,0\n", "joules is zero"),
        ("a,1,1,0,1\n", "time is zero"),
        ("a,1,1,1,\n", "'', no number"),
        ("a,1,1,1,nan\n", "not finite"),
        ("a,1,1,1\n", "row 1 has 4 figures"),
        ("a,1,1,1,1\nb,1,1,1,2\na,1,1,1,1\n", "row 3 is row 1 again"),
        ("a,1,1,1,1\nb,2,1,3,2\n", "too few for 3 coefficients"),
        ("".join(f"a,0,{i},{i * i},{i}\n" for i in range(1, 9)), "nothing was done of mac.float32"),
        ("", "no rows"),
    ],
)
def test_a_damaged_log_is_refused(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        calibrate(log(tmp_path, rows))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("group,mac.float32,joules [J]\n", "needs a unit"),
        ("group,mac.float32 [pJ],joules [J]\n", "needs a unit"),
        ("group,time [J],joules [J]\n", "needs a unit"),
        ("group,time [s],time [s]\n", "each column once"),
        ("group,time [s],time [ms]\n", "twice"),
        ("name,time [s],joules [J]\n", "column group"),
        ("group,time [s],dram [B]\n", "no column 'joules"),
    ],
)
def test_a_log_says_its_units(tmp_path: Path, columns: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        calibrate(log(tmp_path, "a,1,1\nb,2,1\n", columns=columns))


def test_a_log_says_where_it_is_from(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="licence"):
        calibrate(log(tmp_path, "a,1,1,1,1\n", head="# source: me\n# date: today\n"))


def test_every_log_has_its_table() -> None:
    assert {path.stem for path in LOGS.glob("*.csv")} == set(SHIPPED)


@pytest.fixture(scope="module")
def fits() -> dict[str, Calibration]:
    return {
        name: calibrate(LOGS / f"{name}.csv", name=Path(table).name, times=parent != "zynq")
        for name, (table, parent, _) in SHIPPED.items()
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_table_is_its_logs_fit(name: str, fits: dict[str, Calibration]) -> None:
    table, parent, most = SHIPPED[name]
    path = ROOT / f"{table}.toml"
    shipped, found = read(path, [path.parent]), fits[name]
    assert shipped.about == found.table.about
    assert f'inherits = "{parent}"' in path.read_text()
    for mine, fitted in ((shipped.prices, found.table.prices), (shipped.seconds, found.table.seconds)):
        for quantity, figure in fitted.items():
            assert mine[quantity].value == pytest.approx(figure.value, rel=1e-3)
            assert mine[quantity].source == figure.source
    assert found.joules.held_out is not None
    assert found.joules.held_out.median <= most
