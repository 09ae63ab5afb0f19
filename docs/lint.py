"""Holds README.md and docs/ to four rules: short sentences, the field's words, valid links and files, true excerpts.

An excerpt is a block of code behind a comment `<!-- from PATH -->`; a line `...` in it stands for lines left out.

    python docs/lint.py

It prints a line for each offence, with file and line, and ends with 1 if there is any.
"""

import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parent.parent
LONGEST = 30  # words of a sentence
FENCE = re.compile(r"^ {0,3}(```|~~~)")
SENTENCE = re.compile(r"(?<=[.?!])\s+")
LINK = re.compile(r"!?\[(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*\]\(([^)\s]+)\)")
OUTSIDE = re.compile(r"[a-z]+:")  # a scheme: nothing that this repository can check
# A word of this project's own or of British spelling -> the field's.
WORDS = {
    r"in rounds": "blockwise",
    r"(?<!head )latent attention": "MLA",
    r"packed weights": "fused weights, or prepacked ones",
    r"sums? over (?:the )?ranks and norms?": "all-reduce and norm",
    r"fused sums?": "all-reduce fusion",
    r"places? of experts?": "expert location, or physical experts",
    r"mixture (?:block|layer)": "MoE",
    r"\w*(?:quant|normal|initial|optim|special|general|organ|recogn)is(?:e|ed|es|ing|ation)": "z, not s",
    r"(?:behavi|col|neighb|fav)our\w*": "or, not our",
}
WORD = re.compile("|".join(rf"\b(?:{word})\b" for word in WORDS), re.I)
CODE = re.compile(r"`[^`]*`")
FILE = re.compile(r"`([\w./]+\.(?:py|h|cpp|def))`")
FOLDERS = ("python", "test", "benchmark", "docs", "ms_example")
EXCERPT = re.compile(r"<!-- from (\S+) -->\n+```\w*\n(.*?)\n```", re.S)
# A line that begins a paragraph of its own: an item of a list, or a quotation.
ITEM = re.compile(r"^\s*(?:[*+-]|\d+\.|>)\s+")

Line = tuple[int, str]


def pages(root: Path = ROOT) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def prose(text: str) -> Iterator[Line]:
    """The lines of a page, with their numbers; what is code or a comment is an empty line."""
    fenced = comment = False
    item = False  # whether an indented line may belong to a list's item
    for number, line in enumerate(text.splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
            yield number, ""
            continue
        comment = comment or line.lstrip().startswith("<!--")
        indented = line.startswith("    ") and not item
        hidden = fenced or comment or indented
        if comment and "-->" in line:
            comment = False
        if not hidden:
            item = bool(ITEM.match(line)) or item and (not line.strip() or line.startswith(" "))
        yield number, "" if hidden else line


def paragraphs(lines: list[Line]) -> Iterator[list[Line]]:
    """Lines that are read as one; each cell of a table is a paragraph too, headings are none."""
    paragraph: list[Line] = []
    for number, line in [*lines, (0, "")]:
        alone = not line.strip() or line.startswith(("#", "|"))
        if paragraph and (alone or ITEM.match(line)):
            yield paragraph
            paragraph = []
        if line.startswith("|"):
            yield from ([(number, cell)] for cell in line.split("|"))
        elif not alone:
            paragraph.append((number, ITEM.sub("", line)))


def long_sentences(text: str, longest: int = LONGEST) -> Iterator[Line]:
    """Each sentence of more words, with the number of the line where it begins."""
    for paragraph in paragraphs(list(prose(text))):
        starts, words = [], []
        for number, line in paragraph:
            found = line.split()
            starts += [number] * len(found)
            words += found
        begin = 0
        for sentence in SENTENCE.split(" ".join(words)):
            length = len(sentence.split())
            if length > longest:
                yield starts[begin], f"{length} words: {sentence}"
            begin += length


def home_words(text: str) -> Iterator[Line]:
    """Each word for which the field has another one, outside code."""
    for number, line in prose(text):
        for match in WORD.finditer(CODE.sub("", line)):
            better = next(better for word, better in WORDS.items() if re.fullmatch(word, match[0], re.I))
            yield number, f"{match[0]!r}: write {better}"


def anchor(heading: str) -> str:
    """The anchor of a heading, as renderers of Markdown make it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.lstrip("#").strip())
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    lines = prose(page.read_text(encoding="utf-8"))
    return {anchor(line) for _, line in lines if line.startswith("#")}


def broken_links(page: Path, text: str) -> Iterator[Line]:
    """Each link to a file or a heading that is not there."""
    for number, line in prose(text):
        for target in LINK.findall(CODE.sub("", line)):
            if OUTSIDE.match(target):
                continue
            name, _, heading = unquote(target).partition("#")
            file = (page.parent / name).resolve() if name else page
            if not file.exists():
                yield number, f"no such file: {target}"
            elif heading and file.suffix == ".md" and heading not in anchors(file):
                yield number, f"no such heading: {target}"


@functools.cache
def sources(root: Path) -> frozenset[str]:
    """The files of the repository that pages may name, by all ends of their paths."""
    files = (path.relative_to(root).parts for folder in FOLDERS for path in (root / folder).rglob("*.*"))
    return frozenset("/".join(parts[start:]) for parts in files for start in range(len(parts)))


def missing_files(text: str, root: Path = ROOT) -> Iterator[Line]:
    """Each `file.py` that is not in the repository, by its name or the end of its path."""
    for number, line in prose(text):
        yield from ((number, f"no such file: {name}") for name in FILE.findall(line) if name not in sources(root))


def stale_excerpts(text: str, root: Path = ROOT) -> Iterator[Line]:
    """Each excerpt that its file does not have, whatever its indentation."""
    for match in EXCERPT.finditer(text):
        name, code = match.groups()
        file = root / name
        there = bare(file.read_text(encoding="utf-8")) if file.exists() else ""
        parts = [part.strip("\n") for part in re.split(r"^\.\.\.$", bare(code), flags=re.M)]
        missing = [part for part in parts if part and f"\n{part}\n" not in there]
        if missing or not there:
            number = text.count("\n", 0, match.start()) + 1
            yield number, f"not in {name}: {missing[0].splitlines()[0] if missing else 'there is no such file'}"


def bare(code: str) -> str:
    """The lines without their indentation."""
    return "\n" + "\n".join(line.strip() for line in code.splitlines()) + "\n"


def offences(root: Path = ROOT) -> list[str]:
    """A line for each: file, line, and what is wrong."""
    found = []
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        wrong = [*long_sentences(text), *home_words(text), *broken_links(page, text)]
        wrong += [*missing_files(text, root), *stale_excerpts(text, root)]
        found += [f"{page.relative_to(root)}:{number}: {what}" for number, what in sorted(wrong)]
    return found


if __name__ == "__main__":
    found = offences()
    print("\n".join(found) or "README.md and docs/ keep to the lint")
    sys.exit(bool(found))
