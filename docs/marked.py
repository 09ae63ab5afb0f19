"""Replaces what a page has between two comments: `<!-- make NAME: begin -->` and `<!-- make NAME: end -->`."""


def replace(page: str, name: str, content: str) -> str:
    """The text of a page with other content between the two comments of this name; ValueError without them."""
    begin, end = f"<!-- make {name}: begin -->\n", f"<!-- make {name}: end -->\n"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return before + begin + content + end + after


def table(head, rows, align=None) -> str:
    """A Markdown table of these cells; align: what stands below each head, such as `---:`."""
    lines = [head, align or ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
