"""llama.cpp with the prompt lookup of llama-cpp-python: python llama_cpp_lookup.py MODEL DRAFTS.

MODEL: a GGUF file. DRAFTS: the tokens that are looked up at most; 0: none are.
"""

import os
import sys

import measure

CONTEXT = 2048  # tokens; the class keeps float32 logits of all of them


def start(model):
    from llama_cpp import Llama
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    drafts, threads = int(sys.argv[2]), len(os.sched_getaffinity(0))
    lookup = LlamaPromptLookupDecoding(num_pred_tokens=drafts) if drafts else None
    alike = dict(n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False)
    llama = Llama(model, draft_model=lookup, **alike)

    def generate(prompts, new_tokens, given=None):
        """given: prompts in the place of random ones. -> the last answer."""
        for prompt in given or prompts:
            llama.reset()  # or it would keep what the prompt shares with the last one
            found = llama.generate(prompt, temp=0.0)
            answer = [next(found) for _ in range(new_tokens)]
        return {"answer": answer}

    return generate


if __name__ == "__main__":
    measure.main(start)
