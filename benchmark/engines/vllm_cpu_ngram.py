"""vLLM's CPU build with drafts of n-grams of the prompt and the answer: python vllm_cpu_ngram.py MODEL DRAFTS.

DRAFTS: the tokens that are looked up at most; 0: none are.
"""

import os
import sys
from pathlib import Path

import measure
import vllm_cpu

OPENMP = Path(sys.prefix, "lib/libiomp5.so")  # vLLM warns that drafts are slow without it


def start(model):
    drafts = int(sys.argv[2])
    # n-grams of 1 to 4 tokens: the shortest are looked up too, as elsewhere.
    lookup = dict(method="ngram", num_speculative_tokens=drafts, prompt_lookup_max=4, prompt_lookup_min=1)
    # What SmolLM2 can read at most; vLLM refuses more.
    llm = vllm_cpu.engine(model, max_model_len=8192, **(dict(speculative_config=lookup) if drafts else {}))

    def generate(prompts, new_tokens, given=None):
        """given: prompts in the place of random ones. -> the last answer."""
        asked = [{"prompt_token_ids": ids} for ids in given or prompts]
        answers = llm.generate(asked, vllm_cpu.greedy(new_tokens), use_tqdm=False)
        return {"answer": list(answers[-1].outputs[0].token_ids)}

    return generate


if __name__ == "__main__":
    if OPENMP.exists() and str(OPENMP) not in os.environ.get("LD_PRELOAD", ""):
        os.environ["LD_PRELOAD"] = str(OPENMP)  # takes effect where a process begins
        os.execv(sys.executable, [sys.executable, *sys.argv])
    measure.main(start)
