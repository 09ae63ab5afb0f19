"""Reference table: every operator in stock MindSpore calls, written to be obviously right. The oracle of all others."""

import numpy as np
from mindspore import Parameter, Tensor
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.reference import (
    altup,
    attention,
    collectives,
    dense,
    lora,
    metadata,
    mla,
    moe,
    quant,
    sparse,
    states,
    vision,
)
from sglang.srt.layers_ms.ops.table import Capabilities, OperatorTable

OPERATORS = (dense, quant, lora, attention, mla, moe, sparse, states, collectives, metadata, vision, altup)


class ReferenceTable(OperatorTable, operators=OPERATORS):
    """Weights and activations are float32, whatever a user asks for. Computes on one rank."""

    capabilities = Capabilities(
        compute_dtypes=dict.fromkeys(("float32", "float16", "bfloat16"), "float32"),
        experts_lora=True,
        latent_lora=True,
    )

    def start(self, processors):
        """MindSpore has threads of its own."""

    def cache_view(self, cache, name, page_size):
        return self.state_view(cache, name)

    def state_view(self, state, name):
        flat = state.view(state.shape[0], -1)
        if flat.dtype == mstype.bfloat16:
            flat = flat.view(mstype.int16)
        parameter = Parameter(Tensor(np.zeros(1, np.float32)), name=name, requires_grad=False)
        # Parameter(tensor) copies; only a Parameter can be written in a graph, and only assign_value shares memory.
        parameter.assign_value(flat)
        return parameter
