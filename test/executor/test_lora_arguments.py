"""Adapters beside what they are not served with are refused by name."""

from types import SimpleNamespace

import pytest

from sglang.srt.model_executor_ms.server import flags, lora_arguments

SECONDS = 1


def test_adapters_of_models_that_are_pooled_are_refused():
    plain = dict(enable_dp_attention=False, attn_dp_size=1, is_embedding=False)
    pooled = plain | dict(is_embedding=True)
    lora_arguments.check_lora(SimpleNamespace(**pooled, enable_lora=None, lora_paths=None))
    for asked in (dict(enable_lora=True, lora_paths=None), dict(enable_lora=None, lora_paths=["a=b"])):
        lora_arguments.check_lora(SimpleNamespace(**plain, **asked))
        with pytest.raises(flags.UnsupportedFlag, match="--enable-lora with --is-embedding"):
            lora_arguments.check_lora(SimpleNamespace(**pooled, **asked))


@pytest.mark.parametrize(
    "changed, problem",
    [
        (dict(device="npu"), "SGLang serves it with triton's kernels only"),
        (dict(tp_size=4), "--tp-size 4 must be the number of replicas, 2"),
        (dict(lora_paths=["a=b"]), "adapters are pinned, and a=b is not"),
        (dict(lora_paths={"a": "b"}), "adapters are pinned, and a is not"),
        (dict(lora_paths=None), "adapters are pinned, and none is given"),
    ],
)
def test_adapters_in_replicas_of_attention_are_as_sglang_has_them(changed, problem):
    pinned = dict(lora_name="a", lora_path="b", pinned=True)
    given = dict(device="cpu", enable_dp_attention=True, attn_dp_size=2, tp_size=2, is_embedding=False)
    given |= dict(enable_lora=True, lora_paths=[pinned, SimpleNamespace(**pinned)])
    lora_arguments.check_lora(SimpleNamespace(**given))
    with pytest.raises(flags.UnsupportedFlag, match=f"--enable-lora with --enable-dp-attention: {problem}"):
        lora_arguments.check_lora(SimpleNamespace(**given | changed))
