"""This backend as it foretells tokens: python sglang_mindspore_logprobs.py MODEL '{"dtype": "float32"}'.

The JSON has arguments of the Engine's.
"""

import json
import sys

import measure
import sglang_mindspore


def start(model):
    engine = sglang_mindspore.engine(model, **json.loads(sys.argv[2]))

    def generate(prompts, new_tokens, windows):
        """-> the logprobs of all tokens of the windows but the first of each, added up, and how many these are."""
        found = []
        for window in windows:  # one at a time: logits of all of its tokens are held
            wanted = dict(return_logprob=True, logprob_start_len=0)
            answer = engine.generate(input_ids=window, sampling_params=sglang_mindspore.greedy(1), **wanted)
            found += [logprob for logprob, *_ in answer["meta_info"]["input_token_logprobs"][1:]]
        return {"logprobs": sum(found), "tokens": len(found)}

    return generate


if __name__ == "__main__":
    measure.main(start)
