"""Writes the speed tables of README and of pages in docs, from docs/speed.json, as docs/pictures.py draws them.

    python docs/speed_tables.py [--take TABLE RESULTS.json ...]

--take puts what a benchmark wrote with --output into docs/speed.json first: rows of the same names are replaced, others
are added. TABLE is the table's name there. One named as "quantized: 8 bits" comes under the heading of that group with
its title, its command and the machine.
"""

import argparse
import json
import re
from pathlib import Path

from marked import replace, table

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs/speed.json"
README, BENCHMARKS = ROOT / "README.md", ROOT / "docs/benchmarks.md"
GROUP = ": "  # between the name of a group and the title of one of its tables
OF_GROUPS = ("machine", "command")  # keys that those have


def read() -> dict:
    """tables: name -> whose figures, beside whose, rows of a name, a figure, and (figure, ratio) for each peer, or the
    cells of a head, and rows; and in which page of docs if not in benchmarks.md. step: where the time of a step goes,
    for a picture."""
    return json.loads(DATA.read_text(encoding="utf-8"))


def speed_table(measured: dict, rows: list) -> str:
    if "head" in measured:
        align = ["---"] + ["---:"] * (len(measured["head"]) - 1)
        return table(measured["head"], [list(map(str, row)) for row in rows], align)
    head = ["", measured["ours"], *(cell for peer in measured["peers"] for cell in (peer, "ratio"))]
    cells = [[name, str(ours), *(cell for peer in peers for cell in _pair(peer))] for name, ours, *peers in rows]
    return table(head, cells, ["---"] + ["---:"] * (len(head) - 1))


def _pair(peer) -> tuple[str, str]:
    return ("", "") if peer is None else (str(peer[0]), f"{peer[1]:.2f}")


def titled(title: str, measured: dict) -> str:
    """A table of a group, with what it was measured by."""
    command = f"```bash\n{measured['command']}\n```\n"
    return f"**{title}**, on {measured['machine']}:\n\n{speed_table(measured, measured['rows'])}\n{command}"


def pages() -> dict[Path, str]:
    """README and the pages of docs as they should be."""
    tables = read()["tables"]
    peers = tables["peers"]
    chosen = [peers["rows"][row] for row in peers["in_readme"]]
    short = speed_table(peers, [[name.removesuffix(" *"), *figures] for name, *figures in chosen])
    found = {README: replace(README.read_text(encoding="utf-8"), "speed", short)}
    for name, (page, text) in _marked(tables).items():
        before = found.get(page) or page.read_text(encoding="utf-8")
        found[page] = replace(before, f"speed-{name}", text)
    return found


def _marked(tables: dict) -> dict[str, tuple[Path, str]]:
    """What stands between two comments of a name, and in which page: a table, or all of a group."""
    found: dict[str, tuple[Path, str]] = {}
    for name, measured in tables.items():
        page = BENCHMARKS.with_name(measured.get("page", BENCHMARKS.name))
        group, of_group, title = name.partition(GROUP)
        text = titled(title, measured) if of_group else speed_table(measured, measured["rows"])
        before = f"{found[group][1]}\n" if of_group and group in found else ""
        found[group] = (page, before + text)
    return found


def take(data: dict, name: str, results: dict) -> None:
    """Let the table of this name have the rows of what a benchmark wrote, of as many columns."""
    found, tables = results["table"], data["tables"]
    before = tables.get(name, {**found, "rows": []})
    columns = [of["head"] if "head" in of else of["peers"] for of in (before, found)]
    if len(columns[0]) != len(columns[1]):
        raise ValueError(f"{name} has columns for {columns[0]}, not for {columns[1]}")
    rows = {row[0]: row for row in (*before["rows"], *found["rows"])}
    said = {key: results[key] for key in OF_GROUPS if GROUP in name}
    tables[name] = before | said | {"rows": list(rows.values())}


def dumped(data: dict) -> str:
    """JSON with a line for each row."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    # Pairs and lists of names first, then rows, which begin with a name.
    for inner in (r"[^\[\]{}]*", r'"(?:[^\[\]{}]|\[[^\[\]]*\])*'):
        text = re.sub(rf"\[\s*({inner}?)\s*\]", _on_a_line, text)
    return text + "\n"


def _on_a_line(match: re.Match) -> str:
    return "[" + re.sub(r"\n *", " ", match[1]) + "]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", nargs=2, action="append", default=[], metavar=("TABLE", "RESULTS.json"))
    arguments = parser.parse_args()
    if arguments.take:
        data = read()
        for name, file in arguments.take:
            take(data, name, json.loads(Path(file).read_text(encoding="utf-8")))
        DATA.write_text(dumped(data), encoding="utf-8")
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
