"""The command that proves and measures everything on a GPU, as far as it goes without one."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from asv_benchmarks.gpu import report, sizes, timing
from asv_benchmarks.gpu.parts import NO_TIME, Part, Settings, parts
from asv_benchmarks.gpu.tables import markdown, shown
from asv_benchmarks.gpu.verdicts import verdicts
from asv_benchmarks.gpu.workers import results

from .test_layers import simulated

ROOT = Path(__file__).parents[2]


@simulated
@pytest.mark.slow
def test_all_of_it_in_the_simulator(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "asv_benchmarks.gpu.check", "--tiny", "--json", str(path)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())["results"]
    assert list(found) == [part.name for part in parts()]
    rows = [row for part in found.values() for row in part]
    assert not [row for row in rows if "failed" in row or row.get("skipped") == NO_TIME]
    for part in ("layers", "launches", "first networks", "accuracy", "architectures", "convolutions", "memory"):
        assert found[part], part
    if find_spec("torch"):
        assert all("ratio" in row for row in (*found["first networks"], *found["convolutions"]))
    text = report.text(found)
    assert "### Convolutions" in text
    assert "### Networks" in text


def five(_: Any) -> list[dict[str, Any]]:
    return [{"item": what} for what in ("well", "raises", "dies", "hangs", "last")]


def misbehaving(item: dict[str, Any], settings: Settings) -> list[dict[str, Any]]:
    if item["item"] == "raises":
        raise ValueError("no good")
    if item["item"] == "dies":
        os._exit(11)
    if item["item"] == "hangs":
        time.sleep(1000)
    return [{"process": os.getpid()}]


def test_one_item_that_fails_loses_its_own_row_only(tmp_path: Path) -> None:
    part = Part("misbehaving", five, misbehaving, 60, each=5)
    well, raises, dies, hangs, last = (row for rows in results(part, Settings(False, tmp_path), 60) for row in rows)
    assert well["process"] != last["process"] != os.getpid()
    assert raises == {"item": "raises", "failed": "ValueError: no good", "ok": False}
    assert dies["failed"] == "its process came to an end (11)"
    assert hangs["failed"] == "not done after 5 s"


def test_what_finds_no_time_is_told_of(tmp_path: Path) -> None:
    part = Part("slow", lambda sizes: five(sizes)[3:], misbehaving, 60, each=60)
    began = time.perf_counter()
    hangs, last = (row for rows in results(part, Settings(True, tmp_path), 3) for row in rows)
    assert time.perf_counter() - began < 30
    assert hangs["skipped"] == last["skipped"] == NO_TIME


def test_ratios_are_those_of_rounds_beside_the_fastest_other() -> None:
    times = {"numbacnn": [1.0, 2.0, 4.0], "slow": [9.0, 9.0, 9.0], "fast": [2.0, 6.0, 8.0]}
    assert timing.compared(times) == {"ms": 2.0, "torch ms": 6.0, "torch as": "fast", "ratio": 2.0}
    assert timing.compared({"numbacnn": [3.0]}) == {"ms": 3.0}


def test_others_that_fail_leave_our_figures() -> None:
    works, few = (
        {timing.OURS: (lambda: None, timing.host), "failing": (lambda: 1 / 0, timing.host)},
        dataclasses.replace(sizes.TINY, rounds=2),
    )
    assert list(timing.compared(timing.in_turn(works, few))) == ["ms"]
    with pytest.raises(ZeroDivisionError):
        timing.in_turn({timing.OURS: works["failing"]}, few)


def verdict(found: dict[str, list[dict[str, Any]]], beginning: str) -> tuple[str, bool | None]:
    (line,) = (row for row in verdicts(found) if row["target"].startswith(beginning))
    return line["found"], line["met"]


def test_verdicts() -> None:
    assert {row["met"] for row in verdicts({})} == {None}
    layers = [{"layer": "a", "error": 1e-6, "ok": True}, {"layer": "b", "error": 2e-4, "ok": False}]
    assert verdict({"layers": layers[:1]}, "layers") == ("1 of 1, the worst 1e-06", True)
    assert verdict({"layers": layers}, "layers") == ("1 of 2, the worst 0.0002", False)
    assert verdict({"layers": [*layers[:1], {"layer": "c", "skipped": NO_TIME}]}, "layers")[1] is None
    assert verdict({"layers": [{"layer": "c", "failed": "so", "ok": False}]}, "layers")[1] is False
    assert verdict({"layers": [{"layer": "c", "error": float("nan"), "ok": False}]}, "layers")[1] is False
    convolutions = [{"precision": "bf16", "ratio": 0.25}, {"precision": "bf16", "ratio": 1.0}, {"precision": "tf32", "ratio": 0.1}]
    assert verdict({"convolutions": convolutions}, "convolutions, bf16") == ("0.50 (of 2: 0.25 to 1.00)", True)
    assert verdict({"convolutions": convolutions}, "convolutions, tf32")[1] is False
    row = {"network": "resnet50", "input": "224", "mode": "training", "precision": "tf32", "source": "device"}
    small = {**row, "network": "lenet5", "input": "28"}
    found = {"first networks": [{**row, "ratio": 0.7}, {**small, "ratio": 3.0}, {**small, "ratio": 1.0, "source": "host"}]}
    assert verdict(found, "ResNet-50 training, tf32")[1] is True
    assert verdict(found, "LeNet-5 and small batches, training, batch on the device") == ("3.00 (of 1: 3.00 to 3.00)", True)
    assert verdict(found, "LeNet-5 and small batches, training, batch on the host")[1] is False


def test_tables() -> None:
    rows = [{"what": "a", "ms": 0.12345, "ok": True}, {"what": "b|c", "ms": 12345.6}]
    assert shown(rows).splitlines() == ["  what  ms      ok", "  a     0.123   yes", "  b/c   12,346"]
    assert markdown(rows).splitlines() == ["| what | ms | ok |", "|---|---:|---:|", "| a | 0.123 | yes |", "| b/c | 12,346 |  |"]


def test_the_report_changes_what_is_between_its_markers_only() -> None:
    page = report.PAGE.read_text()
    before, after = page.partition(report.START)[0], page.partition(report.END)[2]
    assert report.written(page, "figures\n") == before + report.START + "figures\n" + report.END + after
    assert report.merged([{"results": {"a": [1], "b": [2]}}, {"results": {"b": [3]}}]) == {"a": [1], "b": [3]}
