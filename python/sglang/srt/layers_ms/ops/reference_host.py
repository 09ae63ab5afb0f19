"""What a table answers on the host that takes any model as it is: nothing to refuse, to rearrange or to divide."""

import numpy as np
from mindspore import Tensor


def check_attention(heads, kv_heads, head_dim, rotary_dim, window, soft_cap, sinks, slopes):
    """Any attention of the contract."""


def in_rounds(window, soft_cap, sinks, slopes, latent):
    return False


def own_cache(shape, dtype, in_rounds, page_size):
    return None


def at_once():
    return "", 0, 0


def check_latent_attention(rank, rope, nope, value):
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


def parts(query_lens, seq_lens, together=False):
    return [("", np.arange(len(query_lens)))]


def compiled():
    return True


def sums_in_norms(ranks):
    return False


def renew(weight):
    """Its memory is `host`."""


def pack_quant_experts(weight):
    """They are read row by row."""


def pack_correction(bias):
    """It is added as it is."""
