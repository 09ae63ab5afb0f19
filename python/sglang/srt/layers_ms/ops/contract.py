"""What every operator computes. No code: a table (`reference.py` and one a device) implements each one.

T tokens of B requests are packed in one axis. H query heads, K key/value heads, D head size. Statistics, angles and
scores are float32 inside every operator; results have the dtype of the first argument. Integers are int32.

`table.py` has what a table says of itself, and what is called on the host.
"""

from mindspore import Tensor

from sglang.srt.layers_ms.ops.contract_altup import *  # noqa: F403 - of streams
from sglang.srt.layers_ms.ops.contract_lora import *  # noqa: F403 - of low-rank adapters
from sglang.srt.layers_ms.ops.contract_per_layer import *  # noqa: F403 - of layers that share what they read
from sglang.srt.layers_ms.ops.contract_quant import *  # noqa: F403 - of quantized weights
from sglang.srt.layers_ms.ops.contract_routing import *  # noqa: F403 - of other routers
from sglang.srt.layers_ms.ops.contract_sparse import *  # noqa: F403 - of sparse attention
from sglang.srt.layers_ms.ops.contract_states import *  # noqa: F403 - of layers with a state
from sglang.srt.layers_ms.ops.contract_vision import *  # noqa: F403 - of vision towers


def with_valid_rows(x: Tensor, step: dict):
    """x [T, ...], which a step begins with, as operators take it and pass it on.

    What has a row for each token is the table's own from here on: layers give it to operators, and do not look into it.
    A table whose graphs have one shape for all steps lets the number of rows that count go with it.
    """


def without_valid_rows(x) -> Tensor:
    """The tensor [T, ...] of what operators pass on, which a graph returns."""


def embedding(ids: Tensor, weight: Tensor, first: int) -> Tensor:
    """ids [T], weight [N, width] -> rows [T, width]; row n holds id first + n, and ids held elsewhere give zeros.

    The weight is as `prepack_embedding` leaves it.
    """


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [T, in] times weight [out, in] transposed, plus bias [out] if there is one -> [T, out].

    The weight is as `prepack_linear` leaves it.
    """


def take_columns(x: Tensor, order: Tensor) -> Tensor:
    """x [T, n], order [n] -> [T, n]: column j is column order[j] of x."""


def concat_columns(x: Tensor, y: Tensor) -> Tensor:
    """x [T, n], y [T, m] -> [T, n + m]."""


def linear_fp32(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As linear, with a float32 result."""


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * (weight + offset) over every group of len(weight) values of x [T, groups * size].

    One group normalizes a whole row, several normalize the heads of a row. The weight is added to in float32: Gemma's
    are stored less one. Zhang and Sennrich, 2019.
    """


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, offset: float) -> tuple[Tensor, Tensor]:
    """sum = x + residual -> (rms_norm(sum), sum)."""


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias over every group of len(weight) values of x.

    Ba, Kiros and Hinton, 2016.
    """


def add(x: Tensor, y: Tensor, factor: float) -> Tensor:
    """x + y * factor, of x and y of one shape [T, n]."""


def scale(x: Tensor, factor: float) -> Tensor:
    """x * factor, of x [T, n]."""


def clip(x: Tensor, limit: float) -> Tensor:
    """x [T, n] with what is above limit, or below -limit, made that."""


def xielu(x: Tensor, alpha_p: Tensor, alpha_n: Tensor, beta: float, eps: float) -> Tensor:
    """x [T, n] -> p * x^2 + beta * x where x is positive, n * (expm1(min(x, eps)) - x) + beta * x elsewhere.

    p = softplus(alpha_p), n = beta + softplus(alpha_n), both float32 [1]. Huang and Schlag, 2024.
    """


def gate_heads(x: Tensor, gate: Tensor) -> Tensor:
    """x [T, n * m] times sigmoid(gate), gate [T, n]: each of its values is the factor of m neighbors of x."""


def scale_by_position(x: Tensor, factors: Tensor, step: dict, columns: int) -> Tensor:
    """x [T, n], its first `columns` columns times the factor of each token's position: factors [P] float32."""


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """[T, 2 * n], gate then up -> silu(gate) * up, [T, n]. Shazeer, 2020 (SwiGLU)."""


