"""Blocks of GGUF files are multiplied as codes: logits are those of the values that llama.cpp's package has of them."""

import re

import mindspore as ms
import pytest
from distributed.pool import Layout, Pool
from models import gguf_models
from models.harness import PagedModel, Requests, assert_logits_close
from models.test_logits import prompts
from models.test_ranks import check
from tiers import mostly_slow

from sglang.srt.layers_ms.quantization.mixed import MixedLinear
from sglang.srt.layers_ms.quantization.quantized import QuantizedMoE
from sglang.srt.model_loader_ms.gguf.folder import folder_of

SECONDS = 35, 80
# Of the largest logit: in float32; and in bfloat16, where rows are rounded by groups of 32 too.
LIMIT, LIMIT_ROUNDED = 1e-4, 0.05
SIMPLE = ("Q4_0", "Q8_0", "Q5_1", "Q4_1", "Q5_0", "MXFP4")
# Experts, whose stacks differ; biases of parts; a tied table, and norms of heads; the model of MXFP4; MLA.
QUICK = ("qwen2_moe", "qwen2", "gemma3", "gpt_oss", "deepseek_v3")


def by_turns(name: str, shape: tuple) -> str:
    """Neighbors have different types, but gates and what they gate in experts."""
    place = sum(map(ord, name.split(".")[-2].replace("ffn_up_exps", "ffn_gate_exps")))
    return SIMPLE[place % len(SIMPLE)] if shape[-1] % 32 == 0 else "F16"


def all_of(kind: str):
    return lambda name, shape: kind if shape[-1] % 32 == 0 else "F16"


def pair(name, folder, choose=by_turns):
    """A model's file in blocks, and the file of the values that they stand for."""
    found = []
    for kind in ("blocks", "values"):
        target = folder / f"{name}-{kind}.gguf"
        gguf_models.rewrite(gguf_models.FILES / f"{name}.gguf", target, choose, dequantized=kind == "values")
        found.append(folder_of(target, folder))
    return found


def held(model) -> set:
    """Dtypes of the matrices of layers."""
    cells = dict(model.network.cells_and_names())
    return {
        one.dtype
        for path, one in model.network.parameters_and_names()
        if hasattr(cells[path.rpartition(".")[0]], "method")
    }


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", mostly_slow(gguf_models.MODELS, lambda name: name in QUICK))
def test_blocks_give_the_logits_of_their_values(table, tmp_path, name):
    if name.startswith("stablelm"):
        pytest.skip("heads of StableLM are hidden_size / heads wide: the wider model, which keeps heads, is none")
    blocks, values = pair(name, tmp_path)
    model = PagedModel(blocks, compiled=False)
    assert {ms.uint8, ms.int8} & held(model)
    assert not {ms.uint8, ms.int8} & held(wanted := PagedModel(values, compiled=False))
    assert_logits_close(Requests(model, 4).step(prompts()), Requests(wanted, 4).step(prompts()), LIMIT)


def test_of_types_that_differ_each_has_a_product(table, tmp_path):
    model = PagedModel(pair("qwen2", tmp_path)[0], compiled=False)
    mixed = [
        cell for _, cell in model.network.cells_and_names() if isinstance(getattr(cell, "method", None), MixedLinear)
    ]
    assert mixed
    assert all(cell.bias is None and len(cell.parts) > 1 for cell in mixed)
    assert sum(part.bias is not None for cell in mixed for part in cell.parts) >= 2


def test_experts_whose_stacks_differ_are_held_as_codes(table, tmp_path):
    def choose(name, shape):
        return {"ffn_down_exps": "Q8_0", "ffn_up_exps": "Q4_0", "ffn_gate_exps": "Q4_0"}.get(name.split(".")[-2], "F16")

    blocks, values = pair("qwen2_moe", tmp_path, choose)
    model = PagedModel(blocks, compiled=False)
    experts = model.network.model.layers[0].mlp.experts
    assert type(experts.method) is QuantizedMoE
    assert (experts.gate_up.dtype, experts.down.dtype) == (ms.uint8, ms.int8)
    found, wanted = (Requests(one, 4).step(prompts()) for one in (model, PagedModel(values, compiled=False)))
    assert_logits_close(found, wanted, LIMIT)


def wanted_rows(dtype: str) -> str:
    return "float" if dtype == "float32" else "int8_group"


def logits_of_drawn(folder, kinds, dtype) -> list:
    """Of a model whose matrices are drawn as blocks of these types, and of the one of their values, in float32."""
    gguf_models.drawn(folder / "blocks.gguf", folder / "values.gguf", kinds)
    found, ids = [], {name: ids % 29 for name, ids in prompts().items()}
    for name, of in (("blocks", dtype), ("values", "float32")):
        model = PagedModel(folder_of(folder / f"{name}.gguf", folder), of, compiled=False)
        assert (model.network.model.embed_tokens.weight.dtype == ms.float32) == (name == "values")
        for _, cell in model.network.cells_and_names():
            assert getattr(cell, "activation_format", wanted_rows(of)) == wanted_rows(of)
        found.append(Requests(model, 4).step(ids))
    return found


def test_k_quants_are_multiplied_as_codes(table, tmp_path):
    """As llama.cpp mixes them: other types for values, for what comes down, and for the table, which is the head."""
    kinds = {"attn_v": "Q6_K", "attn_q": "Q4_K", "attn_k": "Q4_K", "attn_output": "Q5_K", "ffn_down": "Q3_K"}
    kinds |= {"ffn_gate": "Q2_K", "ffn_up": "IQ4_NL", "token_embd": "Q6_K"}
    assert_logits_close(*logits_of_drawn(tmp_path, kinds, "float32"), LIMIT)


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "Q3_K", "IQ4_NL"])
def test_rows_are_rounded_in_bfloat16(table, tmp_path, kind):
    matrices = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "token_embd"]
    assert_logits_close(*logits_of_drawn(tmp_path, dict.fromkeys(matrices, kind), "bfloat16"), LIMIT_ROUNDED)


def test_another_type_than_the_one_that_is_held_is_named(table, tmp_path):
    from sglang.srt.model_loader_ms import loader
    from sglang.srt.model_loader_ms.files import CheckpointError

    model = PagedModel(pair("llama", tmp_path, all_of("Q4_0"))[0], compiled=False)
    (tmp_path / "other").mkdir()
    other = pair("llama", tmp_path / "other", all_of("Q8_0"))[0]
    wanted = "wrong type: model.layers.0.mlp.down_proj.weight is in blocks of Q8_0, and Q4_0 is held"
    with pytest.raises(CheckpointError, match=re.escape(wanted)):
        loader.check(model.network, other, **model.network.checkpoint())


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", mostly_slow(["llama3", "gpt_oss"], lambda name: name == "llama3"))
def test_ranks_say_what_one_process_says(table, tmp_path, name):
    """Parts of blocks, of permuted rows too."""
    blocks, _ = pair(name, tmp_path)
    pool = Pool(2)
    try:
        steps, wanted = pool.alone(blocks)
        check(pool.together(blocks, Layout(tp=2), steps), wanted)
    finally:
        pool.close()
