"""A small program for the FPGA, compiled once."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fpga_program(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """The Program folder of tiny.tiny(). Read only: copy it to train it."""
    import e2compile
    from tests.targets.vta.tiny import tiny

    folder = tmp_path_factory.mktemp("fpga") / "tiny"
    e2compile.compile(tiny(), "fpga", folder)
    return folder
