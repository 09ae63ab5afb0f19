"""What the operators of vision towers compute, and of the merge of their results into a decoder; see contract.py.

A tower's rows are patches of images. Several images lie one after the other, each of which is a segment.
"""

from mindspore import Tensor


def activate(x: Tensor, kind: str) -> Tensor:
    """x [T, n] -> each value activated, by transformers' name of it.

    "silu" (x * sigmoid(x)), "gelu" (with the error function), "gelu_pytorch_tanh" (its tanh approximation),
    "quick_gelu" (x * sigmoid(1.702 x)), Hendrycks and Gimpel, 2016; "relu", or "relu2", its square, So et al., 2021;
    "tanh".
    """


def segment_attention(
    qkv: Tensor, cos: Tensor | None, sin: Tensor | None, bounds: Tensor, heads: int, scale: float
) -> Tensor:
    """qkv [T, 3 * H * D], queries, keys and values of H heads -> [T, H * D]: the rows of a segment attend to each
    other, all of them to all.

    bounds [S + 1]: where each of S segments begins, and T. Before that each head of queries and keys is rotated, the
    first half of it against the second, by the row's own cos and sin, float32 [T, D / 2]; without them none is. Vaswani
    et al., 2017.
    """


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x [N, n], rows [T] -> [T, n]: row rows[t] of x; zeros where that is -1."""


def put_rows(x: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
    """x [T, n], rows [T, n], mask [T] -> [T, n]: a row of `rows` where the mask is not 0, else that of x."""


def mrope(
    qkv: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    axes: Tensor,
    step: dict,
    kv_heads: int,
    head_dim: int,
) -> Tensor:
    """qkv [T, (H + 2 K) * D] with its queries and keys turned as in qkv_to_cache, by three positions a token.

    Each head is normalized by q_norm, k_norm [D] (`rms_norm`) where they are given. Then pair j, of the D / 2 of the
    first half against the second, is rotated by cos and sin, from `rotary_tables`, at the step's mrope_t, mrope_h or
    mrope_w [T], as axes[j] is 0, 1 or 2. Bai et al., 2025 (Qwen2.5-VL).
    """
