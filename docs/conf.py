"""The site that `make site` builds of these pages, with Sphinx and MyST.

Pages are plain Markdown, so that they read as well without it: the navigation is added here, and the first page is the
README.
"""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"

project = "sglang-mindspore"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = project
html_show_sourcelink = html_show_copyright = html_use_index = False
myst_heading_anchors = 4  # as lint.py makes them
nitpicky = True

CHAPTERS = {
    "Use": "serving models quantization lora features parallel fleet troubleshooting benchmarks",
    "Ascend NPUs": "ascend/install ascend/several_hosts ascend/expectations ascend/operators",
    "Develop": "architecture testing adding_a_model adding_an_operator adding_a_quantization adding_a_device",
    "Internals": "internals/step internals/capture internals/cpu_kernels internals/weights internals/parallel "
    "internals/experts internals/swa internals/states internals/mla internals/npu",
}


def navigation() -> str:
    """The chapters, as directives of Sphinx."""
    trees = [(f":hidden:\n:caption: {name}", "\n".join(pages.split())) for name, pages in CHAPTERS.items()]
    return "".join(f"\n```{{toctree}}\n{options}\n\n{pages}\n```\n" for options, pages in trees)


def readme() -> str:
    """README as a page of this folder; its links to other files of the repository become downloads."""
    text = README.read_text(encoding="utf-8").replace("](docs/", "](")
    outside = r"\]\((?=(?:ms_example|requirements|CHANGELOG)\b)"
    return re.sub(outside, "](path:../", text)


def make_first_page(_app, page: str, source: list[str]) -> None:
    if page == "index":
        source[0] = readme() + navigation()


def setup(app) -> None:
    app.connect("source-read", make_first_page)
