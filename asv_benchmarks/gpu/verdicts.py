"""What the figures say of each target."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

from .parts import NO_TIME
from .proofs import LIMITS

CONVOLUTIONS, LARGE, SMALL = 0.5, 0.6, 2.0  # ratios to PyTorch eager that are wanted

Row = dict[str, Any]
Results = dict[str, list[Row]]


def verdicts(results: Results) -> list[Row]:
    """A line for each target: what was found, and whether it is met; None where too little was measured to tell."""
    lines = [_errors(results, "layers", "error", None, LIMITS["float32"])]
    for precision, limit in LIMITS.items():
        lines.append(_errors(results, "architectures", "logits", precision, limit))
    lines.append(_errors(results, "architectures", "gradients", "float32", LIMITS["float32"]))
    lines.append(_right(results, "accuracy", "learns as on the CPU"))
    lines.append(_right(results, "memory", "no memory is lost"))
    lines.append(_right(results, "interchange", "arrays go to and from PyTorch without a copy"))
    for precision in LIMITS:
        found = _ratios(results, ("convolutions",), precision=precision)
        lines.append(_mean(f"convolutions, {precision}: PyTorch eager's speed, geometric mean", found, CONVOLUTIONS))
    for precision in LIMITS:
        found = _ratios(results, ("first networks",), network="resnet50", mode="training", precision=precision)
        lines.append(_mean(f"ResNet-50 training, {precision}: PyTorch eager's speed", found, LARGE))
    for source in ("device", "host"):
        found = [ratio for precision in LIMITS for ratio in _small(results, precision, source)]
        lines.append(_mean(f"LeNet-5 and small batches, training, batch on the {source}: PyTorch eager's speed", found, SMALL))
    return lines


def _errors(results: Results, part: str, name: str, precision: str | None, limit: float) -> Row:
    """Whether all rows of a part have an error below a limit."""
    rows = [row for row in results.get(part, []) if precision is None or row.get("precision", precision) == precision]
    values = [row[name] for row in rows if name in row]
    missing = sum("skipped" in row for row in rows)
    failed = sum("failed" in row for row in rows)
    above = sum(not value < limit for value in values)
    target = f"{part}, {name}{'' if precision is None else ', ' + precision}: at most {limit:g} of the largest from the CPU's"
    if not rows:
        return {"target": target, "found": "not measured", "met": None}
    found = f"{len(values) - above} of {len(rows)}, the worst {max(values, default=math.nan):.2g}"
    found += f", {failed} failed" * bool(failed) + f", {missing} left out" * bool(missing)
    return {"target": target, "found": found, "met": False if above or failed else None if missing else True}


def _right(results: Results, part: str, target: str) -> Row:
    rows = results.get(part, [])
    judged = [row["ok"] for row in rows if "ok" in row]
    if not judged:
        return {"target": target, "found": "not measured", "met": None}
    complete = not any(row.get("skipped") == NO_TIME for row in rows)
    return {"target": target, "found": f"{sum(judged)} of {len(judged)}", "met": False if not all(judged) else True if complete else None}


def _ratios(results: Results, names: Iterable[str], **wanted: Any) -> list[float]:
    rows = [row for name in names for row in results.get(name, [])]
    return [row["ratio"] for row in rows if "ratio" in row and all(row.get(key) == value for key, value in wanted.items())]


def _small(results: Results, precision: str, source: str) -> list[float]:
    """Of small networks, which are those that are timed from the host, too."""
    rows = results.get("first networks", [])
    small = {(row["network"], row["input"]) for row in rows if row.get("source") == "host"}
    own = [row for row in rows if (row["network"], row["input"]) in small]
    return _ratios({"small": own}, ("small",), mode="training", source=source, precision=precision)


def _mean(target: str, ratios: list[float], wanted: float) -> Row:
    target += f" times {wanted:g}"
    if not ratios:
        return {"target": target, "found": "not measured", "met": None}
    mean = statistics.geometric_mean(ratios)
    return {"target": target, "found": f"{mean:.2f} (of {len(ratios)}: {min(ratios):.2f} to {max(ratios):.2f})", "met": mean >= wanted}