def gelu_and_mul(gate_up: Tensor) -> Tensor:
    """[T, 2 * n], gate then up -> gelu(gate) * up, [T, n], with the error function. Shazeer, 2020 (GeGLU)."""


def gelu_tanh_and_mul(gate_up: Tensor) -> Tensor:
    """[T, 2 * n], gate then up -> gelu(gate) * up, [T, n], with the tanh approximation of gelu."""


def qk_norm(
    qkv: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float, head_dim: int, whole: bool, centered: bool
) -> Tensor:
    """qkv [T, (H + 2 K) * D] with its queries and its keys normalized; values as they are.

    The weights have a value for each column: H * D and K * D, of any shape. whole: over all queries of a token together
    and all its keys; else over each head. centered: as layer_norm without bias; else as rms_norm.
    """


def qk_sum_squares(qkv: Tensor, kv_size: int) -> Tensor:
    """qkv [T, n + 2 * kv_size] -> float32 [T, 2]: the sums of the squares of its n queries, and of its kv_size keys."""


def qk_rms_norm_tp(
    qkv: Tensor, sums: Tensor, q_weight: Tensor, k_weight: Tensor, q_count: int, k_count: int, eps: float
) -> Tensor:
    """As qk_norm with the rms_norm of all queries of a token and all its keys, of which other ranks have parts.

    sums: `qk_sum_squares` of all ranks, added up, of q_count and of k_count values a token.
    """


def qkv_to_cache(
    qkv: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    offset: float,
    cos: Tensor | None,
    sin: Tensor | None,
    interleaved: bool,
    k_cache: Tensor,
    v_cache: Tensor,
    step: dict,
    kv_heads: int,
    head_dim: int,
    kv_scales: Tensor | None = None,
    norm_last: bool = False,
) -> tuple:
    """Turn qkv [T, (H + 2 K) * D] into queries [T, H * D], and keys and values at the step's slots [T] of the caches.

    Each head of queries and keys is normalized by q_norm, k_norm [D] (`rms_norm`) where they are given. Then its first
    R values are rotated by cos and sin, from `rotary_tables`, at the step's positions [T]: each of the first half of
    them against one of the second (neox order), or where interleaved neighbors against each other (GPT-J order). The
    others pass through; without cos and sin all do. Su et al., 2021 (RoFormer). norm_last: it is normalized after that.

    The caches, from `cache_view`, are written in place, in their dtype. Those of float8 (e4m3fn, as uint8) hold keys
    divided by kv_scales[0] and values by kv_scales[1], float32 [2], none larger than 448. Micikevicius et al., 2022.
    Returns the queries, and what attention must be given in the place of the two caches: that it reads this is what
    orders the read after the write.
    """


def paged_attention(
    q: Tensor,
    k_cache,
    v_cache,
    step: dict,
    kv_heads: int,
    head_dim: int,
    scale: float,
    window: int = 0,
    soft_cap: float = 0.0,
    sinks: Tensor | None = None,
    slopes: Tensor | None = None,
    kv_scales: Tensor | None = None,
    bidirectional: bool = False,
    last_seen: Tensor | None = None,
) -> Tensor:
    """Attention of q [T, H * D] over the cached keys of each token's request -> [T, H * D].

    k_cache and v_cache are as `qkv_to_cache` returned them; what they hold is multiplied by kv_scales. A token sees
    the keys at places 0 to its own, inclusive, of its request, whatever its rotary position; with a window only the
    last `window` of them, and what lies before every window has no effect. Where bidirectional it sees all keys of its
    request, or with a window those that are less than `window` places away; all of a request's tokens are in the step
    then. last_seen [T]: the place up to which a token sees keys of its request, if that is behind its own, as tokens of
    an image do; not with bidirectional. `step` is what the layer's group of caches reads: lengths, slots and pages,
    what `metadata_fields` names, and as `forward_mode` the name that `split_by_forward_mode` gave. Head h reads
    key/value head h // (H / K).

    A score is scale * q.k; with a soft cap, soft_cap * tanh(score / soft_cap) (Gemma 2); with slopes [H] float32, plus
    slope * (the key's place - the query's) (Press et al., 2021, ALiBi). sinks [H] float32: one more score for each
    head, of a key whose value is zero (Xiao et al., 2023).
    """


