"""What every operator computes. No code: a table (`reference.py` and one a device) implements each one.

T tokens of B requests are packed in one axis. H query heads, K key/value heads, D head size. Statistics, angles and
scores are float32 inside every operator; results have the dtype of the first argument. Integers are int32.

The last section is called on the host: it says what a table wants of its caller.
"""

from mindspore import Tensor


def embedding(ids: Tensor, weight: Tensor, first: int) -> Tensor:
    """ids [T], weight [N, width] -> rows [T, width]; row n holds id first + n, and ids held elsewhere give zeros."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [T, in] times weight [out, in] transposed, plus bias [out] if there is one -> [T, out]."""


def split(x: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """x [T, sum(sizes)] -> one [T, size] a size, in order."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over every group of len(weight) values of x [T, groups * len(weight)].

    One group normalises a whole row, several normalise the heads of a row. Zhang and Sennrich, 2019.
    """


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """sum = x + residual -> (rms_norm(sum), sum)."""


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """[T, 2 * n], gate then up -> silu(gate) * up, [T, n]. Shazeer, 2020 (SwiGLU)."""


def gelu_and_mul(gate_up: Tensor) -> Tensor:
    """[T, 2 * n], gate then up -> gelu(gate) * up, [T, n], with the error function. Shazeer, 2020 (GeGLU)."""


def gelu_tanh_and_mul(gate_up: Tensor) -> Tensor:
    """[T, 2 * n], gate then up -> gelu(gate) * up, [T, n], with the tanh approximation of gelu."""


def rotary(q: Tensor, k: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Rotate the heads of q [T, H * D] and k [T, K * D] by the table rows cos, sin [P, R / 2] at positions [T].

    Of each head the first R values are rotated, the first half of them against the second (neox order); the others
    pass through. Su et al., 2021 (RoFormer).
    """


def write_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Store k, v [T, K * D] at slots [T] of the caches that `cache_view` made, in place, in the cache's dtype.

    Returns the caches. Attention must read the returned ones, which is what orders the read after the write.
    """


def paged_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, step: dict, kv_heads: int, head_dim: int, scale: float
) -> Tensor:
    """Causal attention of q [T, H * D] over the cached keys of each token's request -> [T, H * D].

    A token sees the keys at places 0 to its position, inclusive, of its request. `step` holds the fields of
    StepInputs and, as `plan`, what this table's `plan` made. Head h reads key/value head h // (H / K).
    """


def all_reduce(x: Tensor, group: str) -> Tensor:
    """Sum of x over the ranks of a communication group."""


# ---- on the host, not in graphs ----


def compute_dtype(dtype: str) -> str:
    """The dtype in which this table wants weights and activations when a user asks for `dtype`.

    Both are names: float32, float16, bfloat16. Results are never less exact than `dtype` would be.
    """


def cache_view(cache: Tensor, name: str) -> Tensor:
    """Make what the graph receives of one layer's key or value cache [slots, K, D], sharing its memory.

    `name` is unique to the cache. Dtypes: float32, float16, bfloat16.
    """


def plan(positions, request_ids, query_lens, seq_lens, block_tables, page_size: int) -> tuple:
    """What else this table's operators want, as `step["plan"]`: int32 numpy arrays, of the same ranks at every step.

    Takes fields of StepInputs as numpy arrays.
    """
