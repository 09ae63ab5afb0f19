"""llama.cpp as it foretells tokens, of a GGUF file."""

import math
import os
from pathlib import Path

import llama_cpp_bf16
import measure
import numpy as np


def start(model):
    file, threads = llama_cpp_bf16.converted(Path(model)), len(os.sched_getaffinity(0))
    runner = llama_cpp_bf16.Runner(file, threads, rearranged=False)  # by the kernels that all processors have

    def generate(prompts, new_tokens, windows):
        """-> the logprobs of all tokens of the windows but the first of each, added up, and how many these are."""
        found = [logprob for window in windows for logprob in logprobs(runner, window)]
        return {"logprobs": sum(found), "tokens": len(found)}

    return generate


def logprobs(runner, window: list[int]):
    """Of each token behind the first of a request."""
    runner.forget()
    places = [(token, place, 0, True) for place, token in enumerate(window[:-1])]
    following = iter(window[1:])
    for first in range(0, len(places), llama_cpp_bf16.BATCH):
        for logits in runner.logits(places[first : first + llama_cpp_bf16.BATCH]):
            largest = logits.max()
            total = np.exp(logits - largest).sum(dtype=np.float64)
            yield float(logits[next(following)] - largest) - math.log(total)


if __name__ == "__main__":
    measure.main(start)
