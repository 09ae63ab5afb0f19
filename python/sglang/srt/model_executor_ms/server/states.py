"""What a server's arguments become for a model whose layers keep a state of each request, beside keys and values.

SGLang has slots for states, as many as --max-mamba-cache-size says. A request that runs takes one, and so does each
prefix in the radix cache whose state is kept. SGLang has two strategies for these, --mamba-radix-cache-strategy:

`no_buffer`, our default, keeps the states of ends of prompts, of their chunks and of answers. It wants pages of one
token, and no step prepared before the last ends. `extra_buffer` keeps states within prompts and answers too, which
steps leave in further slots of a request (step_inputs.state_tracks). It takes pages of any size, and overlap.
"""

import logging
from collections.abc import Iterator

from sglang.srt.model_executor_ms.environment import read_environment
from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag
from sglang.srt.model_executor_ms.server.speculation import breadth

logger = logging.getLogger(__name__)

RUNNING = 32  # requests at a time for which there are slots, where --max-running-requests does not say less
RATIO = 0.9  # what SGLang takes for --mamba-full-memory-ratio where it is not given: half of a CPU's memory for states
SLOTS_PER_REQUEST = 3  # SGLang lets a third as many requests run as there are slots, without a radix cache as many
CHUNK = 64  # tokens from one state that is kept to the next, where config.json has no mamba_chunk_size
NO_BUFFER, EXTRA_BUFFER = "no_buffer", "extra_buffer"


def adjusted(view, model_config) -> dict:
    """Fields of ServerArgs and their values; {}: no layer of the model has a state. UnsupportedFlag."""
    from sglang.srt.configs.hybrid_arch import mambaish_config

    config = mambaish_config(model_config)
    if config is None:
        return {}
    strategy = _strategy(view)
    _refuse(view, config, strategy)
    found = dict(mamba_radix_cache_strategy=strategy)
    if not view.disable_radix_cache:
        found["uses_mamba_radix_cache"] = True
        if strategy == NO_BUFFER:
            found |= dict(page_size=1, disable_overlap_schedule=True)
    if view.max_mamba_cache_size is None and view.mamba_full_memory_ratio in (None, RATIO):
        slots, each = min(view.max_running_requests or RUNNING, RUNNING), _slots_per_request(view, strategy)
        found["max_mamba_cache_size"] = slots * each * view.dp_size
        logger.info(
            "states of requests: %d slots, for %d requests at a time and for cached prefixes; "
            "--max-mamba-cache-size gives another number, and further requests wait",
            slots * each,
            slots,
        )
    return found


def _strategy(view) -> str:
    if view.mamba_radix_cache_strategy != "auto":
        return view.mamba_radix_cache_strategy
    return NO_BUFFER if view.page_size in (None, 1) or view.disable_radix_cache else EXTRA_BUFFER


def _slots_per_request(view, strategy: str) -> int:
    """How many slots there are for each request that SGLang lets run (its _calculate_mamba_ratio)."""
    if view.disable_radix_cache:
        return 1
    if strategy == NO_BUFFER:
        return SLOTS_PER_REQUEST
    return SLOTS_PER_REQUEST + (1 if view.disable_overlap_schedule or view.pp_size > 1 else 2)


def _refuse(view, config, strategy: str) -> None:
    problems = [*_problems_of_strategy(view, config, strategy)]
    if view.speculative_algorithm:
        problems += _problems_of_drafts(view, config, strategy)
    if view.attn_dp_size > 1:
        problems.append(f"--attn-dp-size {view.attn_dp_size}: not supported yet for a model whose layers have a state")
    if view.enable_hierarchical_cache and view.hicache_mem_layout == "layer_first":
        problems.append("--hicache-mem-layout layer_first: SGLang keeps states in the others only: page_first_direct")
    if view.disaggregation_mode != "null":
        problems.append("--disaggregation-mode: not supported yet for a model whose layers have a state")
    if problems:
        raise UnsupportedFlag("\n".join(problems))


def _problems_of_drafts(view, config, strategy: str) -> Iterator[str]:
    flag = f"--speculative-algorithm {view.speculative_algorithm}"
    if read_environment().as_on_npu(view.device):
        return  # where no other strategy helps: check_drafts says why
    if getattr(config, "model_type", "") == "kimi_linear":
        yield f"{flag}: not supported yet for Kimi Linear"
    elif strategy == EXTRA_BUFFER:
        yield (
            f"{flag}: drafts are verified with states that are kept at ends only: give --mamba-radix-cache-strategy "
            f"{NO_BUFFER} and --page-size 1"
        )


def check_drafts(view, model_config) -> None:
    """UnsupportedFlag for drafts of a model with states: the operators for NPUs keep none behind drafts.

    Elsewhere those follow a chain, and not a tree.
    """
    from sglang.srt.configs.hybrid_arch import mambaish_config

    if view.speculative_algorithm is None or mambaish_config(model_config) is None:
        return
    if read_environment().as_on_npu(view.device):
        raise UnsupportedFlag(
            f"--speculative-algorithm {view.speculative_algorithm}: not supported yet on an NPU for a model whose "
            "layers have a state, as those behind drafts are not kept there"
        )
    flag, width = breadth(view)
    if width > 1:
        raise UnsupportedFlag(
            f"--speculative-algorithm {view.speculative_algorithm} with {flag} {width}: drafts are a chain for a model "
            f"whose layers have a state: give {flag} 1"
        )


def _problems_of_strategy(view, config, strategy: str) -> Iterator[str]:
    page, chunk = view.page_size or 1, getattr(config, "mamba_chunk_size", None) or CHUNK
    if strategy == NO_BUFFER:
        if page != 1 and not view.disable_radix_cache:
            yield (
                f"--page-size {page}: states without further slots want pages of one token; "
                f"--mamba-radix-cache-strategy {EXTRA_BUFFER} takes larger ones"
            )
        return
    if max(page, chunk) % min(page, chunk):
        yield (
            f"--page-size {page}: states are kept every {chunk} tokens of a prompt, so that pages have a divisor or a "
            f"multiple of {chunk} tokens"
        )
    if view.disable_radix_cache:
        yield f"--mamba-radix-cache-strategy {EXTRA_BUFFER} is of the radix cache, which is off"
