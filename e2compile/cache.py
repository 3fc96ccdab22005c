"""A cache of built programs: what is compiled and verified once is copied the next time."""

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

import e2compile
from e2compile.runtime.manifest import digest


def folder() -> Path:
    """E2COMPILE_CACHE, or the user's cache folder."""
    named = os.environ.get("E2COMPILE_CACHE")
    return Path(named) if named else user_cache_path("e2compile") / "programs"


def source_digest() -> str:
    """A digest of e2compile's own code: another compiler builds another program."""
    content = hashlib.sha256()
    for root in sorted({Path(p) for p in e2compile.__path__}):
        parts = [root] if root.name == "e2compile" else [root / "passes", root / "targets"]
        for path in sorted(p for part in parts for p in part.rglob("*.py")):
            content.update(path.read_bytes())
    return content.hexdigest()


_CHECKSUMS = "checksums.json"


@dataclass(frozen=True)
class Cache:
    """Folders by fingerprint, each whole or absent, each with checksums of its files."""

    root: Path

    def fetch(self, fingerprint: str, destination: Path) -> bool:
        """Copy an entry's files into a folder; False where there is none. A damaged one is removed."""
        entry = self.root / fingerprint
        if not entry.is_dir():
            return False
        if not _is_intact(entry):
            shutil.rmtree(entry, ignore_errors=True)
            return False
        shutil.copytree(entry, destination, dirs_exist_ok=True, ignore=shutil.ignore_patterns(_CHECKSUMS))
        return True

    def keep(self, fingerprint: str, source: Path, names: tuple[str, ...]) -> None:
        """Store folders of `source` under a fingerprint; what cannot be stored is not."""
        temporary = self.root / f".writing-{fingerprint}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # the disk is full, or another process was first
            for name in names:
                shutil.copytree(source / name, temporary / name)
            (temporary / _CHECKSUMS).write_text(json.dumps(_checksums(temporary)))
            os.rename(temporary, self.root / fingerprint)
        shutil.rmtree(temporary, ignore_errors=True)


def _checksums(entry: Path) -> dict[str, str]:
    files = (p for p in sorted(entry.rglob("*")) if p.is_file() and p.name != _CHECKSUMS)
    return {str(p.relative_to(entry)): digest(p) for p in files}


def _is_intact(entry: Path) -> bool:
    try:
        return bool(json.loads((entry / _CHECKSUMS).read_text()) == _checksums(entry))
    except (OSError, ValueError):
        return False
