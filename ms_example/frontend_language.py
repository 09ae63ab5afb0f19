"""Programs in SGLang's frontend language on a running server (`make serve`): a choice, a fork and a pattern.

.venv/bin/python ms_example/frontend_language.py --url http://127.0.0.1:30000
"""

import argparse

import sglang

OPENINGS = ("It returns", "It raises")


@sglang.function
def describe(s, subject):
    s += f"{subject} is a "
    s += sglang.select("kind", choices=["function", "class", "module"])
    s += ".\n"
    branches = s.fork(2)
    for branch, opening in zip(branches, OPENINGS, strict=True):
        branch += opening + sglang.gen("rest", max_tokens=16, temperature=0, stop="\n")
    for branch, opening in zip(branches, OPENINGS, strict=True):
        s += opening + branch["rest"] + "\n"
    s += "Added in version " + sglang.gen("version", max_tokens=6, temperature=0, regex=r"3\.[0-9]{1,2}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:30000", help="where the server is")
    sglang.set_default_backend(sglang.RuntimeEndpoint(parser.parse_args().url))
    for state in describe.run_batch([{"subject": "textwrap.dedent"}, {"subject": "json"}]):
        print(state.text(), end="\n\n")


if __name__ == "__main__":
    main()
