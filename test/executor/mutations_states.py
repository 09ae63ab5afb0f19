"""Faults of layers with a state, sparse attention and pooling, each as a change of the sources and what fails with it.

python test/executor/mutations_states.py           # makes each change in turn, runs its tests, and undoes it
python test/executor/mutations_states.py pooled    # those whose names have this in them
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # test/, as pytest has it
from mutating import Mutation, run

SRT = "python/sglang/srt"
SERVER, CACHES = f"{SRT}/model_executor_ms/server/states.py", f"{SRT}/model_executor_ms/runner/kv_caches.py"
INPUTS, NPU = f"{SRT}/model_executor_ms/runner/step_inputs.py", f"{SRT}/model_executor_ms/npu/states.py"
OPS = f"{SRT}/layers_ms/ops"
REFERENCE, CPU, SPARSE = f"{OPS}/reference/states.py", f"{OPS}/cpu/states.py", f"{OPS}/reference/sparse.py"
CONVOLVED, RECURRENT = f"{OPS}/ascend/states.py", f"{OPS}/ascend/recurrent.py"
RULES, SPACE = f"{OPS}/ascend/delta_rules.py", f"{OPS}/ascend/state_space.py"
SPECS, DELTA, MAMBA = (f"{SRT}/layers_ms/{name}.py" for name in ("cache_spec", "delta_net", "mamba2"))
INDEXER, DSA = f"{SRT}/layers_ms/indexer.py", f"{SRT}/models_ms/deepseek_v32.py"
POOLING, RECIPES = (f"{SRT}/model_executor_ms/runner/{name}.py" for name in ("pooling", "sentence_transformers"))
POOLED, ENCODER, ROBERTA = (f"{SRT}/models_ms/{name}.py" for name in ("pooled", "encoder", "xlm_roberta"))
MODERN = f"{SRT}/models_ms/modernbert.py"
OF_SLOTS = "test/executor/test_state_slots.py -k"
OF_OPERATORS = "test/ops/test_states.py -k"
ON_REFERENCE = '"reference and {}"'
OF_SPARSE = 'test/ops/test_sparse.py -k "reference"'
OF_LOGITS = "test/models/test_logits.py -k"
ON_NPU, ON_NPU_RECURRENT = "test/ascend/test_states.py -k", "test/ascend/test_recurrent.py -k"
OF_ENCODERS, OF_POOLED = "test/models/test_encoders.py -k", "test/models/test_pooled.py -k"
OF_RECIPES = "test/executor/test_sentence_transformers.py -k"


def on_reference(test: str) -> str:
    return f"{OF_OPERATORS} {ON_REFERENCE.format(test)}"


MUTATIONS = (
    # ---- slots ----
    Mutation(
        "slots without a buffer, and steps that overlap",
        SERVER,
        "found |= dict(page_size=1, disable_overlap_schedule=True)",
        "found |= dict(page_size=1)",
        f"{OF_SLOTS} without_a_buffer",
    ),
    Mutation(
        "slots for steps that overlap, of which each request lacks one",
        SERVER,
        "(1 if view.disable_overlap_schedule or view.pp_size > 1 else 2)",
        "1",
        f"{OF_SLOTS} further_slots",
    ),
    Mutation(
        "slots of one replica alone",
        SERVER,
        "slots * each * view.dp_size",
        "slots * each",
        f"{OF_SLOTS} default_number",
    ),
    Mutation(
        "pages that end between two states that are kept",
        SERVER,
        "if max(page, chunk) % min(page, chunk):",
        "if False:",
        f"{OF_SLOTS} divide_each_other",
    ),
    Mutation("trees of drafts behind one state", SERVER, "if width > 1:", "if False:", f"{OF_SLOTS} chain"),
    Mutation(
        "a step whose requests are given slots by their place in it",
        INPUTS,
        "slots_of_requests[forward_batch.req_pool_indices].numpy()",
        "slots_of_requests[: len(forward_batch.req_pool_indices)].numpy()",
        f"{OF_SLOTS} slot_of_each_request",
    ),
    Mutation(
        "a retracted or aborted request's states that stay",
        CACHES,
        "for state in (*self.convs.values(), *self.recurrent.values()):\n            state.zero_()",
        "for state in self.convs.values():\n            state.zero_()",
        f"{OF_SLOTS} forgotten",
    ),
    Mutation(
        "a pool of other states that is taken",
        CACHES,
        "if tuple(state.shape[1:]) != wanted:",
        "if False:",
        f"{OF_SLOTS} other_states",
    ),
    Mutation(
        "accepted drafts whose state is that behind the first",
        CACHES,
        "(torch.arange(len(slots)), steps.long())",
        "(torch.arange(len(slots)), 0 * steps.long())",
        f"{OF_SLOTS} accepted_drafts",
    ),
    Mutation(
        "accepted drafts that leave a recurrent state as it was",
        CACHES,
        "if layer in self.recurrent:\n                self",
        "if False:\n                self",
        f"{OF_SLOTS} accepted_drafts",
    ),
    # ---- snapshots ----
    Mutation(
        "a snapshot of prompts behind their first token",
        INPUTS,
        "if not forward_batch.forward_mode.is_decode_or_idle():\n        lens",
        "if False:\n        lens",
        f"{OF_SLOTS} where_and_when",
    ),
    Mutation(
        "a snapshot of a request that SGLang wants none of",
        INPUTS,
        "kept = mask & (slots >= 0) & (lens > 0)",
        "kept = slots >= 0",
        f"{OF_SLOTS} where_and_when",
    ),
    Mutation(
        "a snapshot on an NPU off the grid",
        NPU,
        "counted // chunk * chunk",
        "counted",
        f"{ON_NPU} every_kind",
    ),
    Mutation(
        "a snapshot on an NPU of a request that SGLang wants none of",
        NPU,
        "mask & (slots >= 0) & (lens > 0)",
        "slots >= 0",
        f"{ON_NPU} every_kind",
    ),
    Mutation(
        "a snapshot that is the state behind the whole step",
        REFERENCE,
        'for lens in (step["query_lens"], step["track_lens"]):',
        'for lens in (step["query_lens"], step["query_lens"]):',
        on_reference("second_slot"),
    ),
    Mutation(
        "a snapshot in the place of the state",
        REFERENCE,
        'others = mint.where(step["track_slots"] < 0, slots, step["track_slots"])',
        "others = slots",
        on_reference("second_slot"),
    ),
    Mutation(
        "a snapshot on a CPU with the lengths of the step",
        CPU,
        'return slots, step["query_lens"], step["track_slots"], step["track_lens"], rows',
        'return slots, step["query_lens"], step["track_slots"], step["query_lens"], rows',
        f'{OF_OPERATORS} "cpu and second_slot"',
    ),
    Mutation(
        "a snapshot on an NPU in a request's own slot",
        CONVOLVED,
        'kernels.select(kernels.greater(tracks, -1), tracks, step["state_slots"])',
        'step["state_slots"]',
        f"{ON_NPU} goes_on_from",
    ),
    Mutation(
        "a snapshot on an NPU within a piece",
        RECURRENT,
        "cuts = np.unique([*range(0, tokens, PIECE), tracked, tokens])",
        "cuts = np.unique([*range(0, tokens, PIECE), tokens])",
        f"{ON_NPU_RECURRENT} pieces_end",
    ),
    # ---- convolutions ----
    Mutation(
        "a convolution that keeps a value too old",
        REFERENCE,
        'last = (step["request_numbers"] * rows.shape[1] + lens)',
        'last = (step["request_numbers"] * rows.shape[1] + lens - 1)',
        on_reference("convolution"),
    ),
    Mutation(
        "a convolution of values that no slot could hold, so that cuts show",
        REFERENCE,
        "mint.nn.functional.silu(_conv(_rounded(x, state), weight",
        "mint.nn.functional.silu(_conv(x, weight",
        on_reference("convolved_as_one"),
    ),
    Mutation(
        "a convolution on an NPU that reads its slots' values in reverse",
        CONVOLVED,
        "tokens - (numbers + 1) * len(requests) + of",
        "tokens + numbers * 0 + of",
        f"{ON_NPU} goes_on_from",
    ),
    # ---- rules ----
    Mutation(
        "gates of padding that count",
        REFERENCE,
        "beta = mint.sigmoid(b).permute(0, 2, 1) * counts",
        "beta = mint.sigmoid(b).permute(0, 2, 1)",
        on_reference("(the_delta_rule and goes_on)"),
    ),
    Mutation(
        "queries that are not divided by the root of their length",
        REFERENCE,
        "q, v, before = q * key_size**-0.5, _heads(v, heads)",
        "q, v, before = q, _heads(v, heads)",
        on_reference("(the_delta_rule and goes_on)"),
    ),
    Mutation(
        "Kimi's rule with one rate for all values of a key",
        REFERENCE,
        "_heads(_softplus(forget + dt_bias), heads) * -ops",
        "mint.mean(_heads(_softplus(forget + dt_bias), heads), -1, True) * -ops",
        on_reference("(kimis and goes_on)"),
    ),
    Mutation(
        "a state space whose steps have no bounds",
        REFERENCE,
        "ops.clip_by_value(_softplus(dt + dt_bias), low, high)",
        "_softplus(dt + dt_bias)",
        on_reference("(state_space and goes_on)"),
    ),
    Mutation(
        "a state space without what skips it",
        REFERENCE,
        "found = found + skip.reshape(1, -1, 1, 1) * v\n",
        "",
        on_reference("(state_space and goes_on)"),
    ),
    Mutation(
        "a norm that is gated on the wrong side",
        REFERENCE,
        "y = x * gate if gate_first else x",
        "y = x if gate_first else x * gate",
        'test/ops/test_gated_norms.py -k "reference and gated_behind"',
    ),
    Mutation(
        "pieces of prompts on an NPU that forget what is before the last",
        RECURRENT,
        "back, number = kernels.add(back, back), number * 2",
        "back, number = back, number * 2",
        f"{ON_NPU_RECURRENT} prompts_in_pieces",
    ),
    Mutation(
        "a delta rule on an NPU that is solved halfway",
        RULES,
        "SQUARINGS = 6",
        "SQUARINGS = 2",
        ON_NPU_RECURRENT + " prompts_in_pieces",
    ),
    # ---- layers ----
    Mutation(
        "layers whose states come before the keys of others",
        SPECS,
        "key=lambda cell: isinstance(cell.cache_spec, StateSpec)",
        "key=lambda cell: not isinstance(cell.cache_spec, StateSpec)",
        f'{OF_LOGITS} "cpu and qwen3_5 and mixed_batch"',
    ),
    Mutation(
        "layers whose recurrent state is their convolution's",
        SPECS,
        'return self._states(step["v_caches"])',
        'return self._states(step["k_caches"])',
        f'{OF_LOGITS} "cpu and qwen3_5 and mixed_batch"',
    ),
    Mutation(
        "Qwen3-Next's gates read as Qwen3.5's",
        DELTA,
        "[one for start in (0, heads.group) for one in rows(*ba, start, heads.group)]",
        "[one for start in (heads.group, 0) for one in rows(*ba, start, heads.group)]",
        f'{OF_LOGITS} "cpu and qwen3_next-mixed_batch"',
    ),
    Mutation(
        "Mamba-2's norm over all groups together",
        MAMBA,
        'self.weight, self.eps, self.group, "silu", True)',
        'self.weight, self.eps, self.group * self.groups, "silu", True)',
        f'{OF_LOGITS} "cpu and nemotron_h-mixed_batch"',
    ),
    # ---- sparse attention ----
    Mutation(
        "an index that sees later tokens",
        SPARSE,
        "scores = mint.where(mla.seen(step), scores, -math.inf)",
        "scores = scores + 0.0",
        OF_SPARSE,
    ),
    Mutation(
        "an index whose products below zero count", SPARSE, "mint.nn.functional.relu(products)", "products", OF_SPARSE
    ),
    Mutation(
        "an index that attention does not heed",
        SPARSE,
        "visible = mint.sum(found.astype(q.dtype), -1) > 0",
        "visible = mint.sum(found.astype(q.dtype), -1) > -1",
        OF_SPARSE,
    ),
    Mutation(
        "an index whose keys lie where others of the row do",
        INDEXER,
        "column = config.kv_lora_rank + config.qk_rope_head_dim",
        "column = config.kv_lora_rank",
        f'{OF_LOGITS} "cpu and deepseek_v32-mixed_batch"',
    ),
    Mutation(
        "an index that rotates GLM-5's keys as DeepSeek's",
        DSA,
        "index_interleave = True",
        "index_interleave = False",
        f'{OF_LOGITS} "cpu and glm_moe_dsa-mixed_batch"',
    ),
    Mutation(
        "an index of the first layer for all",
        DSA,
        'return not self.indexer_types or self.indexer_types[layer_id] == "full"',
        "return layer_id == 0",
        f'{OF_LOGITS} "cpu and deepseek_v32-mixed_batch"',
    ),
    Mutation(
        "an index that a stage would have of another",
        DSA,
        "if self.sparse and not self.chooses(self.layer_range.start):",
        "if False:",
        "test/models/test_mla_config.py",
    ),
    # ---- pooling ----
    Mutation(
        "pooled means of the whole step",
        POOLING,
        "torch.stack([rows.mean(0) for rows in hidden_states.split(forward_batch.extend_seq_lens.tolist())])",
        "hidden_states.mean(0).expand(len(forward_batch.extend_seq_lens), -1)",
        f'{OF_ENCODERS} "cpu and pooled_as_the_recipe"',
    ),
    Mutation(
        "pooled first tokens where the last are asked for",
        POOLING,
        '"lasttoken": _by_sglang(PoolingType.LAST), "cls"',
        '"lasttoken": _by_sglang(PoolingType.CLS), "cls"',
        f'{OF_ENCODERS} "cpu and pooled_as_the_recipe"',
    ),
    Mutation(
        "pooled vectors that are cut behind their norm",
        POOLING,
        "return normalize(pooled[:, : dimensions[0]], dim=-1)",
        "return normalize(pooled, dim=-1)[:, : dimensions[0]]",
        f'{OF_POOLED} "cpu and cut_before"',
    ),
    Mutation(
        "pooled products that are left out",
        RECIPES,
        'return Recipe(*poolings[0]["modes"], tuple(dense))',
        'return Recipe(*poolings[0]["modes"])',
        f"{OF_RECIPES} behind_the_pooling",
    ),
    Mutation(
        "pooled prompts that were to be left out",
        RECIPES,
        "if not prompt:",
        "if False:",
        f"{OF_RECIPES} without_the_prompt",
    ),
    Mutation(
        "pooled as SGLang does by default, whatever the files say",
        RECIPES,
        "    if modules is None:\n        return Recipe(default)\n    dense",
        "    if modules is not None:\n        return Recipe(default)\n    dense",
        f"{OF_RECIPES} one_pooling",
    ),
    # ---- encoders ----
    Mutation(
        "an encoder that sees no later tokens",
        ENCODER,
        "out_bias=True, bidirectional=True)",
        "out_bias=True)",
        f'{OF_ENCODERS} "cpu and whole_texts"',
    ),
    Mutation(
        "an encoder without types of tokens",
        ENCODER,
        "self.norm.plain(ops.add(self.embed(x, step), types, 1.0))",
        "self.norm.plain(ops.add(self.embed(x, step), types, 0.0))",
        f'{OF_ENCODERS} "cpu and told_apart"',
    ),
    Mutation(
        "an encoder whose places begin with padding's",
        ROBERTA,
        "return self.pad_token_id + 1",
        "return self.pad_token_id",
        f'{OF_ENCODERS} "cpu and whole_texts and XLM"',
    ),
    Mutation(
        "an encoder whose windows are as wide as both sides together",
        POOLED,
        "window // 2 + 1 if window else 0",
        "window",
        f'{OF_ENCODERS} "cpu and whole_texts and Gemma"',
    ),
)

if __name__ == "__main__":
    run(MUTATIONS)
