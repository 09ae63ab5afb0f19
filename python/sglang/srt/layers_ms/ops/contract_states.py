"""What the operators of layers with a state compute: a part of contract.py, whose conventions hold here too.

A state is what a layer keeps of all earlier tokens of a request, in a slot of the request's own. `step` says which:
state_slots [B]. An operator reads the state of a request's slot before its first token of the step, which is zero where
the request begins, and leaves there the state behind its last one. Requests of a step have slots of their own. Where
track_slots [B] is not -1, a second slot is left the state behind the first track_lens [B] tokens of the step.

Where a step verifies drafts it is not known yet which tokens stay. An operator that is given `intermediate`
[rows, n, ...], of states as in a slot, reads intermediate_rows [B] of the step: of a request with a row, not -1, it
leaves the state behind each of its at most n tokens there, and its slot as it was.
"""

from mindspore import Tensor


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, step: dict, intermediate: Tensor | None = None
) -> Tensor:
    """x [T, C], each column a sequence -> silu(conv(x)), [T, C], of weight [C, 1, K] and bias [C].

    conv(x)[t] = the sum over j < K of weight[j] * x[t - K + 1 + j], plus the bias. The state [slots, C, K - 1], from
    `state_view`, has the last K - 1 values of each column, the latest last, in its dtype.
    """


def short_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, step: dict, intermediate: Tensor | None = None
) -> Tensor:
    """x [T, 3 * C], of each token gates B and C and values X -> C * conv(B * X), [T, C].

    conv as in `causal_conv`; B * X has the state's dtype. Liquid AI, 2025 (LFM2).
    """


def gated_delta(
    x: Tensor,
    gates: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    state: Tensor,
    step: dict,
    key_size: int,
    intermediate: Tensor | None = None,
) -> Tensor:
    """The gated delta rule over x [T, 2 * G * K + H * V]: queries and keys of G heads, and values of H -> [T, H * V].

    K is the key_size. gates [T, 2 * H]: of each token b, then a; a_log, dt_bias [H] float32. The state [slots, H, V, K]
    float32, from `state_view`, has a matrix S of each head, zero at first. For each token, of its query q and key k,
    which are divided by their lengths (the root of the sum of squares + 1e-6), q by sqrt(K) too, and its value v:
    S <- exp(-exp(a_log) * softplus(a + dt_bias)) * S; S <- S + sigmoid(b) * (v - S k) k^T; the result is S q. Head h
    has the query and key of head h // (H / G). Yang, Kautz and Hatamizadeh, 2024.
    """


def kimi_delta(
    x: Tensor,
    forget: Tensor,
    beta: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    state: Tensor,
    step: dict,
    key_size: int,
    intermediate: Tensor | None = None,
) -> Tensor:
    """As `gated_delta`, where each of a key's values forgets at a rate of its own; x [T, 2 * H * K + H * V].

    forget [T, H * K], beta [T, H]; a_log [H], dt_bias [H * K] float32. S <- S with each column times
    exp(-exp(a_log) * softplus(forget + dt_bias)); S <- S + sigmoid(beta) * (v - S k) k^T; the result is S q. Kimi Team,
    2025.
    """


def state_space(
    x: Tensor,
    dt: Tensor,
    a_log: Tensor,
    skip: Tensor,
    dt_bias: Tensor,
    state: Tensor,
    step: dict,
    state_size: int,
    low: float,
    high: float,
    intermediate: Tensor | None = None,
) -> Tensor:
    """A state space model over x [T, H * P + 2 * G * N]: values of H heads, and B and C of G groups -> [T, H * P].

    N is the state_size. dt [T, H]; a_log, skip, dt_bias [H] float32. The state [slots, H, P, N] float32, from
    `state_view`, has a matrix S of each head, zero at first. For each token, d = softplus(dt + dt_bias), but at least
    low and at most high; S <- exp(-exp(a_log) * d) * S + d * x B^T; the result is S C + skip * x. Head h has B and C of
    group h // (H / G). Dao and Gu, 2024 (Mamba-2).
    """


def gated_norm(
    x: Tensor, gate: Tensor, weight: Tensor, eps: float, group: int, activation: str, gate_first: bool
) -> Tensor:
    """rms_norm(x) * act(gate), or where gate_first rms_norm(x * act(gate)), of x and gate [T, n] -> [T, n].

    act: "silu" or "sigmoid". The norm is over every `group` values; the weight has one for each column, or is repeated.
    """


def gated_squares(x: Tensor, gate: Tensor, groups: int, own: int) -> Tensor:
    """float32 [T, groups]: the sum of the squares of x * silu(gate), of x and gate [T, n], in column `own`, else 0."""


def gated_norm_tp(x: Tensor, gate: Tensor, sums: Tensor, weight: Tensor, group: int, own: int, eps: float) -> Tensor:
    """rms_norm(x * silu(gate)) of rows [T, n] that are parts of `group` values, of which other ranks have the others.

    sums [T, groups]: `gated_squares` of all ranks, added up, of which column `own` is that of the rank's group.
    """


def sigmoid_gate(x: Tensor, gate: Tensor) -> Tensor:
    """x * sigmoid(gate), of x and gate [T, n]."""
