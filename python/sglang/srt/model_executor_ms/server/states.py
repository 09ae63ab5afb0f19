"""What a server's arguments become for a model whose layers keep a state of each request, beside keys and values.

SGLang has slots for states, as many as --max-mamba-cache-size says. A request that runs takes one, and so does each
prefix in the radix cache whose state is kept. The radix cache keeps the states of ends of prompts, of their chunks and
of answers (SGLang's strategy `no_buffer`), which wants pages of one token, and no step prepared before the last ends.
"""

import logging

from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag

logger = logging.getLogger(__name__)

RUNNING = 32  # requests at a time for which there are slots, where --max-running-requests does not say less
RATIO = 0.9  # what SGLang takes for --mamba-full-memory-ratio where it is not given: half of a CPU's memory for states
SLOTS_PER_REQUEST = 3  # SGLang lets a third as many requests run as there are slots, without a radix cache as many


def adjusted(view, model_config) -> dict:
    """Fields of ServerArgs and their values; {}: no layer of the model has a state. UnsupportedFlag."""
    from sglang.srt.configs.hybrid_arch import mambaish_config

    config = mambaish_config(model_config)
    if config is None:
        return {}
    _refuse(view, getattr(config, "model_type", ""))
    found = dict(page_size=1, mamba_radix_cache_strategy="no_buffer")
    if not view.disable_radix_cache:
        found |= dict(uses_mamba_radix_cache=True, disable_overlap_schedule=True)
    if view.max_mamba_cache_size is None and view.mamba_full_memory_ratio in (None, RATIO):
        slots = min(view.max_running_requests or RUNNING, RUNNING)
        slots *= 1 if view.disable_radix_cache else SLOTS_PER_REQUEST
        found["max_mamba_cache_size"] = slots * view.dp_size
        logger.info(
            "states of requests: %d slots, for %d requests at a time and for cached prefixes; "
            "--max-mamba-cache-size gives another number, and further requests wait",
            slots,
            slots if view.disable_radix_cache else slots // SLOTS_PER_REQUEST,
        )
    return found


def _refuse(view, model_type: str) -> None:
    problems = []
    if view.speculative_algorithm and model_type == "kimi_linear":
        problems.append(f"--speculative-algorithm {view.speculative_algorithm}: not supported yet for Kimi Linear")
    if view.device != "cpu":
        problems.append(f"--device {view.device}: layers with a state are computed on CPUs only so far")
    if view.page_size not in (None, 1):
        problems.append(f"--page-size {view.page_size}: a model whose layers have a state wants pages of one token")
    if view.attn_dp_size > 1:
        problems.append(f"--attn-dp-size {view.attn_dp_size}: not supported yet for a model whose layers have a state")
    if view.enable_hierarchical_cache:
        problems.append("--enable-hierarchical-cache: not supported yet for a model whose layers have a state")
    if view.disaggregation_mode != "null":
        problems.append("--disaggregation-mode: not supported yet for a model whose layers have a state")
    if problems:
        raise UnsupportedFlag("\n".join(problems))


def check_drafts(view, model_config) -> None:
    """UnsupportedFlag where drafts form a tree and the model has states: those behind drafts follow a chain."""
    from sglang.srt.configs.hybrid_arch import mambaish_config

    if view.speculative_algorithm is None or (view.speculative_eagle_topk or 1) == 1:
        return
    if mambaish_config(model_config) is not None:
        n_grams = view.speculative_algorithm == "NGRAM"
        flag = "--speculative-ngram-max-bfs-breadth" if n_grams else "--speculative-eagle-topk"
        raise UnsupportedFlag(
            f"--speculative-algorithm {view.speculative_algorithm} with {flag} {view.speculative_eagle_topk}: drafts "
            f"are a chain for a model whose layers have a state: give {flag} 1"
        )
