"""Price tables: what they sum to, what they refuse, and those that are shipped."""

from pathlib import Path

import pytest

from e2compile.energy.prices import SHARED, Table, Tag, read, text
from e2compile.errors import UsageError
from tests.sources import ROOT

FOLDERS = [ROOT / "targets" / target / "prices" for target in ("llvm", "vta")]
SHIPPED = [path for folder in (SHARED, *FOLDERS) for path in sorted(folder.glob("*.toml"))]

PRICE = (
    '[price."mac.int8"]\nvalue = 0.5\nunit = "pJ"\ntag = "measured"\nsource = "a meter"\ndate = "2026-01"\n'
)


def table(tmp_path: Path, content: str, head: str = 'name = "mine"\n') -> Table:
    path = tmp_path / "mine.toml"
    path.write_text(head + content)
    return read(path)


def test_work_times_prices_is_joules(tmp_path: Path) -> None:
    mine = table(tmp_path, PRICE + PRICE.replace("mac.int8", "dram").replace('"pJ"', '"pJ/B"'))
    assert mine.joules({"mac.int8": 4e12, "read.dram": 2e12, "write.dram": 1e12}) == pytest.approx(3.5)
    largest = mine.bill({"read.dram": 1.0, "mac.int8": 9.0})[0]
    assert (largest.quantity, largest.figure.tag, largest.figure.source) == (
        "mac.int8",
        Tag.MEASURED,
        "a meter",
    )


def test_work_without_a_price_is_named(tmp_path: Path) -> None:
    mine = table(tmp_path, PRICE)
    with pytest.raises(UsageError, match=r"mine has no price for add\.float32, read\.dram"):
        mine.joules({"mac.int8": 1, "read.dram": 1, "add.float32": 1})
    with pytest.raises(UsageError, match=r"mine gives no time for mac\.int8"):
        mine.time({"mac.int8": 1})


def test_a_table_inherits_what_it_has_not(tmp_path: Path) -> None:
    mine = table(tmp_path, PRICE, 'name = "mine"\ninherits = "reference"\n')
    assert mine.joules({"mac.int8": 1e12}) == 0.5
    (line,) = mine.bill({"mac.float32": 1e12})
    assert (line.total, line.figure.tag) == (pytest.approx(4.6), Tag.ASSUMED)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.5", "-0.5", "negative"),
        ("0.5", "nan", "not finite"),
        ("0.5", "true", "no number"),
        ("0.5", "0", "zero without a note"),
        ('unit = "pJ"\n', "", "unit"),
        ('"pJ"', '"nJ"', "'nJ', not in pJ"),
        ('"measured"', '"guessed"', "guessed"),
        ('source = "a meter"\n', "", "source"),
        ('"a meter"', '""', "no source"),
        ("value", "worth", "worth"),
        ("[price.", "[cost.", "no price table: cost"),
        ("0.5", "", "cannot be read"),
        ("value = 0.5\n", "", "value"),
        ("value = 0.5\n", "value = 0.5\nvalue = 0.5\n", "cannot be read"),
        ("value = 0.5\n", 'value = "0.5 pJ"\n', "no number"),
        ('date = "2026-01"\n', "", "date"),
        ("value = 0.5\n", "value = 0.5\nlow = -1\n", "negative"),
    ],
)
def test_what_a_table_must_not_say(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        table(tmp_path, PRICE.replace(old, new))


def test_a_table_needs_its_parent(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no table"):
        table(tmp_path, PRICE, 'name = "mine"\ninherits = "nothing"\n')
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path / "absent.toml")


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    mine = table(tmp_path, PRICE.replace("a meter", r"a \"good\" one"))
    path = tmp_path / "again.toml"
    path.write_text(text(mine))
    assert read(path) == mine


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
def test_shipped_tables_say_where_every_figure_is_from(path: Path) -> None:
    found = read(path, [path.parent])
    assert found.name == path.stem
    assert found.about
    assert found.prices["mac.float32"].source


def test_the_reference_is_all_assumed() -> None:
    reference = read(SHARED / "reference.toml")
    assert {figure.tag for figure in reference.prices.values()} == {Tag.ASSUMED}
    assert reference.joules({"mac.float32": 1e12}) == pytest.approx(0.9 + 3.7)
