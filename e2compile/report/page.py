"""The page: template, style, scripts and data in one file that needs nothing else."""

import html
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from e2compile.report.content import content
from e2compile.runtime.export import write_whole

PAGE = "report/index.html"

_SCRIPTS = (
    "elements.js",
    "pricing.js",
    "rows.js",
    "overview.js",
    "energy.js",
    "graph.js",
    "detail.js",
    "charts.js",
    "main.js",
)


def write_report(folder: Path, path: Path, table: str | None = None, log: Path | None = None) -> int:
    """Write a Program's report, whole or not at all; gives its bytes.

    Raises UsageError as `content.content` does, and for a file that cannot be written.
    """
    text = page(content(folder, table, log)).encode()
    write_whole(path, lambda temporary: temporary.write_bytes(text))
    return len(text)


def page(found: dict[str, Any]) -> str:
    """The page of a report's content, as HTML."""
    parts = {
        "title": html.escape(found["program"]["name"]),
        "style": _asset("style.css"),
        "data": embedded(found),
        "script": "\n".join(map(_asset, _SCRIPTS)),
    }
    before, *rest = _asset("page.html").split("{{")
    return before + "".join(parts[part.partition("}}")[0]] + part.partition("}}")[2] for part in rest)


def embedded(value: Any) -> str:
    """JSON that a script element can hold, whatever names it is of: no < can end the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return files("e2compile.report").joinpath("assets", name).read_text()
