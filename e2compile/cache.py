"""A cache of built programs: what is compiled and verified once is copied the next time."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

import e2compile


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


@dataclass(frozen=True)
class Cache:
    """Folders by fingerprint, each whole or absent."""

    root: Path

    def fetch(self, fingerprint: str, destination: Path) -> bool:
        """Copy an entry's files into a folder; False where there is none."""
        entry = self.root / fingerprint
        if not entry.is_dir():
            return False
        shutil.copytree(entry, destination, dirs_exist_ok=True)
        return True

    def keep(self, fingerprint: str, source: Path, names: tuple[str, ...]) -> None:
        """Store folders of `source` under a fingerprint."""
        temporary = self.root / f".writing-{fingerprint}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        for name in names:
            shutil.copytree(source / name, temporary / name)
        try:
            os.rename(temporary, self.root / fingerprint)
        except OSError:
            shutil.rmtree(temporary)  # another process was first