def route(
    logits: Tensor,
    bias: Tensor | None,
    top_k: int,
    scoring: str,
    groups: int,
    top_groups: int,
    group_top: int,
    renormalize: bool,
    scaling: float,
    soft_cap: float,
) -> tuple[Tensor, Tensor]:
    """float32 logits [T, E] of E experts -> weights [T, top_k], float32, and experts [T, top_k], the best first.

    Scores are the "softmax" or "sigmoid" of the logits, which a soft cap other than 0 makes cap * tanh(logits / cap).
    The top_k of the largest score + bias are chosen, bias [E] float32 as `prepack_correction_bias` leaves it. Of
    several groups of neighboring experts only those of the top_groups best ones can be: a group's score is the sum of
    its group_top largest. Weights are the scores without bias, divided by their sum where renormalize, times scaling. A
    softmax over the chosen ones is a softmax that is renormalized. DeepSeek-AI, 2024 (DeepSeek-V3).
    """


def fused_experts(
    x: Tensor,
    gate_up: Tensor,
    gate_up_bias: Tensor | None,
    down: Tensor,
    down_bias: Tensor | None,
    weights: Tensor,
    experts: Tensor,
    activation: str,
    alpha: float,
    limit: float,
    first: int = 0,
    count: int | None = None,
    lora: tuple | None = None,
) -> Tensor:
    """x [T, h] -> the sum over each token's experts [T, k], times their weights [T, k], of down(inner), [T, h].

    Of each expert inner = act(gate) * up, with gate and up the products of x with gate_up [E, 2, n, h] transposed, plus
    gate_up_bias [E, 2, n]; down [E, h, n], down_bias [E, h]. The stacks are as `prepack_experts` leaves them.
    Activations: "silu", "gelu", "gelu_pytorch_tanh" and "clamped_silu", which is gate * sigmoid(alpha * gate) * (up +
    1) with gate at most limit and up within it (gpt-oss); "silu_clamped" is what `silu_and_mul_clamped` computes; no
    other one uses alpha and limit. With "relu2" there is no gate: gate_up [E, 1, n, h] has up alone, and inner =
    max(up, 0) ** 2. The stacks have the E experts from `first` on, of `count` (None: of E); experts of a token that are
    not among them add nothing.
    lora: what adapters add to the products, as contract_lora.py says; None: nothing.
    """


def to_physical_experts(
    experts: Tensor, logical_to_physical_map: Tensor, expert_counts: Tensor, step: dict, attn_dp_size: int
) -> Tensor:
    """The physical expert that computes each of the logical experts [T, k] int32 -> [T, k] int32.

    logical_to_physical_map [E, 1 + most] int32: how many physical experts each logical one has, at least one, and
    which. Token t takes number t % that count, as SGLang's dispatch `dynamic`: ranks that see the same tokens agree.
    Adds to expert_counts [physical experts] int32, in place, how many tokens went to each. Padding does not count: rows
    of slot -1 in the step; with attention DP, `attn_dp_size`, as the step's metadata says.
    """


