"""Makes one file of what a board runs: python -m e2compile.targets.vta.device.archive vta_server.pyz

Copy it to the board and run it with Python: it needs neither this package nor TVM or torch there.
"""

import sys
import zipapp
from pathlib import Path
from shutil import copy, copytree
from tempfile import TemporaryDirectory

import e2compile.errors

_PACKAGE = "e2compile.targets.vta"
_FOLDERS = {"isa": ("config",), "device": ("interface", "board", "wire", "server")}


def archive(path: Path) -> None:
    """Write the archive, which runs the server."""
    source = Path(__file__).parent.parent
    with TemporaryDirectory() as name:
        root = Path(name)
        package = root.joinpath(*_PACKAGE.split("."))
        for folder, modules in _FOLDERS.items():
            (package / folder).mkdir(parents=True)
            for module in ("__init__", *modules):
                copy(source / folder / f"{module}.py", package / folder)
        copytree(source / "isa" / "configs", package / "isa" / "configs")
        for outer in (package, *package.parents[:2]):
            (outer / "__init__.py").touch()
        copy(e2compile.errors.__file__, root / "e2compile")
        (root / "__main__.py").write_text(
            f"import sys\nfrom {_PACKAGE}.device.server import main\nsys.exit(main())\n"
        )
        zipapp.create_archive(root, path, "/usr/bin/env python3")


if __name__ == "__main__":
    archive(Path(sys.argv[1]))
