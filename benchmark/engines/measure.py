"""How every engine is timed: the same prompts, asked for on standard input.

Standard library only, to run in any environment. Says {"ready": time} once, then for each line
[batch, tokens in, tokens out] {"seconds": what that took}. What else a line has is for the engine's generate, and what
figures that returns by name are said too.
"""

import json
import random
import sys
import time


def say(**fields) -> None:
    print("RESULT " + json.dumps(fields), flush=True)


def prompts_of(batch: int, length: int, generator: random.Random) -> list[list[int]]:
    """Token ids that every vocabulary of 4,000 or more has; no two prompts share a prefix that a cache could use."""
    return [[generator.randrange(10, 4000) for _ in range(length)] for _ in range(batch)]


def texts_of(prompts: list[list[int]]) -> list[str]:
    """Of the tokenizer that random checkpoints have: a word for every id."""
    return [" ".join(f"w{token}" for token in prompt) for prompt in prompts]


def main(start) -> None:
    """start(model) -> generate(prompts, new_tokens), which answers every prompt with exactly so many tokens."""
    generate = start(sys.argv[1])
    say(ready=time.time())
    generator = random.Random(0)
    for line in sys.stdin:
        batch, length, new, *asked = json.loads(line)
        prompts = prompts_of(batch, length, generator)
        begin = time.perf_counter()
        found = generate(prompts, new, *asked)
        say(seconds=time.perf_counter() - begin, **(found if isinstance(found, dict) else {}))
    sys.stdout.flush()
