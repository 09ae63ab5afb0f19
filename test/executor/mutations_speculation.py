"""Faults of speculative decoding, each as a change of the sources and the tests that fail with it.

python test/executor/mutations_speculation.py          # makes each change in turn, runs its tests, and undoes it
python test/executor/mutations_speculation.py hook     # those whose names have this in them
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # test/, as pytest has it
from mutating import Mutation, run

EXECUTOR = "python/sglang/srt/model_executor_ms"
PLUGIN, KERNELS = f"{EXECUTOR}/plugin.py", f"{EXECUTOR}/runner/spec_kernels.py"
TREES, CHAINS = f"{EXECUTOR}/runner/spec_trees.py", f"{EXECUTOR}/npu/draft_chains.py"
SEAMS = f"{EXECUTOR}/seams/speculation.py"
HOOKED = "test/seams/test_sglang_speculation_seams.py -k every_hook"
OF_KERNELS = "test/executor/test_speculative_kernels.py -k"
OF_TREES = "test/executor/test_spec_trees.py -k"
REFUSED = "test/executor/test_speculation_arguments.py -k"
OF_DRAFTS = "test/models/test_drafts.py -k transcription"


def lost_hook(call: str, file: str = PLUGIN) -> Mutation:
    indent = " " * (len(call) - len(call.lstrip()))
    return Mutation(f"a hook that is lost: {call.lstrip()}", file, f"    {call}", f"    {indent}pass  # ", HOOKED)


LOST = (
    "speculation.penalize_with(",
    "speculation.take_accepted_with(",
    "speculation.relay_with(",
    "speculation.move_accepted_with(",
    "speculation.select_drafts_uncompiled()",
    "batches.scale_penalties_uncompiled()",
    "speculation.attend_drafts_with(",
    "speculation.widen_slot_rows_with(",
    "speculation.keep_whole_states()",
    "speculation.mask_drafts_only()",
    "speculation.verify_with(spec_kernels.build_tree",
    "speculation.verify_with(chains.build_chain",
    "speculation.sample_with(spec_kernels.verify_tree",
    "speculation.sample_with(chains.verify_chain",
    "    speculation.look_up_with(",
)

MUTATIONS = (
    *(lost_hook(call) for call in LOST),
    Mutation(
        "a hook that is lost: a pool's move",
        SEAMS,
        'for pool in ("MHATokenToKVPool", "MLATokenToKVPool"):',
        'for pool in ("MHATokenToKVPool",):',
        HOOKED,
    ),
    Mutation(
        "a hook that is lost: small masks of n-grams", SEAMS, "ngram_worker.USE_FULL_MASK = False", "pass", HOOKED
    ),
    Mutation(
        "a hook that is lost: the table of slots",
        SEAMS,
        '    hooks.replace(f"{ALLOCATION}.assign_req_to_token_pool_func", note)\n',
        "",
        HOOKED,
    ),
    Mutation(
        "a hook that is lost: the last slots",
        PLUGIN,
        "spec_kernels.reconstruct_tree)\n        memory.find_last_slots_with(allocation.last_slots)",
        "spec_kernels.reconstruct_tree)",
        HOOKED,
    ),
    # ---- trees ----
    Mutation(
        "trees whose drafts all go on from the first token",
        KERNELS,
        "chosen.index(rows[draft // topk]) + 1",
        "0 * len(rows)",
        f"{OF_KERNELS} trees_are_those",
    ),
    Mutation(
        "trees that see no ancestors", KERNELS, "sees[token] |= sees[parent]", "pass", f"{OF_KERNELS} trees_are_those"
    ),
    Mutation(
        "siblings that are no one's",
        KERNELS,
        "siblings[token], children[parent] = children[parent], token",
        "children[parent] = token",
        f"{OF_KERNELS} trees_are_those",
    ),
    Mutation(
        "trees of EAGLE verified as chains",
        TREES,
        "forward_batch.spec_info.tree_topk == 1",
        "forward_batch.spec_info.tree_topk > 0",
        f"{OF_TREES} each_token",
    ),
    Mutation(
        "tokens of a tree with the lengths of a chain",
        TREES,
        "(lengths[of] + path.sum(-1))",
        "(lengths[of] + n)",
        f"{OF_TREES} each_token",
    ),
    Mutation(
        "tokens of a tree in the places of a chain",
        TREES,
        "(lengths[of][:, None] + path.cumsum(-1) - 1)[row, token]",
        "(lengths[of][:, None] + np.arange(n))[np.arange(len(of))[row] * 0, token]",
        f"{OF_TREES} each_token",
    ),
    Mutation(
        "branches whose drafts are one place off",
        TREES,
        "np.arange(-drafts, 0)",
        "np.arange(-drafts, 0) - 1",
        f"{OF_TREES} branch_sees",
    ),
    Mutation(
        "branches that see each other's drafts",
        f"{EXECUTOR}/runner/draft_steps.py",
        "slots[-1], slots.T.numpy()",
        "slots[-1], None",
        f"{OF_TREES} branch_sees",
    ),
    Mutation(
        "adapters of trees' requests in the rows of others",
        f"{EXECUTOR}/runner/step_inputs.py",
        "slots = {name: None if own is None else own[of] for",
        "slots = {name: None if own is None else np.resize(own, len(of)) for",
        f"{OF_TREES} adapter",
    ),
    Mutation(
        "lengths of a verify step without its drafts",
        f"{EXECUTOR}/runner/step_inputs.py",
        "np.full(len(seq_lens), drafts), seq_lens + drafts",
        "np.full(len(seq_lens), drafts), seq_lens",
        "test/executor/test_step_inputs.py",
    ),
    # ---- what is accepted ----
    Mutation(
        "siblings that are never tried",
        KERNELS,
        "                child = siblings[child]\n            if child < 0:",
        "                child = -1\n            if child < 0:",
        f"{OF_KERNELS} what_is_accepted",
    ),
    Mutation(
        "drafts accepted that the target would not choose",
        KERNELS,
        "tokens[child] != targets[path[-1]]",
        "tokens[child] > targets[path[-1]]",
        f"{OF_KERNELS} what_is_accepted",
    ),
    Mutation(
        "more accepted than a step may give",
        KERNELS,
        "        while len(path) < accept_index.shape[1]:\n            child = children[path[-1]]",
        "        while True:\n            child = children[path[-1]]",
        f"{OF_KERNELS} room_for",
    ),
    Mutation(
        "siblings' probabilities that do not add up",
        KERNELS,
        "mass += single",
        "mass = single",
        f"{OF_KERNELS} coins_decide",
    ),
    Mutation(
        "refused drafts that are drawn",
        KERNELS,
        "refused.append(tokens[child])",
        "refused.append(tokens[child] * 0 + 5)",
        f"{OF_KERNELS} coins_decide",
    ),
    Mutation("impossible drafts accepted", KERNELS, "if single > 0 and (", "if (", f"{OF_KERNELS} impossible"),
    Mutation("a threshold that is not asked", KERNELS, "mass / threshold_acc", "mass", f"{OF_KERNELS} coins_decide"),
    Mutation(
        "tokens that are moved onto others",
        KERNELS,
        "tgt_loc[moved], src_loc[moved]",
        "tgt_loc[moved], src_loc[: moved.sum()]",
        f"{OF_TREES} elsewhere",
    ),
    # ---- chains on an NPU ----
    Mutation(
        "chains that see the drafts after them",
        CHAINS,
        "steps[:, None] >= steps",
        "steps[:, None] >= -steps",
        f"{OF_KERNELS} chains_on_an_npu",
    ),
    Mutation(
        "chains accepted behind a refused draft",
        CHAINS,
        "chosen.to(torch.int32).cumprod(1).sum(1)",
        "chosen.to(torch.int32).sum(1)",
        f"{OF_KERNELS} chains_on_an_npu",
    ),
    Mutation(
        "chains whose refused draft is drawn",
        CHAINS,
        "last.masked_fill(tokens == refused, 0)",
        "last",
        f"{OF_KERNELS} same_coins",
    ),
    Mutation(
        "chains whose impossible drafts are accepted", CHAINS, "(single > 0) & (", "(", f"{OF_KERNELS} impossible"
    ),
    Mutation(
        "chains that read lengths from the device",
        CHAINS,
        "n, device = num_verify_tokens, seq_lens.device",
        "n, device = num_verify_tokens + 0 * seq_lens.tolist()[0], seq_lens.device",
        f"{OF_KERNELS} nothing_of_a_chain",
    ),
    Mutation(
        "slots that are gathered on the host",
        KERNELS,
        "torch.arange(width, device=starts.device)",
        "torch.arange(width)",
        f"{OF_KERNELS} nothing_of_a_chain",
    ),
    Mutation(
        "new slots noted for the request before",
        KERNELS,
        "(numbers[:, None] >= ends)",
        "(numbers[:, None] > ends)",
        f"{OF_KERNELS} slots_are_those",
    ),
    Mutation(
        "trees let through as chains on an NPU", CHAINS, "if topk != 1 or", "if", f"{OF_KERNELS} chains_on_an_npu"
    ),
    Mutation(
        "a map of tokens that stays on the host",
        f"{EXECUTOR}/runner/drafts.py",
        "torch.device(get_device().device)",
        'torch.device("cpu")',
        "test/ascend/test_speculation.py -k map_of_tokens",
    ),
    Mutation(
        "hidden states projected before they are there",
        f"{EXECUTOR}/npu/graph_runner.py",
        "return self.link.graph(lambda: function(rows))",
        "return function(rows)",
        "test/ascend/test_speculation.py -k projected",
    ),
    Mutation(
        "a card without room for a draft",
        f"{EXECUTOR}/npu/start.py",
        "None if draft is None else weights + draft",
        "None if draft is None else weights",
        "test/ascend/test_start.py -k share_of_the_card",
    ),
    Mutation(
        "graphs of a target without drafts found again with them",
        f"{EXECUTOR}/npu/start.py",
        "return spec.speculative_algorithm, spec",
        "return spec",
        "test/ascend/test_start.py -k what_drafts",
    ),
    Mutation(
        "sums fused with norms that EAGLE3 reads",
        f"{EXECUTOR}/runner/causal_lm.py",
        'or get_spec().speculative_algorithm == "EAGLE3"',
        "",
        "test/ascend/test_start_path.py -k adds_up_in_no_order",
    ),
    # ---- hidden states ----
    Mutation(
        "hidden states of the layer before",
        "python/sglang/srt/models_ms/aux_layers.py",
        "[layer + 1 for layer in layer_ids]",
        "list(layer_ids)",
        f"{REFUSED} layers_that_sglang_reads",
    ),
    Mutation(
        "hidden states without what the layer adds",
        "python/sglang/srt/models_ms/decoder.py",
        "aux = aux + (x if residual is None else ops.add(x, residual, 1.0),)",
        "aux = aux + (x,)",
        "test/executor/test_step.py -k auxiliary_hidden_states_are",
    ),
    Mutation(
        "a draft that norms what it hands on",
        "python/sglang/srt/models_ms/eagle.py",
        "ops.without_valid_rows(x if self.norm_output else total)",
        "ops.without_valid_rows(x)",
        OF_DRAFTS,
    ),
)

if __name__ == "__main__":
    run(MUTATIONS)
