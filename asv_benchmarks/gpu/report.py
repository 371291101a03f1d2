"""Write the tables of docs/performance-gpu.md: python -m asv_benchmarks.gpu.report gpu.json

The file is what ``check`` has written; of several files, which hold a part each, the last that has a part counts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .tables import markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance-gpu.md"
START, END = "<!-- tables: written by asv_benchmarks/gpu/report.py -->\n", "<!-- end of tables -->\n"

Row = dict[str, Any]
Results = dict[str, list[Row]]

MACHINE = ("gpu", "memory GiB", "cores", "python", "numba", "numba-cuda", "nvidia-nvjitlink", "torch")
PROOFS = ("layers", "architectures")


def merged(files: list[dict[str, Any]]) -> Results:
    """The rows of all files, by part."""
    return {name: rows for found in files for name, rows in found["results"].items()}


def text(results: Results) -> str:
    """All that the page says of the figures."""
    from .verdicts import verdicts

    environment = {row["what"]: row["found"] for row in results.get("environment", [])}
    versions = [f"{name} {environment[name]:.4g}" if isinstance(environment[name], float) else f"{name} {environment[name]}"
                for name in MACHINE if name in environment]  # fmt: skip
    sections = [f"Machine: {', '.join(versions)}.\n"] if versions else []
    sections.append(f"### Targets\n\n{markdown(verdicts(results))}")
    titles = {
        "Networks": networks(results, "device"),
        "Small networks, batches from the host": networks(results, "host"),
        "Convolutions": convolutions(results),
        "Launches": [{"launch": row["launch"], "microseconds": row["microseconds"]} for row in _measured(results, "launches")],
        "Training on digits": _without(_measured(results, "accuracy"), "ok"),
        "Memory after many steps": _without(_measured(results, "memory"), "ok"),
        "Arrays to and from PyTorch": _without(_measured(results, "interchange"), "ok"),
        "What is wrong, or was left out": trouble(results),
    }
    return "\n".join([*sections, *(f"### {title}\n\n{markdown(rows)}" for title, rows in titles.items() if rows)])


def networks(results: Results, source: str) -> list[Row]:
    """Images per second and memory, a line for each network and mode."""
    wanted = ("network", "input", "mode", "batch", "precision", "images/s", "torch images/s", "ratio", "MiB", "torch MiB")
    rows = [row for part in ("first networks", "networks") for row in _measured(results, part) if row.get("source") == source]
    return [{name: row[name] for name in wanted if name in row} for row in rows]


def convolutions(results: Results) -> list[Row]:
    """Milliseconds of each pass."""
    wanted = ("layer", "precision", "pass", "ms", "TFLOP/s", "torch ms", "torch as", "ratio")
    return [{name: row[name] for name in wanted if name in row} for row in _measured(results, "convolutions")]


def trouble(results: Results) -> list[Row]:
    """Rows that are no result, or a wrong one."""
    bad = [(name, row) for name, rows in results.items() for row in rows if row.get("ok") is False or "skipped" in row]
    return [{"part": name, "row": ", ".join(f"{key} {value}" for key, value in _without([row], "ok")[0].items())} for name, row in bad]


def _measured(results: Results, part: str) -> list[Row]:
    return [row for row in results.get(part, []) if "failed" not in row and "skipped" not in row]


def _without(rows: list[Row], *names: str) -> list[Row]:
    return [{key: value for key, value in row.items() if key not in names} for row in rows]


def written(page: str, tables: str) -> str:
    """The page with other tables between its markers."""
    before, found, rest = page.partition(START)
    if not found or END not in rest:
        raise click.ClickException(f"{PAGE} has lost the lines between which the tables stand: {START.strip()} and {END.strip()}.")
    return before + START + tables + END + rest.partition(END)[2]


@click.command(help=__doc__)
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(paths: tuple[Path, ...]) -> None:
    results = merged([json.loads(path.read_text()) for path in paths])
    PAGE.write_text(written(PAGE.read_text(), text(results)))


if __name__ == "__main__":
    main()
