"""This backend, through SGLang's offline Engine."""

import measure


def start(model, **arguments):
    """arguments: more of the Engine's."""
    import sglang

    engine = sglang.Engine(
        model_path=model,
        framework="mindspore",
        device="cpu",
        dtype="bfloat16",
        max_total_tokens=40960,
        max_running_requests=32,
        disable_radix_cache=True,
        skip_tokenizer_init=True,
        log_level="warning",
        **arguments,
    )

    def generate(prompts, new_tokens):
        sampling = {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}
        engine.generate(input_ids=prompts, sampling_params=sampling)

    return generate


if __name__ == "__main__":
    measure.main(start)
