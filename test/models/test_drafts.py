"""Drafts of EAGLE against a transcription in torch."""

import json

import mindspore as ms
import numpy as np
import pytest
import torch
from models import drafts
from models.harness import PagedModel
from models.tiny import hugging_face, save
from safetensors.torch import load_file, save_file
from tiers import mostly_slow
from torch.nn.functional import linear, rms_norm

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import VocabParallelEmbedding
from sglang.srt.layers_ms.quantization.create import create_parameters
from sglang.srt.model_executor_ms.runner import bridge
from sglang.srt.model_executor_ms.runner.step_inputs import first_pages, step_inputs
from sglang.srt.models_ms.eagle import TARGET_HIDDEN

SECONDS = 12, 23
TOKENS = 11


class Draft:
    def __init__(self, folder):
        self.folder, self.model = folder, PagedModel(folder)
        config = self.model.config
        self.embedding = torch.randn(config.vocab_size, config.hidden_size, generator=torch.Generator().manual_seed(1))
        cell = VocabParallelEmbedding(config.vocab_size, config.hidden_size, Shard(), ms.float32)
        create_parameters(cell)
        cell.weight.host[: config.vocab_size] = self.embedding.numpy()
        cell.process_weights_after_loading()
        self.model.network.share_embedding(cell)

    def run(self, ids, features, lengths):
        """Steps of a request until it has so many tokens, one after another -> their rows together."""
        rows, before = [], 0
        for length in lengths:
            table, slots = first_pages([length - before], [length], 1)
            inputs = {"input_ids": ids[before:length].astype(np.int32), TARGET_HIDDEN: features[before:length]}
            rows.append(self.model.outputs(inputs, step_inputs([length - before], [length], slots, table, 1)))
            before = length
        scored = torch.cat([row.hidden_states for row in rows])
        return scored, torch.cat(
            [row.aux_hidden_states[0] if row.aux_hidden_states else row.hidden_states for row in rows]
        )


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("config", [drafts.EAGLE3, drafts.EAGLE3_NORMS, drafts.EAGLE], ids=["EAGLE3", "norms", "EAGLE"])
def test_a_draft_gives_what_the_transcription_gives(config, tmp_path):
    draft = Draft(drafts.save(tmp_path / "draft", config))
    generator = torch.Generator().manual_seed(2)
    wide = 1 if config is drafts.EAGLE else 3
    given = torch.randn(TOKENS, config["hidden_size"] * wide, generator=generator)
    features = given
    if wide > 1:
        features = bridge.to_torch(draft.model.network.project(bridge.to_mindspore(given)))
    ids = np.arange(TOKENS) * 7 % config["vocab_size"]
    wanted = drafts.outputs(draft.folder, draft.embedding[ids], given)
    for found, value in zip(draft.run(ids, features, (6, 7, TOKENS)), wanted, strict=True):
        torch.testing.assert_close(found, value, atol=1e-4, rtol=1e-4)


NORMS, PRODUCT = ("enorm", "hnorm", "shared_head.norm"), "eh_proj"
MTP = dict(zip((*NORMS, PRODUCT), ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm", "fc"), strict=True))


def with_layer_behind(folder, config, mtp=False):
    """Give a checkpoint the layer behind its last one, which is that again, between random norms and a product.

    mtp: whether it is named as Qwen's.
    """
    tensors, last = load_file(folder / "model.safetensors"), config.num_hidden_layers - 1
    generator, size = torch.Generator().manual_seed(3), config.hidden_size
    before, behind = f"model.layers.{last}.", "mtp." if mtp else f"model.layers.{last + 1}."
    layer = f"{behind}layers.0." if mtp else behind
    copies = {layer + name.removeprefix(before): t.clone() for name, t in tensors.items() if name.startswith(before)}
    own = {name: torch.randn(size, generator=generator) * 0.2 + 1 for name in NORMS}
    own[PRODUCT] = torch.randn(size, 2 * size, generator=generator) * 0.2
    copies |= {f"{behind}{MTP[name] if mtp else name}.weight": tensor for name, tensor in own.items()}
    if not mtp:
        unused = torch.zeros(config.vocab_size, size)
        copies[f"{behind}embed_tokens.weight"] = copies[f"{behind}shared_head.head.weight"] = unused
    save_file(tensors | {name: tensor.clone() for name, tensor in copies.items()}, folder / "model.safetensors")
    return own


@torch.no_grad()
def layer_behind(model, own, embedded, features, offset):
    """What transformers' own layer makes of [norm(embedding) | norm(hidden state)] times the matrix."""
    eps, size = model.config.rms_norm_eps, (model.config.hidden_size,)
    first, second, last = (own[name] + offset for name in NORMS)
    parts = rms_norm(embedded, size, first, eps), rms_norm(features, size, second, eps)
    x = linear(torch.cat(parts, -1), own[PRODUCT])[None]
    places = torch.arange(len(embedded))[None]
    mask = torch.full((1, 1, len(embedded), len(embedded)), float("-inf")).triu(1)
    turns = model.model.rotary_emb(x, places)
    x = model.model.layers[-1](x, attention_mask=mask, position_ids=places, position_embeddings=turns)
    return rms_norm((x if isinstance(x, torch.Tensor) else x[0])[0], size, last, eps)


QUICK = ("deepseek_v3", "qwen3_5_moe")
BEHIND = {  # variant: the draft's architecture, and what its norms add to their weights
    "deepseek_v3": ("DeepseekV3ForCausalLMNextN", 0.0),
    "glm4_moe": ("Glm4MoeForCausalLMNextN", 0.0),
    "glm4_moe_lite": ("Glm4MoeLiteForCausalLMNextN", 0.0),
    "qwen3_moe": ("Qwen3MoeForCausalLMMTP", 0.0),
    "qwen3_next-dense": ("Qwen3NextForCausalLMMTP", 1.0),
    "qwen3_5": ("Qwen3_5ForCausalLMMTP", 1.0),
    "qwen3_5_moe": ("Qwen3_5ForCausalLMMTP", 1.0),
}


@pytest.mark.parametrize("variant", mostly_slow(BEHIND, lambda variant: variant in QUICK))
def test_a_layer_behind_the_last_is_the_layer_of_transformers(variant, tmp_path, table):
    architecture, offset = BEHIND[variant]
    folder, model = save(variant, tmp_path / "target"), hugging_face(variant, "float32")
    own = with_layer_behind(folder, model.config, architecture.endswith("MTP"))
    config = json.loads((folder / "config.json").read_text())
    config |= dict(architectures=[architecture], num_nextn_predict_layers=1)
    (folder / "config.json").write_text(json.dumps(config))
    draft = Draft(folder)
    features = torch.randn(TOKENS, model.config.hidden_size, generator=torch.Generator().manual_seed(2))
    ids = np.arange(TOKENS) * 7 % model.config.vocab_size
    wanted = layer_behind(model, own, draft.embedding[ids], features, offset)
    found, _ = draft.run(ids, features, (6, 7, TOKENS))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_tokens_of_a_smaller_vocabulary_are_told_apart(tmp_path):
    folder = drafts.save(tmp_path / "draft", drafts.EAGLE3)
    network = PagedModel(folder).network
    tensors = load_file(folder / "model.safetensors")
    tokens = network.offsets.d2t.asnumpy() + np.arange(drafts.EAGLE3["draft_vocab_size"])
    assert tokens.tolist() == np.flatnonzero(tensors["t2d"]).tolist()
