"""Rows as text."""

from __future__ import annotations

from typing import Any


def shown(rows: list[dict[str, Any]]) -> str:
    """A table for a terminal."""
    if not rows:
        return "  nothing"
    lines = _cells(rows)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths)).rstrip() for line in lines)


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table for a page; numbers to the right."""
    names, *lines = _cells(rows)
    kinds = [all(isinstance(row.get(name, 0), (int, float)) for row in rows) for name in names]
    text = f"| {' | '.join(names)} |\n|{'|'.join('---:' if number else '---' for number in kinds)}|\n"
    return text + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(rows: list[dict[str, Any]]) -> list[list[str]]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [names, *([_cell(row.get(name, "")) for name in names] for row in rows)]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "?"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/").replace("\n", " ")
