"""How long a step that verifies drafts takes beside one with a token of each request: what drafts must gain at least.

python benchmark/bench_verify.py --cases 1:4000:4,8 4:1024:4

Runs Qwen3-0.6B's shape with random bfloat16 weights, without a server. A case has requests, the tokens of each before
the step, and tokens to verify; its steps take turns, and the least time of each counts.
"""

import argparse

import numpy as np
import step_model
from random_checkpoint import SHAPES

SHAPE = SHAPES["qwen3-0.6b"].to_dict() | {"architectures": ["Qwen3ForCausalLM"]}
del SHAPE["layer_types"]  # one for each of all its layers, and --layers may want fewer


def case(text: str) -> tuple[int, int, list[int]]:
    requests, context, tokens = text.split(":")
    return int(requests), int(context), [1, *map(int, tokens.split(","))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", type=case, default=[case("1:4000:4,8"), case("4:1024:4")])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    step_model.start()
    slots = 1 + max(requests * (context + max(tokens)) for requests, context, tokens in arguments.cases)
    rows = max(requests * max(tokens) for requests, _, tokens in arguments.cases)
    most = max(requests for requests, _, _ in arguments.cases)
    model = step_model.StepModel(SHAPE | {"num_hidden_layers": arguments.layers}, slots, rows, most)
    for requests, context, counts in arguments.cases:
        steps = {count: model.step(requests, count, context) for count in counts}
        turns = [[model.seconds(step) for step in steps.values()] for _ in range(arguments.turns + 1)][1:]
        least = np.min(turns, 0)
        print(f"{requests} requests of {context} tokens, {least[0] * 1e3:.1f} ms a step of one token each:", end=" ")
        print(", ".join(f"{n} tokens {one / least[0]:.2f}x" for n, one in zip(counts[1:], least[1:], strict=True)))


if __name__ == "__main__":
    main()
