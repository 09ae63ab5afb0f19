"""Faults of chips, versions and arguments on NPUs, each as a change of the sources and the tests that fail with it.

    python test/ascend/mutations_chips.py           # makes each change in turn, runs its tests, and undoes it
    python test/ascend/mutations_chips.py phase     # those whose names have this in them

Exits with 1 where tests pass although the fault is back. Nothing else may change the sources meanwhile.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # test/, as pytest has it
from mutating import Mutation, run

EXECUTOR = "python/sglang/srt/model_executor_ms"
ASCEND = "python/sglang/srt/layers_ms/ops/ascend"

MUTATIONS = (
    Mutation(
        "a mode in the place of a mask on a 310P",
        f"{ASCEND}/attention.py",
        "return not decodes(forward_mode) and not host.profile().mask_modes",
        "return False",
        "test/ascend/test_masks_310p.py -k a_later_chunk",
    ),
    Mutation(
        "MLA's heads by a kernel that a 310P has not got",
        f"{ASCEND}/mla.py",
        "    if not _blockwise():\n        return kernels.multiply_heads(x, weights, transposed)\n",
        "    if True:\n        return kernels.multiply_heads(x, weights, transposed)\n",
        "test/ascend/test_masks_310p.py -k products_of_heads",
    ),
    Mutation(
        "the phase of prompts for graphs that decode uncaptured",
        f"{EXECUTOR}/npu/mode_graph.py",
        "return INCREMENT if captured or (decodes and not captures) else PREFILL",
        "return INCREMENT if captured else PREFILL",
        "test/ascend/test_phases.py -k no_activation",
    ),
    Mutation(
        "torch_npu without DLPack called good",
        f"{EXECUTOR}/npu/known_versions.py",
        "    return release in FIRST_WITH_DLPACK and",
        "    return True or",
        "test/ascend/test_check_env_chips.py -k without_dlpack",
    ),
    Mutation(
        "MindSpore for another processor called good",
        f"{EXECUTOR}/npu/known_versions.py",
        "if built_for not in (None, machine):",
        "if False:",
        "test/ascend/test_check_env_chips.py -k another_processor",
    ),
    Mutation(
        "CANN 9.1 without a torch_npu",
        f"{EXECUTOR}/npu/known_versions.py",
        '"9.1": ("2.7.1.post8", "2.9.0.post6", "2.10.0.post4", "2.11.0", "2.12.0"),',
        '"9.1": (),',
        "test/ascend/test_check_env_chips.py -k 'ready or published'",
    ),
    Mutation(
        "a 310P that is never ready",
        f"{EXECUTOR}/npu/known_versions.py",
        "    if is_310p:  # which has neither",
        "    if False:  # which has neither",
        "test/ascend/test_check_env_chips.py -k ready",
    ),
    Mutation(
        "an SGLang from source called wrong",
        f"{EXECUTOR}/npu/known_versions.py",
        "if version == UNNUMBERED and arguments == SGLANG_ARGUMENTS:",
        "if False:",
        "test/ascend/test_check_env_chips.py -k from_source",
    ),
    Mutation(
        "a copy called the same memory",
        f"{EXECUTOR}/npu/crossing.py",
        "if back.data_ptr() != sent.data_ptr():",
        "if False:",
        "test/ascend/test_check_env_chips.py -k lost",
    ),
    Mutation(
        "pages of 128 for heads of 256",
        f"{EXECUTOR}/server/framework.py",
        "view.page_size is None and _has_large_heads(server_args)",
        "False",
        "test/ascend/test_start_path.py -k heads_of_256",
    ),
    Mutation(
        "Ascend's sampler refused",
        f"{EXECUTOR}/server/flag_support.py",
        '"sampling_backend": (None, "pytorch", "ascend"),',
        '"sampling_backend": (None, "pytorch"),',
        "test/ascend/test_start_path.py -k sampler",
    ),
    Mutation(
        "sums in no order where seeds are to count",
        f"{EXECUTOR}/npu/causal_lm.py",
        "return super().fuses_allreduce(environment) and not start.deterministic()",
        "return super().fuses_allreduce(environment)",
        "test/ascend/test_start_path.py -k adds_up_in_no_order",
    ),
    Mutation(
        "static activations rounded row by row",
        f"{ASCEND}/quant.py",
        'if activations == "int8_static":',
        "if False:",
        "test/ascend/test_static_int8.py -k products",
    ),
)

if __name__ == "__main__":
    run(MUTATIONS)
