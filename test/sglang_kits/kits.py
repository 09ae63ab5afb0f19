"""SGLang's own tests, sglang.test.kits: which servers of ours they run against, and which do not apply, and why.

A kit is a class of unittest methods that asks a server. Names are module.Class of sglang.test.kits.
"""

from typing import NamedTuple


class Server(NamedTuple):
    """Arguments and environment of a server of ours."""

    flags: tuple[str, ...] = ()
    environment: dict[str, str] = {}


COMMON = ("--max-total-tokens", "32768", "--constrained-json-disable-any-whitespace", "--random-seed", "1")
SERVERS = {
    "plain": Server(("--max-running-requests", "32")),
    "hidden states": Server(("--enable-return-hidden-states",)),
    "waiting": Server(("--max-running-requests", "1"), {"SGLANG_REQ_WAITING_TIMEOUT": "0.001"}),
    "running": Server(("--max-running-requests", "16"), {"SGLANG_REQ_RUNNING_TIMEOUT": "3"}),
}
KITS = {
    "basic_api_contract_kit.BasicAPIContractMixin": "plain",
    "basic_decode_correctness_kit.BasicDecodeCorrectnessMixin": "plain",
    "basic_scheduler_stress_kit.BasicSchedulerStressMixin": "plain",
    "anthropic_messages_kit.AnthropicMessagesMixin": "plain",
    "regex_constrained_kit.RegexConstrainedMixin": "plain",
    "ebnf_constrained_kit.EBNFConstrainedMixin": "plain",
    "json_constrained_kit.JSONConstrainedMixin": "plain",
    "json_mode_kit.JSONModeMixin": "plain",
    "matched_stop_kit.MatchedStopMixin": "plain",
    "pause_generation_kit.PauseResumeInPlaceMixin": "plain",
    "abort_timeout_kit.AbortAllMixin": "plain",
    "spec_server_kits.SpecLogprobKit": "plain",
    "spec_server_kits.SpecPenaltyKit": "plain",
    "spec_server_kits.SpecFeatureKit": "plain",
    "spec_server_kits.SpecSamplingMaskKit": "plain",
    "spec_server_kits.SpecHiddenStatesKit": "hidden states",
    "abort_timeout_kit.WaitingTimeoutMixin": "waiting",
    "abort_timeout_kit.RunningTimeoutTwoWaveMixin": "running",
}
ACCURACY = "measures the accuracy of a large model on a data set"
SPECULATION = "wants speculative decoding"
REASONING = "wants a model that thinks"
LEFT_OUT = {
    "eval_accuracy_kit": ACCURACY,
    "lm_eval_kit": ACCURACY,
    "mmmu_vlm_kit": ACCURACY,
    "kl_divergence_kit": "reads a data set from the network",
    "unified_radix_cache_kit": ACCURACY,
    "cache_hit_kit": "measures a GPU's time to first token",
    "perf_bench_kit": "measures a GPU",
    "vlm_perf_kit": "measures a GPU",
    "fwd_occupancy_kit": "measures a GPU",
    "dsa_metadata_kit": "calls CUDA kernels",
    "pd_parity_kit": "wants disaggregated prefill",
    "prefix_cache_branching_kit": "is about the cache of state space models",
    "streaming_session_kit": "--enable-streaming-session is refused here",
    "reasoning_kit": REASONING,
    "spec_decoding_kit": SPECULATION,
    "spec_server_kits.SpecCorrectnessKit": SPECULATION,
    "spec_server_kits.SpecParityKit": SPECULATION,
    "spec_server_kits.SpecAccuracyKit": ACCURACY,
    "spec_server_kits.SpecPerfKit": "measures a GPU",
    "spec_server_kits.SpecGrammarKit": SPECULATION,
}
# Sizes of kits that are those of models with longer contexts, and of GPUs. By kit; "" is every kit.
SETTINGS: dict[str, dict] = {
    "": {"api_key": "none", "served_model_name": "default"},
    "abort_timeout_kit.AbortAllMixin": {"abort_all_max_new_tokens": 1500, "abort_all_num_requests": 16},
    "abort_timeout_kit.RunningTimeoutTwoWaveMixin": {"running_timeout_sleep": 1},
    "pause_generation_kit.PauseResumeInPlaceMixin": {"pause_duration": 2, "pause_ignore_eos": True},
}
# Tests that ask more than the demo model can: they are run on another checkpoint only.
KNOWLEDGE = "asks what a model of 3M parameters does not know"
JSON_ENDS = "wants JSON that ends: the grammar allows more, and so small a model goes on"
LLAMA = "wants end tokens of Llama"
BEYOND_DEMO = {
    "basic_decode_correctness_kit.BasicDecodeCorrectnessMixin.test_basic_math": KNOWLEDGE,
    "basic_decode_correctness_kit.BasicDecodeCorrectnessMixin.test_capital_france": KNOWLEDGE,
    "basic_decode_correctness_kit.BasicDecodeCorrectnessMixin.test_color_completion": KNOWLEDGE,
    "basic_scheduler_stress_kit.BasicSchedulerStressMixin.test_concurrent_requests": KNOWLEDGE,
    "basic_scheduler_stress_kit.BasicSchedulerStressMixin.test_streaming_response": KNOWLEDGE,
    "basic_scheduler_stress_kit.BasicSchedulerStressMixin.test_long_prompt": "has a prompt longer than 2048 tokens",
    "regex_constrained_kit.RegexConstrainedMixin.test_regex_generate_complex_json": JSON_ENDS,
    "ebnf_constrained_kit.EBNFConstrainedMixin.test_ebnf_generate_complex_json": "wants more keys than its grammar",
    "json_constrained_kit.JSONConstrainedMixin.test_json_openai": JSON_ENDS,
    "matched_stop_kit.MatchedStopMixin.test_finish_stop_eos": LLAMA,
    "matched_stop_kit.MatchedStopMixin.test_finish_stop_str": "wants an answer with a line's end",
    "spec_server_kits.SpecFeatureKit.test_constrained_decoding": JSON_ENDS,
    "spec_server_kits.SpecFeatureKit.test_radix_attention": "has tokens up to 31999",
}
