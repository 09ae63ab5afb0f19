"""Faults of penalties, of a draft's own tokens, of attention of a few queries, and of refusals; with their tests.

python test/executor/mutations_drafts.py          # makes each change in turn, runs its tests, and undoes it
python test/executor/mutations_drafts.py refuse   # those whose names have this in them
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # test/, as pytest has it
from mutating import Mutation, run

EXECUTOR = "python/sglang/srt/model_executor_ms"
SEAMS, ARGUMENTS = f"{EXECUTOR}/seams/speculation.py", f"{EXECUTOR}/server/speculation.py"
PENALTIES, OF_PENALTIES = f"{EXECUTOR}/runner/spec_penalties.py", "test/executor/test_spec_penalties.py"
KERNELS = f"{EXECUTOR}/runner/spec_kernels.py"
OF_N_GRAMS = "test/executor/test_speculative_kernels.py -k prompts"
OWN_TOKENS = "test/serving/test_eagle.py -k vocabulary_of_their_own"
ATTENTION, FEW = (f"python/sglang/srt/layers_ms/ops/cpu/src/{name}.h" for name in ("attention", "attention_few_rows"))
OF_QUERIES = "test/ops/test_few_queries.py"
REFUSED = "test/executor/test_speculation_arguments.py -k"

MUTATIONS = (
    # ---- penalties ----
    Mutation(
        "penalties without the drafts before a draft",
        PENALTIES,
        "np.append(request.output_ids, own[1:][path])",
        "np.append(request.output_ids, own[:0])",
        OF_PENALTIES,
    ),
    Mutation(
        "penalties for the drafts of other branches",
        PENALTIES,
        "own[1:][path]",
        "own[1 : 1 + path.sum()]",
        OF_PENALTIES,
    ),
    Mutation(
        "penalties of SGLang's too",
        SEAMS,
        "info.acc_additive_penalties = info.acc_scaling_penalties = None",
        "pass",
        "test/seams/test_sglang_speculation_seams.py -k penalties",
    ),
    Mutation(
        "answers that end too soon", PENALTIES, "< asked.min_new_tokens", "< asked.min_new_tokens - 1", OF_PENALTIES
    ),
    # ---- n-grams ----
    Mutation(
        "prompts that are not looked up",
        KERNELS,
        "    _put_prompts(worker, batch)",
        "    pass",
        OF_N_GRAMS,
    ),
    Mutation(
        "prompts that are put at each step",
        KERNELS,
        "if n == len(request.origin_input_ids)]",
        "if n]",
        OF_N_GRAMS,
    ),
    # ---- a draft's own tokens ----
    Mutation(
        "tokens of a draft taken for those of its target",
        f"{EXECUTOR}/runner/drafts.py",
        "if self.is_draft and self.network.offsets is not None:",
        "if False:",
        OWN_TOKENS,
    ),
    Mutation(
        "a map of tokens that says only how far they are moved",
        f"{EXECUTOR}/runner/drafts.py",
        "offsets + np.arange(len(offsets))",
        "offsets",
        OWN_TOKENS,
    ),
    Mutation(
        "a map of tokens that begins one later",
        f"{EXECUTOR}/runner/drafts.py",
        "offsets + np.arange(len(offsets))",
        "offsets + np.arange(1, 1 + len(offsets))",
        OWN_TOKENS,
    ),
    Mutation(
        "a draft that reads the layers of its target in another order",
        "python/sglang/srt/models_ms/aux_layers.py",
        "[layer + 1 for layer in layer_ids]",
        "[layer + 1 for layer in layer_ids][::-1]",
        OWN_TOKENS,
    ),
    # ---- attention of a few queries, in C++ ----
    Mutation(
        "drafts that see the keys of those after them",
        ATTENTION,
        "std::min(before + query + 1, begin(query) + kSplit)",
        "std::min(before + queries, begin(query) + kSplit)",
        OF_QUERIES,
    ),
    Mutation(
        "drafts whose windows begin with that of the first",
        ATTENTION,
        "if (begin(0) == begin(queries - 1)) done",
        "done",
        OF_QUERIES,
    ),
    Mutation(
        "drafts without the last piece of their keys",
        ATTENTION,
        "piece < pieces_of(a, task.request, query); ++piece",
        "piece < pieces_of(a, task.request, 0); ++piece",
        OF_QUERIES,
    ),
    Mutation(
        "drafts with the results of those before them",
        ATTENTION,
        "const int64_t row = part.first_query * group;",
        "const int64_t row = 0 * group;",
        OF_QUERIES,
    ),
    Mutation(
        "results of a head in the place of another one's",
        ATTENTION,
        "return all.part(task.queries * task.kv_head * group, rows_of(a, task));",
        "return all.part(task.kv_head * group, rows_of(a, task));",
        OF_QUERIES,
    ),
    Mutation(
        "distances of all drafts from their keys as that of the first",
        FEW,
        "first - place - query);",
        "first - place - 0 * query);",
        OF_QUERIES,
    ),
    # ---- refusals ----
    Mutation(
        "a tree on an NPU that is let in",
        ARGUMENTS,
        "width > 1 and read_environment().as_on_npu(view.device):",
        "width > 1 and read_environment().as_on_npu('cpu'):",
        f"{REFUSED} named",
    ),
    Mutation(
        "steps that change in number on an NPU",
        ARGUMENTS,
        'if view.speculative_adaptive and view.device != "cpu":',
        "if False:",
        f"{REFUSED} named",
    ),
    Mutation("an embedding server that drafts", ARGUMENTS, "if view.is_embedding:", "if False:", f"{REFUSED} named"),
    Mutation(
        "processors of logits that nobody calls",
        ARGUMENTS,
        "if view.enable_custom_logit_processor:",
        "if False:",
        f"{REFUSED} named",
    ),
    Mutation(
        "hidden states that are empty",
        ARGUMENTS,
        'if view.return_hidden_states_mode and view.speculative_algorithm == "STANDALONE":',
        "if False:",
        f"{REFUSED} named",
    ),
    Mutation("stages that draft", ARGUMENTS, "if view.pp_size > 1:", "if False:", f"{REFUSED} named"),
    Mutation("replicas that draft", ARGUMENTS, "if view.attn_dp_size > 1:", "if False:", f"{REFUSED} named"),
    Mutation("placed experts with drafts", ARGUMENTS, "    if experts:", "    if False:", f"{REFUSED} named"),
    Mutation(
        "n-grams without a compiler", ARGUMENTS, "problems += _compiler_problems()", "pass", f"{REFUSED} compiler"
    ),
    Mutation(
        "a draft of other tokens",
        ARGUMENTS,
        "if draft.vocab_size != target.vocab_size:",
        "if False:",
        f"{REFUSED} other_tokens",
    ),
    Mutation(
        "a draft of an unknown kind",
        ARGUMENTS,
        "if alone and not set(written) & set(MODELS):",
        "if False:",
        f"{REFUSED} unknown_kind",
    ),
    Mutation(
        "a draft that is a layer of EAGLE",
        ARGUMENTS,
        "if alone and list(read) != list(written):",
        "if False:",
        f"{REFUSED} layer_of_eagle",
    ),
    Mutation(
        "a draft of another width",
        ARGUMENTS,
        "if not alone and wanted != target.hidden_size:",
        "if False:",
        f"{REFUSED} as_wide",
    ),
    Mutation(
        "a draft that is not computed",
        ARGUMENTS,
        "if not alone and not set(read) & set(DRAFTS):",
        "if False:",
        f"{REFUSED} as_wide",
    ),
    Mutation(
        "a draft of layers that are not there",
        ARGUMENTS,
        'if view.speculative_algorithm == "EAGLE3" else []',
        "if False else []",
        f"{REFUSED} as_wide",
    ),
    Mutation(
        "a layer behind the last that is not there",
        ARGUMENTS,
        'getattr(draft.hf_config, "num_nextn_predict_layers", None) == 0',
        "False",
        f"{REFUSED} says_that_it_has_no_layer",
    ),
    Mutation(
        "a draft with states",
        ARGUMENTS,
        "if alone and mambaish_config(draft) is not None:",
        "if False:",
        f"{REFUSED} state",
    ),
    Mutation(
        "states behind drafts on an NPU",
        f"{EXECUTOR}/server/states.py",
        "if read_environment().as_on_npu(view.device):\n        raise",
        "if False:\n        raise",
        "test/executor/test_state_slots.py -k chain_where",
    ),
    Mutation(
        "room for drafts that is not left",
        f"{EXECUTOR}/runner/admission.py",
        "-(-_drafts(scheduler) // page) * page",
        "0",
        "test/executor/test_admission.py -k room_for_drafts",
    ),
)

if __name__ == "__main__":
    run(MUTATIONS)