def add_gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + sigmoid(gate) * y, of x and y [T, n] and gate [T, 1]."""


def mla_to_cache(
    q: Tensor,
    kv: Tensor,
    norm: Tensor,
    eps: float,
    cos: Tensor | None,
    sin: Tensor | None,
    interleaved: bool,
    cache: Tensor,
    step: dict,
    heads: int,
) -> tuple:
    """Write the rows that latent attention caches, and rotate its queries; without cos and sin nothing is rotated.

    Of kv [T, L + R] the first L values are normalized by norm [L] (`rms_norm`) and the others rotated, into the first
    columns of the step's slots [T] of the cache. The last R values of each head of q [T, H * (N + R)] are rotated
    alike: by cos and sin, from `rotary_tables`, at the step's positions [T], the first half of the values against the
    second, or where interleaved neighbors against each other.

    The cache is written in place. Returns the queries, and what attention must be given in the place of the cache: that
    it reads this is what orders the read after the write. DeepSeek-AI, 2024 (DeepSeek-V2).
    """


def mla_attention(
    q: Tensor,
    cache,
    w_uk: Tensor,
    w_uk_t: Tensor,
    w_uv: Tensor,
    step: dict,
    scale: float,
    lora: tuple | None = None,
) -> Tensor:
    """Causal attention of q [T, H * (N + R)] over the cached rows of each token's request -> [T, H * V].

    The cache is as `mla_to_cache` returned it. Of a row's first L values c, head h's key is w_uk[h] c [N], followed
    by the row's other R values, and its value w_uv[h] c [V]. w_uk [H, N, L], w_uv [H, V, L]; w_uk_t [H, L, N] is
    w_uk, each head transposed. All three are as `prepack_linear` leaves them, and a table reads those that it wants. A
    token sees what it does in `paged_attention`. lora: what adapters add to the weights, as contract_lora.py says.
    """


def logits(x: Tensor, weight: Tensor) -> Tensor:
    """x [T, k] times weight [n, k] transposed -> float32 [T, n]. Called outside graphs, before the sampler.

    The weight is as `prepack_linear` or `prepack_embedding` leaves it.
    """


# Collectives: what the ranks of a communication group, `size` of them, do together. All call them in the same order.


def all_reduce(x: Tensor, group: str) -> Tensor:
    """Sum of x over the ranks of a communication group."""


def linear_add_rms_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    norm: Tensor,
    eps: float,
    forward_mode: str,
    group: str,
) -> tuple[Tensor, Tensor]:
    """add_rms_norm, without offset, of residual [T, out] and of the sum over the ranks of linear(x, weight, bias).

    x [T, in], norm [out]; of weight [out, in] and bias [out] each rank has others. The weight is as
    `prepack_row_linear` leaves it. forward_mode: of the step, see `split_by_forward_mode`.
    """


def all_gather(x: Tensor, step: dict, size: int, group: str) -> Tensor:
    """x [T, n] of each rank -> the rows of all ranks, in the order of the ranks.

    Of each rank as many as the step says, by `build_metadata`, or where it does not as many as of this one; a table may
    put rows without a meaning behind those of a rank.
    """


def reduce_scatter(x: Tensor, step: dict, size: int, group: str) -> Tensor:
    """x of rows as all_gather returns them -> those rows of the sum of the ranks' x that are this rank's, [T, n]."""


def all_to_all(x: Tensor, sent: Tensor, received: Tensor, room: int, group: str) -> Tensor:
    """Rows of x [N, n] for each rank, one rank's behind the other's -> rows from each rank, in their order, [room, n].

    sent, received [size]: how many rows go to, and come from, each rank. Later rows of the result have no meaning.
    """


def dispatch_experts(
    x: Tensor,
    weights: Tensor,
    experts: Tensor,
    step: dict,
    held: int,
    attn_dp_size: int,
    rank: int,
    size: int,
    group: str,
) -> tuple:
    """Send each row of x [T, n] to the ranks that have experts chosen for it -> rows, weights, experts, routes.

    Rank r of the group has `held` physical experts from r * held on. experts [T, k] are physical ones, weights [T, k]
    float32. Neighboring ranks are one of `attn_dp_size` attention DP groups; they have the same rows and send them in
    turn. `rank` receives [M, n], [M, k], [M, k]: the rows of all ranks that have an expert here, in the table's order.
    A table may add other rows behind them, which nothing reads. `routes` is for the same table's `combine_experts`.
    Lepikhin et al., 2020 (GShard).
    """


def combine_experts(y: Tensor, routes, step: dict, attn_dp_size: int, size: int, group: str) -> Tensor:
    """y of rows as `dispatch_experts` gave them -> [T, n]: the sum of what the ranks that got a row made of it.

    Rows that another rank of the attention DP group has sent are zeros: the sum over that group has all rows.
    """


def broadcast(x: Tensor, root: int, group: str) -> Tensor:
    """x [T, n] of the rank `root`, on all ranks."""


def send(x: Tensor, receiver: int, group: str) -> Tensor:
    """Give x [T, n] to one other rank of the group, which calls `receive` -> x."""


def receive(like: Tensor, sender: int, group: str) -> Tensor:
    """What the rank `sender` sends, of the shape and dtype of `like`."""
