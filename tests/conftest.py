"""Fixtures of all tests: golden texts, and a cache of programs that is the session's own."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

# PyTorch's threads cost more than they give on small tensors, and wait for each other on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden texts anew")


class Golden:
    """Compares a text with the file tests/golden/<test file>/<test name>.txt."""

    def __init__(self, path: Path, update: bool) -> None:
        self.path, self.update = path, update

    def check(self, text: str) -> None:
        if self.update:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(text)
        assert self.path.is_file(), f"no {self.path.name}: run pytest with --update-golden and read it"
        assert text == self.path.read_text()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    path = GOLDEN / request.path.stem / f"{request.node.name}.txt"
    return Golden(path, request.config.getoption("--update-golden"))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where compiled programs are kept during the session, empty at its start."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("E2COMPILE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/digits.py with a quarter of the channels, two blocks and two epochs."""
    text = (Path(__file__).parent.parent / "examples" / "digits.py").read_text()
    for old, new in (("    Block(32, 32),\n", ""), ("16", "4"), ("32", "8"), ("epochs = 60", "epochs = 2")):
        assert old in text
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("model") / "digits.py"
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def program_folder(model_file: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """`model_file` compiled with BatchDrop(p=0.5), seed 0. Read only: take `program_copy` to train it."""
    import e2compile
    from e2compile.passes import BatchDrop
    from e2compile.pipeline import capture_task
    from e2compile.task import load_task

    folder = tmp_path_factory.mktemp("program") / "digits"
    e2compile.compile(capture_task(load_task(str(model_file))).apply(BatchDrop(p=0.5)), output=folder)
    return folder


@pytest.fixture
def program_copy(program_folder: Path, tmp_path: Path) -> Path:
    """A Program folder of the test's own."""
    return Path(shutil.copytree(program_folder, tmp_path / "digits"))
