"""What a GGUF header says becomes config.json and generation_config.json, or is refused by its key."""

import numpy as np
import pytest
from loader import gguf_files

from sglang.srt.model_loader_ms.gguf.config import generation_config, model_config
from sglang.srt.model_loader_ms.gguf.header import GGUFError
from sglang.srt.model_loader_ms.gguf.split import read_headers

SECONDS = 2
TENSORS = gguf_files.weights(np.random.default_rng(0))


def headers(tmp_path, tensors=TENSORS, **keys):
    named = {key.replace("__", "."): value for key, value in keys.items()}
    return read_headers(gguf_files.write(tmp_path / "m.gguf", tensors, keys=named))


def config(tmp_path, tensors=TENSORS, **keys):
    return model_config(headers(tmp_path, tensors, **keys))


@pytest.mark.parametrize(
    "keys, reason",
    [
        ({"llama__attention__clamp_kqv": 8.0}, "llama.attention.clamp_kqv is 8.0, which is not computed"),
        ({"llama__attention__scale": 0.5}, "llama.attention.scale is 0.5, which is not computed"),
        ({"llama__attention__causal": False}, "llama.attention.causal is False, which is not computed"),
        ({"llama__rope__scale_linear": 2.0}, "llama.rope.scale_linear is 2.0, which is not computed"),
        ({"llama__rope__scaling__type": "ntk"}, "llama.rope.scaling.type is 'ntk'; served are none, linear, yarn"),
        ({"llama__rope__scaling__type": "yarn"}, "metadata has no llama.rope.scaling.factor"),
        ({"llama__attention__key_length": 8}, "llama.rope.dimension_count is 16, of heads of 8"),
    ],
)
def test_what_a_header_asks_for_and_nothing_computes_is_refused(tmp_path, keys, reason):
    with pytest.raises(GGUFError) as error:
        config(tmp_path, **keys)
    assert reason in str(error.value)


def test_what_changes_nothing_is_accepted(tmp_path):
    neutral = {"llama__logit_scale": 1.0, "llama__attention__causal": True, "llama__rope__scaling__type": "none"}
    assert config(tmp_path, **neutral) == config(tmp_path)


def test_scaled_rotations(tmp_path):
    linear = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}
    assert config(tmp_path, **linear)["rope_parameters"]["factor"] == 4.0
    yarn = {
        "llama__rope__scaling__type": "yarn",
        "llama__rope__scaling__factor": 4.0,
        "llama__rope__scaling__original_context_length": 32,
        "llama__rope__scaling__yarn_beta_fast": 16.0,
    }
    rope = config(tmp_path, **yarn)["rope_parameters"]
    assert (rope["rope_type"], rope["original_max_position_embeddings"], rope["beta_fast"]) == ("yarn", 32, 16.0)


def test_divisors_of_frequencies_are_a_tensor_of_the_file(tmp_path):
    divisors = np.array([1, 1, 1.5, 2, 4, 8, 8, 8], np.float32)
    rope = config(tmp_path, TENSORS | {"rope_freqs.weight": divisors})["rope_parameters"]
    assert rope["rope_type"] == "longrope"
    assert rope["short_factor"] == rope["long_factor"] == divisors.tolist()
    assert rope["attention_factor"] == 1.0


def test_sizes_that_differ_between_layers_are_refused(tmp_path):
    with pytest.raises(GGUFError, match="llama.attention.key_length differs between layers"):
        config(tmp_path, llama__attention__key_length=[16, 8])


def test_a_missing_tensor_is_named(tmp_path):
    with pytest.raises(GGUFError, match="there is no tensor token_embd.weight"):
        config(tmp_path, {name: one for name, one in TENSORS.items() if name != "token_embd.weight"})


def test_an_answer_ends_at_all_tokens_that_end_a_turn(tmp_path):
    keys = {"tokenizer__ggml__eot_token_id": 5, "general__sampling__temp": 0.75, "general__sampling__top_k": 20}
    found = generation_config(headers(tmp_path, **keys))
    assert found["eos_token_id"] == [2, 5]
    assert (found["temperature"], found["top_k"], found["do_sample"]) == (0.75, 20, True)


@pytest.mark.parametrize(
    "tokens, ends",
    [
        (["<|im_end|>", "<|endoftext|>", "x"], [0, 1]),
        (["<|return|>", "<|call|>", "<|end|>"], [0, 1]),  # of gpt-oss, whose messages end with <|end|>
        (["<|end|>", "x", "y"], [0]),
        (["x", "<end_of_turn>", "y"], [1]),
    ],
)
def test_tokens_that_end_a_turn_are_known_by_their_text(tokens, ends):
    class Read:
        metadata = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": np.array([3, 3, 3])}

    assert generation_config([Read])["eos_token_id"] == ends
    Read.metadata["tokenizer.ggml.token_type"] = np.array([1, 1, 1])  # words that look like them
    assert generation_config([Read])["eos_token_id"] == []
