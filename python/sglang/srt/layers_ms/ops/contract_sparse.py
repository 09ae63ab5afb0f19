"""What the operators of sparse attention compute: a part of contract.py, whose conventions hold here too.

An indexer scores the keys of a request for each of its tokens, and attention sees those of the largest scores. The rows
that latent attention caches have behind their L + R values the key of the indexer, D values, from `column` on.
DeepSeek-AI, 2025 (DeepSeek-V3.2).
"""

from mindspore import Tensor


def index_to_cache(
    q: Tensor,
    k: Tensor,
    norm: Tensor,
    bias: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
    cache: Tensor,
    step: dict,
    column: int,
) -> tuple:
    """Write the indexer's keys k [T, D] to the step's slots of the cache, and rotate its queries q [T, H * D].

    Keys are normalized by norm and bias [D] (`layer_norm`). Then the first R values of keys, and of each head of
    queries, are rotated as in `mla_to_cache`. Returns the queries, and what `choose_keys` must be given in the place of
    the cache, which is written in place. Other columns of the rows stay as they are.
    """


def choose_keys(q: Tensor, weights: Tensor, cache, step: dict, column: int, top_k: int) -> Tensor:
    """The top_k keys of the largest score for each token, as places in its request -> int32 [T, top_k].

    q and cache are as `index_to_cache` returned them, weights [T, H]. A key's score is the sum over the heads of
    weight * max(q . key, 0). A token chooses among the keys at places 0 to its own, inclusive; where they are no more
    than top_k it chooses all, and -1 stands behind them. The order of the places says nothing.
    """


def sparse_mla_attention(
    q: Tensor, cache, chosen: Tensor, w_uk: Tensor, w_uk_t: Tensor, w_uv: Tensor, step: dict, scale: float
) -> Tensor:
    """As mla_attention, but that each token sees the keys at the places `chosen` [T, top_k] only; -1 is none.

    Tokens that have no more than top_k keys up to their own see all of these.
    """
