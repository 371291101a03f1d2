"""Machine code, read: the instructions of a cubin, by NVIDIA's nvdisasm (``pip install nvidia-cuda-nvdisasm``), which needs no GPU."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

LINE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);")
LABEL = re.compile(r"^(\.L\w+):")
JUMP = re.compile(r"`\((\.L\w+)\)")


@functools.cache
def disassembler() -> str | None:
    """Where nvdisasm is; None where it is not installed."""
    found = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in found.submodule_search_locations or ()] if found else []
    programs = [str(path) for place in places for path in sorted(place.glob("*/bin/nvdisasm"))]
    return programs[0] if programs else shutil.which("nvdisasm")


needs_nvdisasm = pytest.mark.skipif(disassembler() is None, reason="needs nvdisasm: pip install nvidia-cuda-nvdisasm")


class Listing:
    """The instructions of a cubin: ``opcodes`` one after the other, and of each the ``operands``."""

    def __init__(self, cubin: bytes):
        self.opcodes: list[str] = []
        self.operands: list[str] = []
        labels: dict[str, int] = {}
        for line in _text(cubin).splitlines():
            if label := LABEL.match(line):
                labels[label[1]] = len(self.opcodes)
            elif found := LINE.match(line):
                self.opcodes.append(found[1])
                self.operands.append(found[2])
        self._loops = []
        for at, operands in enumerate(self.operands):
            target = JUMP.search(operands)
            if target and labels.get(target[1], at + 1) <= at and self.opcodes[at].startswith("BRA"):
                self._loops.append((labels[target[1]], at + 1))
        self._loops = [loop for loop in self._loops if loop[1] - loop[0] > 1]  # the last instruction jumps to itself

    def count(self, *names: str, within: tuple[int, int] | None = None) -> int:
        """How many instructions there are of those names, with all of their parts: ``"LDG.128"`` counts ``LDG.E.128.CONSTANT``."""
        wanted = [name.split(".") for name in names]
        first, last = within or (0, len(self.opcodes))
        parts = [opcode.split(".") for opcode in self.opcodes[first:last]]
        return sum(any(each[0] == name[0] and set(name) <= set(each) for name in wanted) for each in parts)

    def hottest(self, name: str) -> tuple[int, int]:
        """The loop with the most instructions of that name for its length; all of the code where there is none."""
        loops = [loop for loop in self._loops if self.count(name, within=loop)]
        return max(loops, key=lambda loop: self.count(name, within=loop) / (loop[1] - loop[0]), default=(0, len(self.opcodes)))


def _text(cubin: bytes) -> str:
    program = disassembler()
    assert program is not None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([program, "-c", file.name], check=True, capture_output=True, text=True).stdout
