"""Write the table of docs/architectures.md: python docs/architectures.py (needs PyTorch, torchvision and timm; some ten minutes).

Every architecture that torchvision or timm has too is given the weights of theirs, drawn at random, running statistics included, and
both are shown the same images, at the usual size and at one that no stage divides. Sizes, operations and receptive fields are those of
``model.summary()``. An interrupted run goes on: rows are kept in a JSON file until all are there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numbacnn as nc
from numbacnn.inspect.summary import quantity

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for tests.zoo, which knows who else has which architecture

from tests import zoo  # noqa: E402

PAGE = Path(__file__).with_suffix(".md")
START, END = "<!-- table: written by docs/architectures.py -->\n", "<!-- end of table -->\n"
HEADER = (
    "| architecture | input | parameters | GFLOP | receptive field | beside | logits apart | odd size | apart |\n"
    "|---|---|---:|---:|---:|---|---:|---:|---:|\n"
)


def row(name: str, peers: list[zoo.Peer]) -> dict[str, Any]:
    """Figures of one architecture: its own, and how far it is from each peer."""
    apart = []
    for peer in peers:
        usual, odd = (zoo.logits_apart(name, peer, size)[1] for size in (peer.size, peer.odd))
        apart.append({"library": peer.library, "odd_size": peer.odd, "usual": usual, "odd": odd})
    model = nc.create(name)
    summary = model.summary()
    return {
        "name": name,
        "input": " x ".join(map(str, model.graph.inputs[0].shape)),
        "parameters": summary.parameters,
        "flops": summary.flops,
        "receptive_field": str(summary.receptive_field),
        "apart": apart,
    }


def lines(found: dict[str, Any]) -> str:
    """A row of the table, and a further one for each further peer."""
    own = f"{found['name']} | {found['input']} | {found['parameters']:,} | {found['flops'] / 1e9:.3g} | {found['receptive_field']}"
    if not found["apart"]:
        return f"| {own} | | | | |\n"
    text = ""
    for number, peer in enumerate(found["apart"]):
        first = own if number == 0 else " | | | | "
        text += f"| {first} | {peer['library']} | {peer['usual']:.0e} | {peer['odd_size']} | {peer['odd']:.0e} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=ROOT / "build" / "architectures.json", help="where rows are kept between runs")
    path = parser.parse_args().rows
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(path.read_text()) if path.exists() else {}
    peers = zoo.family_tables("PEERS")
    for name in nc.list_architectures():
        if name not in rows:
            rows[name] = row(name, peers.get(name, []))
            path.write_text(json.dumps(rows))
            print(name, quantity(rows[name]["parameters"]), rows[name]["apart"], flush=True)
    before, _, rest = PAGE.read_text().partition(START)
    after = rest.partition(END)[2]
    table = HEADER + "".join(lines(rows[name]) for name in sorted(rows))
    PAGE.write_text(before + START + table + END + after)


if __name__ == "__main__":
    main()
