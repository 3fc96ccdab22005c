"""The project's own source files, by module name."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACES = {
    "e2compile": ROOT / "e2compile",
    "e2compile.passes": ROOT / "passes",
    "e2compile.targets": ROOT / "targets",
}


def modules() -> dict[str, Path]:
    """Every module of the package with its file."""
    found = {}
    for package, folder in PLACES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join([package, *parts])] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """The full names of what a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def link_package(folder: Path) -> Path:
    """The package as it is installed, passes and targets inside it, as links: type checkers need it so."""
    package = folder / "e2compile"
    package.mkdir(parents=True)
    for source in (*PLACES["e2compile"].iterdir(), PLACES["e2compile.passes"], PLACES["e2compile.targets"]):
        if source.name != "__pycache__":
            (package / source.name).symlink_to(source)
    return package
