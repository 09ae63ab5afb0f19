"""This backend, through SGLang's offline Engine."""

from pathlib import Path

import measure


def engine(model, **arguments):
    """arguments: more of the Engine's."""
    import sglang

    defaults = dict(
        framework="mindspore",
        device="cpu",
        dtype="bfloat16",
        max_total_tokens=40960,
        max_running_requests=32,
        disable_radix_cache=True,
        skip_tokenizer_init=True,
        log_level="warning",
    )
    return sglang.Engine(model_path=model, **defaults | arguments)


def greedy(new_tokens):
    return {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}


def start(model, **arguments):
    """arguments: as engine's. Prompts of a checkpoint with modules.json are texts, which are embedded."""
    if (Path(model) / "modules.json").exists():
        encoder = engine(model, is_embedding=True, skip_tokenizer_init=False, **arguments)
        return lambda prompts, new_tokens: encoder.encode(measure.texts_of(prompts))
    started = engine(model, **arguments)

    def generate(prompts, new_tokens):
        started.generate(input_ids=prompts, sampling_params=greedy(new_tokens))

    return generate


if __name__ == "__main__":
    measure.main(start)
