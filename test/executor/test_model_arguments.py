"""What SGLang makes of checkpoints and arguments, before any process starts, where it has ways of its own for them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from models import pooled, tiny

SECONDS = 10

# Resolves each line's arguments as an Engine does; prints what came of them.
RESOLVE = """
import json, sys
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.srt.arg_groups.overrides import attention_backends_of, model_config_of, resolving_view
from sglang.srt.entrypoints.engine import Engine

def answer(**arguments):
    fields = dict(framework="mindspore", device="cpu", skip_tokenizer_init=True, max_total_tokens=64, **arguments)
    server_args = Engine.server_args_class(**fields)
    server_args.resolve_once()
    model = model_config_of(server_args)
    return dict(
        architecture=model.hf_config.architectures[0],
        backends=list(attention_backends_of(resolving_view(server_args))),
        context=model.context_len,
        hybrid=bool(model.is_hybrid_swa),
        mla=model.attention_arch.name == "MLA",
    )

for line in sys.stdin:
    try:
        found = answer(**json.loads(line))
    except Exception as error:
        found = dict(error=str(error))
    print("ANSWER" + json.dumps(found))
"""
GROUPED = dict(backends=["mindspore", "mindspore"], context=256, hybrid=False, mla=False)
LATENT = GROUPED | dict(mla=True)
SERVED = {  # variant of tiny.TINY -> what SGLang should take it for
    "gpt_oss": dict(GROUPED, architecture="GptOssForCausalLM"),  # must have an attention backend of SGLang's list
    "exaone4": dict(GROUPED, architecture="Exaone4ForCausalLM"),  # likewise
    "gemma2": dict(GROUPED, architecture="Gemma2ForCausalLM"),
    "olmo3": dict(GROUPED, architecture="Olmo2ForCausalLM"),  # of SGLang's own class
    "kimi_k2": dict(LATENT, architecture="DeepseekV3ForCausalLM"),  # of a class beside the checkpoint
    "minicpm3-longrope": dict(LATENT, architecture="MiniCPM3ForCausalLM"),
    "phi3-long": dict(GROUPED, architecture="Phi3ForCausalLM"),
    "llama-yarn": dict(GROUPED, architecture="LlamaForCausalLM"),  # the context is not stretched once more
    "llama-linear": dict(GROUPED, architecture="LlamaForCausalLM", context=768),
    "chatglm": dict(GROUPED, architecture="ChatGLMModel"),  # num_layers, seq_length
    "baichuan-13b": dict(GROUPED, architecture="BaichuanForCausalLM"),  # model_max_length
    "dbrx": dict(GROUPED, architecture="DbrxForCausalLM"),
}
LINEAR = dict(type="linear", factor=3.0)
NULLS = {  # key of Llama's config.json -> whether a model without it is served
    "architectures": True,
    "num_key_value_heads": True,
    "head_dim": True,
    "torch_dtype": True,
    "dtype": True,
    "rope_parameters": True,
    "quantization_config": True,
    "sliding_window": True,
    "model_type": False,
    "vocab_size": False,
    "hidden_size": False,
    "num_hidden_layers": False,
    "num_attention_heads": False,
    "max_position_embeddings": False,
    "rms_norm_eps": False,
    "hidden_act": False,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """{variant, or what is wrong with it: what came of it}"""

    def folder(name):
        return tmp_path_factory.mktemp(name)

    asked = {name: dict(model_path=str(tiny.save(name, folder(name))), trust_remote_code=True) for name in SERVED}
    asked["untrusted"] = dict(model_path=str(tiny.save("internlm2", folder("untrusted"))))
    encoder = pooled.save("Qwen3Model", folder("encoder"))
    modules = [dict(path="", type="a.Transformer"), dict(path="1_Pooling", type="a.Pooling")]
    (encoder / "modules.json").write_text(json.dumps(modules))
    (encoder / "1_Pooling").mkdir()
    (encoder / "1_Pooling/config.json").write_text(json.dumps(dict(pooling_mode_max_tokens=True)))
    asked["max"] = dict(model_path=str(encoder), is_embedding=True)
    for key in NULLS:
        asked[key] = dict(model_path=str(tiny.save("llama", folder("null"))))
        config = Path(asked[key]["model_path"]) / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {key: None}))
    asked["shorter"] = asked["llama-linear"] | dict(json_model_override_args='{"rope_scaling": null}')
    asked["longer"] = asked["gemma2"] | dict(json_model_override_args=json.dumps({"rope_scaling": LINEAR}))
    ended = subprocess.run(
        [sys.executable, "-c", RESOLVE],
        input="\n".join(map(json.dumps, asked.values())),
        capture_output=True,
        text=True,
        timeout=300,
    )
    answers = [line.removeprefix("ANSWER") for line in ended.stdout.splitlines() if line.startswith("ANSWER")]
    assert len(answers) == len(asked), ended.stderr
    return dict(zip(asked, map(json.loads, answers), strict=True))


@pytest.mark.parametrize("key", NULLS)
def test_a_key_that_is_null_is_absent_or_named(found, key):
    if NULLS[key]:
        assert found[key] == GROUPED | dict(architecture="LlamaForCausalLM")
    else:
        assert re.search(rf"config\.json (cannot be read: .*|has no ){key}", found[key]["error"])


def test_overrides_of_rotary_embeddings_change_the_context_as_in_config_json(found):
    assert found["shorter"] == SERVED["llama-linear"] | dict(context=256)
    assert found["longer"] == SERVED["gemma2"] | dict(context=3 * 256)


@pytest.mark.parametrize("variant", SERVED)
def test_a_checkpoint_is_taken_for_what_it_is(found, variant):
    assert found[variant] == SERVED[variant]


def test_a_config_class_beside_the_checkpoint_needs_trust(found):
    assert "--trust-remote-code" in found["untrusted"]["error"]


def test_embeddings_that_are_pooled_in_another_way_are_refused(found):
    assert "1_Pooling/config.json pools ['max'], and only one of" in found["max"]["error"]
