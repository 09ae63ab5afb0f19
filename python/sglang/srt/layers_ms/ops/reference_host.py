"""What a table answers on the host that takes any model as it is: nothing to refuse, to rearrange or to divide."""

import numpy as np
from mindspore import Tensor


def check_attention(heads, kv_heads, head_dim, rotary_dim, window, soft_cap, sinks, slopes):
    """Any attention of the contract."""


def blockwise(window, soft_cap, sinks, slopes, mla):
    return False


def device_layout_cache(shape, dtype, blockwise, page_size):
    return None


def single_block_limits():
    return "", 0, 0


def check_mla_attention(rank, rope, nope, value):
    """Any sizes."""


def check_quant_linear():
    """Any."""


def plain_experts(stack):
    return stack


def put_experts(stack, plain):
    """It is the same."""


def check_quant_experts(dtype):
    """Any."""


def rotary_tables(cos, sin, dtype):
    return Tensor(cos), Tensor(sin)


def split_by_forward_mode(query_lens, seq_lens, together=False):
    return [("", np.arange(len(query_lens)))]


def compiled():
    return True


def supports_all_reduce_norm_fusion(ranks):
    return False


def renew(weight):
    """Its memory is `host`."""


def prepack_quant_experts(weight):
    """They are read row by row."""


def prepack_correction_bias(bias):
    """It is added as it is."""
