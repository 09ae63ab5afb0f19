"""Gives the layers with a sliding window a key/value pool of their own, SGLang's SWAKVPool, which is smaller.

SGLang's scheduler frees what every window has left behind, and keeps which slot of a token in that pool belongs to its
slot in the other. It does so for the architectures of a list; here it is what the model's layers cache.
"""

import logging

from sglang.srt.layers_ms.cache_spec import cache_specs
from sglang.srt.layers_ms.ops.metadata import SWA
from sglang.srt.model_executor_ms.seams import runner
from sglang.srt.runtime_context import get_parallel

logger = logging.getLogger(__name__)


def divide_pool(model_runner) -> None:
    """Decide it for a ModelRunner whose model is loaded and whose pools are not made yet."""
    specs = cache_specs(model_runner.model.network)
    swa_layers = [layer for layer, spec in specs.items() if spec.group == SWA]
    others = [layer for layer in specs if layer not in swa_layers]
    # Raw: what the user asked for. SGLang's own decisions are for its own attention backends.
    requested = not model_runner.server_args.disable_hybrid_swa_memory
    sizes = {spec.row for spec in specs.values()}  # a pool has one
    # A stage may have layers of one kind only.
    divided = bool((requested or len(sizes) > 1) and get_parallel().pp_size == 1 and swa_layers and others)
    if not divided:
        runner.divide_pool(model_runner, (), others, 0)
    else:
        # SGLang counts the tokens before a token, a spec the token itself too.
        window = max(specs[layer].sliding_window for layer in swa_layers) - 1
        runner.divide_pool(model_runner, swa_layers, others, window)
        logger.info("windows: %d of %d layers have a pool of their own", len(swa_layers), len(specs))
