"""This backend with arguments of the Engine's as JSON, such as those of drafts, and an acceptance to simulate, if any.

python sglang_mindspore_drafts.py MODEL '{"speculative_algorithm": "NGRAM"}' 2.5
"""

import json
import os
import sys

import measure
import sglang_mindspore


def start(model):
    arguments, *acceptance = sys.argv[2:]
    if acceptance:
        os.environ["SGLANG_SIMULATE_ACC_LEN"] = acceptance[0]  # read where SGLang is imported
    engine = sglang_mindspore.engine(model, **json.loads(arguments))
    known = {}

    def generate(prompts, new_tokens, given=None):
        """given: prompts in the place of random ones, which stay those of the first call for as many as long ones, so
        that a cache may have them. -> tokens a step, and the last answer.
        """
        asked = given or known.setdefault((len(prompts), len(prompts[0])), prompts)
        answers = engine.generate(input_ids=asked, sampling_params=sglang_mindspore.greedy(new_tokens))
        accepted = [answer["meta_info"].get("spec_accept_length", 1.0) for answer in answers]
        return {"accepted": sum(accepted) / len(accepted), "answer": answers[-1]["output_ids"]}

    return generate


if __name__ == "__main__":
    measure.main(start)
