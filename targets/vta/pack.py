"""Makes one file of what a board runs: python -m e2compile.targets.vta.pack vta_server.pyz

Copy it to the board and run it with Python: it needs neither this package nor TVM or torch there.
"""

import sys
import zipapp
from pathlib import Path
from shutil import copy, copytree
from tempfile import TemporaryDirectory

import e2compile.errors

_PACKAGE = "e2compile.targets.vta"
_MODULES = ("config", "device", "board", "wire", "server")


def pack(archive: Path) -> None:
    """Write the archive, which runs the server."""
    source = Path(__file__).parent
    with TemporaryDirectory() as name:
        root = Path(name)
        folder = root.joinpath(*_PACKAGE.split("."))
        copytree(source / "configs", folder / "configs")
        for package in (folder, *folder.parents[:2]):
            (package / "__init__.py").touch()
        copy(e2compile.errors.__file__, root / "e2compile")
        for module in _MODULES:
            copy(source / f"{module}.py", folder)
        (root / "__main__.py").write_text(
            f"import sys\nfrom {_PACKAGE}.server import main\nsys.exit(main())\n"
        )
        zipapp.create_archive(root, archive, "/usr/bin/env python3")


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
