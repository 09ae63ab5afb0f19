"""How every engine is timed: the same prompts, and decode by difference.

Standard library only, to run in any environment. Prints one JSON object a line: {"ready": seconds}, then for each case
{"case", "prefill", "decode"}, in tokens/s.
"""

import json
import random
import statistics
import sys
import time


def say(**fields) -> None:
    print("RESULT " + json.dumps(fields), flush=True)


def prompts_of(batch: int, length: int, generator: random.Random) -> list[list[int]]:
    """Token ids that every vocabulary of 4,000 or more has; no two prompts share a prefix that a cache could use."""
    return [[generator.randrange(10, 4000) for _ in range(length)] for _ in range(batch)]


def run(start, arguments: list[str]) -> None:
    """start(model) -> generate(prompts, new_tokens), which answers every prompt with exactly so many tokens.

    arguments: model folder, repetitions, then cases as batch:input:output. Decode is the time of output + 1 tokens
    less the time of one; each figure is the median of the repetitions.
    """
    model, repetitions, *cases = arguments
    generate = start(model)
    say(ready=time.time())
    generator = random.Random(0)
    for case in cases:
        batch, length, new = map(int, case.split(":"))

        def timed(count, batch=batch, length=length):
            prompts = prompts_of(batch, length, generator)
            begin = time.perf_counter()
            generate(prompts, count)
            return time.perf_counter() - begin

        timed(1)
        first = [timed(1) for _ in range(int(repetitions))]
        whole = [timed(new + 1) for _ in range(int(repetitions))]
        prefill, both = statistics.median(first), statistics.median(whole)
        say(case=case, prefill=batch * length / prefill, decode=batch * new / (both - prefill) if new else None)


def main(start) -> None:
    run(start, sys.argv[1:])
    sys.stdout.flush()
