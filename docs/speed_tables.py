"""Writes the speed tables of README and of pages in docs, from docs/speed.json, as docs/pictures.py draws them."""

import json
from pathlib import Path

from marked import replace, table

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs/speed.json"
README, BENCHMARKS = ROOT / "README.md", ROOT / "docs/benchmarks.md"


def read() -> dict:
    """tables: name -> whose figures, beside whose, rows of a name, a figure, and (figure, ratio) for each peer, and in
    which page of docs if not in benchmarks.md; step: where the time of a step goes, for a picture."""
    return json.loads(DATA.read_text(encoding="utf-8"))


def speed_table(measured: dict, rows: list) -> str:
    head = ["", measured["ours"], *(cell for peer in measured["peers"] for cell in (peer, "ratio"))]
    cells = [[name, str(ours), *(cell for peer in peers for cell in _pair(peer))] for name, ours, *peers in rows]
    return table(head, cells, ["---"] + ["---:"] * (len(head) - 1))


def _pair(peer) -> tuple[str, str]:
    return ("", "") if peer is None else (str(peer[0]), f"{peer[1]:.2f}")


def pages() -> dict[Path, str]:
    """README and the pages of docs as they should be."""
    tables = read()["tables"]
    peers = tables["peers"]
    chosen = [peers["rows"][row] for row in peers["in_readme"]]
    short = speed_table(peers, [[name.removesuffix(" *"), *figures] for name, *figures in chosen])
    found = {README: replace(README.read_text(encoding="utf-8"), "speed", short)}
    for name, measured in tables.items():
        page = BENCHMARKS.with_name(measured.get("page", BENCHMARKS.name))
        before = found.get(page) or page.read_text(encoding="utf-8")
        found[page] = replace(before, f"speed-{name}", speed_table(measured, measured["rows"]))
    return found


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
