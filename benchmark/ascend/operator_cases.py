"""Each kernel of the Ascend table at one shape that every chip takes: what first_run.py compares with the reference.

A case is a function of tensors, compiled as the server's graphs are. Its name says which kernels it is about. Inputs
are float16, which all chips have; `lengths` are those of requests, tokens of this step and of the context.
"""

import numpy as np
import operator_cases_quant
from operator_case import (
    EXPERTS,
    F16,
    F32,
    FUSED_KEYS,
    GAMMA,
    HEAD,
    HEADS,
    I32,
    I64,
    KV_HEADS,
    LATENT,
    PAGE,
    ROPE,
    ROWS,
    TOKENS,
    WIDE,
    WIDTH,
    Case,
    X,
    Y,
    draw,
    numbers,
)

from sglang.srt.layers_ms.ops.ascend import attention, host, kernels

# What no case tries, and why.
NOT_TRIED = {
    **dict.fromkeys(("all_reduce", "matmul_sum_norm", "group_size"), "the check of two cards uses it"),
    **dict.fromkeys(("all_gather", "reduce_scatter"), "it is for --enable-dp-attention"),
    **dict.fromkeys(("broadcast", "send", "receive", "all_to_all"), "no server on NPUs uses it"),
    "add_at": "it writes a parameter: --enable-eplb does",
    "select": "it is for --enable-lora, and for second slots of states",
    "format_cast": "it makes the caches of a 310P, which the cases with caches read",
    "grouped_int4_matmul": "its weights are qint4x2, in which no case has inputs",
    "static_quant_matmul": "its weights are in NZ, in which no case has inputs; a 310P has it",
    **dict.fromkeys(("soc", "to_device"), "it is no kernel"),
}


# ---- products, norms, and what is computed value by value ----


def gather(x, query_lens, seq_lens):
    return (kernels.gather(x[0], x[1]),)


def matmul(x, query_lens, seq_lens):
    return kernels.matmul(x[0], x[1]), kernels.multiply(x[0], x[2])


def arithmetic(x, query_lens, seq_lens):
    total = kernels.add(x[0], x[1])
    return total, kernels.add_scaled(x[0], x[1], 0.3), kernels.mul(x[0], 2.5), kernels.clamp(total, -1.0, 1.0)


def wide_arithmetic(x, query_lens, seq_lens):
    squares = kernels.square_sum(x[0])
    positive = kernels.exp(x[0])
    return squares, kernels.inverse_sqrt(squares), kernels.tanh(x[0]), positive, kernels.log(positive)


def sums(x, query_lens, seq_lens):
    return kernels.largest(x[0]), kernels.log_add(x[0], x[1]), kernels.total(x[0]), kernels.divide(x[0], x[2])


def layouts(x, query_lens, seq_lens):
    left, right = kernels.split(x[0], (16, WIDTH - 16))
    joined = kernels.cat((kernels.contiguous(right), kernels.contiguous(left)))
    turned = kernels.contiguous(kernels.swap(x[0]))
    return joined, turned, kernels.cast(kernels.depend(x[0], joined), x[1].dtype), kernels.zeros((2, 3), x[0].dtype)


def comparisons(x, query_lens, seq_lens):
    more, same = kernels.greater(x[0], x[1]), kernels.equal(x[0], x[1])
    chosen = kernels.where(kernels.both(more, kernels.greater(x[0], 3)), x[0], 0)
    return kernels.cast(same, x[0].dtype), chosen, kernels.maximum(x[0], x[1]), kernels.floor_divide(x[0], 3)


def norms(x, query_lens, seq_lens):
    normed, total = kernels.add_rms_norm(x[0], x[1], x[2], 1e-6)
    return kernels.rms_norm(x[0], x[2], 1e-6), normed, total, kernels.layer_norm(x[0], x[2], x[3], 1e-5)


def activations(x, query_lens, seq_lens):
    return kernels.swiglu(x[0]), kernels.gelu(x[0], "none"), kernels.gelu(x[0], "tanh"), kernels.sigmoid(x[0])


# ---- attention ----


def rotary_by_rows(x, query_lens, seq_lens):
    return kernels.apply_rotary(x[0], x[1], x[2], x[3], seq_lens)


def fresh(x, query_lens, seq_lens):
    mask = attention.causal_mask(x[0].dtype)
    return (kernels.flash_attention(x[0], x[1], x[2], HEADS, 0.25, mask, query_lens, seq_lens),)


def _cached(x, mode, mask, query_lens, seq_lens):
    """Rows into pages, then queries over the pages."""
    query, key, value, k_cache, v_cache, slots, tables = x[:7]
    query = kernels.depend(query, kernels.reshape_and_cache(key, value, k_cache, v_cache, slots))
    lengths = (tables, seq_lens, query_lens)
    return (kernels.paged_attention(query, k_cache, v_cache, *lengths, HEADS, KV_HEADS, 0.25, mode, mask),)


def decode(x, query_lens, seq_lens):
    return _cached(x, "MASK_DEFAULT", None, query_lens, seq_lens)


def chunk(x, query_lens, seq_lens):
    step = {"block_tables": x[6], "positions": x[7]}
    mask = attention.chunk_mask(step, PAGE, x[0].dtype) if attention._wants_mask(host.CHUNK) else None
    return _cached(x, "TRAPEZOIDAL", mask, query_lens, seq_lens)


def fused(x, query_lens, seq_lens):
    query, keys, values, mask, one, shift = x
    causal, lse = kernels.fused_attention(query, keys, values, None, mask, None, HEADS, KV_HEADS, 0.25, True)
    band, _ = kernels.fused_attention(query, keys, values, None, mask, 7, HEADS, KV_HEADS, 0.25, True)
    single, _ = kernels.fused_attention(one, keys, values, shift, None, None, HEADS, KV_HEADS, 0.25, True)
    return causal, lse, band, single


def towers(x, query_lens, seq_lens):
    attended = kernels.segment_attention(x[0], x[1], x[2], 0.25, (5, TOKENS))
    return attended, kernels.choose_rows(kernels.equal(x[5], 0).reshape(-1, 1), x[3], x[4])


def stacks(x, query_lens, seq_lens):
    return kernels.multiply_stacks(x[0], x[1], True), kernels.multiply_stacks(x[0], x[2], False), kernels.turn(x[3])


def put(x, query_lens, seq_lens):
    return (kernels.gather(kernels.put(x[0], x[1], x[2]).reshape(4 * PAGE, KV_HEADS * HEAD), x[3]),)


def state_rows(x, query_lens, seq_lens):
    return (kernels.append_rows(kernels.gather(kernels.put_rows(x[0], x[1], x[2]), x[3]), x[2]),)


# ---- MLA ----


def latent_decode(x, query_lens, seq_lens):
    return (kernels.mla_paged_attention(x[0], x[1], x[2], seq_lens, query_lens, HEADS, 0.2, LATENT),)


def latent_products(x, query_lens, seq_lens):
    return kernels.multiply_heads(x[0], x[1], False), kernels.multiply_heads(x[0], x[2], True)


def latent_rows(x, query_lens, seq_lens):
    pages = kernels.gather_pages(x[0], x[1])
    heads = kernels.to_all_heads(x[3], HEADS)
    return pages, kernels.numbered(x[2]), kernels.pad_heads(heads, 64, 1.0)


# ---- experts ----


def softmax_routing(x, query_lens, seq_lens):
    return (*kernels.softmax_top_k(x[0], 2), kernels.softmax(x[0]))


def sigmoid_routing(x, query_lens, seq_lens):
    return kernels.sigmoid_top_k(x[0], x[1], 1, 1, 1, 2, True, 2.5)


def composed_routing(x, query_lens, seq_lens):
    scores, experts = kernels.top_k(x[0], 2)
    return scores, experts, kernels.columns(x[0], experts), kernels.membership(experts, EXPERTS)


def grouped(x, query_lens, seq_lens):
    rows, places, counts = kernels.sort_by_expert(x[0], x[1], EXPERTS)
    found = kernels.grouped_matmul(rows, x[2], None, kernels.cast(counts, x[4].dtype))
    return rows, places, counts, kernels.sum_of_experts(found, places, x[3])


def pages(seed):
    return draw(4, PAGE, KV_HEADS, HEAD, seed=seed)


def requests(query_lens, seq_lens):
    """Of a step: query; keys and values of all that is cached; caches; their slots; block tables; positions of queries.

    Request i has page i + 1. One without a context has a row of padding, whose slot is -1.
    """
    each = list(zip(query_lens, seq_lens, strict=True))
    cached = [(page, place) for page, (_, seq) in enumerate(each, 1) for place in range(max(seq, 1))]
    slots = [page * PAGE + place if each[page - 1][1] else -1 for page, place in cached]
    positions = [max(seq - query + place, 0) for query, seq in each for place in range(query)]
    rows = [draw(len(slots), KV_HEADS * HEAD, seed=seed) for seed in (6, 7)]
    tables = np.arange(1, len(each) + 1, dtype=I32).reshape(-1, 1)
    query = draw(len(positions), HEADS * HEAD, seed=5)
    return query, *rows, pages(8), pages(9), np.array(slots, I32), tables, np.array(positions, I32)


TRIANGLE = np.triu(np.ones((2048, 2048), bool), 1)
ANGLES = draw(TOKENS, HEAD // 2, seed=10, dtype=F32)
TURNS = [np.concatenate([turn(ANGLES)] * 2, -1).astype(F16) for turn in (np.cos, np.sin)]
QKV = tuple(draw(TOKENS, heads * HEAD, seed=heads + 11) for heads in (HEADS, KV_HEADS, KV_HEADS))
DECODING, CHUNKED = ((1, 1, 1), (5, 9, 0)), ((3, 2), (7, 9))
LOGITS = draw(TOKENS, EXPERTS, seed=20, dtype=F32)
CHOSEN = np.stack([np.arange(TOKENS) % EXPERTS, (np.arange(TOKENS) + 3) % EXPERTS], -1).astype(I32)
LATENT_PAGES = draw(4, PAGE, 1, LATENT + ROPE, seed=22)
EACH_A_TOKEN = (1,) * TOKENS

CASES = (
    Case("gather", gather, (X, ROWS)),
    Case("matmul multiply", matmul, (X, draw(48, WIDTH, seed=24), draw(WIDTH, 48, seed=25)), tolerance=2e-2),
    Case("add add_scaled mul clamp", arithmetic, (X, Y)),
    Case("square_sum inverse_sqrt tanh exp log", wide_arithmetic, (WIDE,)),
    Case("largest log_add total divide", sums, (WIDE, WIDE[::-1].copy(), np.abs(WIDE[:, :1]) + 1.0)),
    Case("split cat contiguous swap cast depend zeros", layouts, (X, WIDE)),
    Case(
        "greater equal where both maximum floor_divide",
        comparisons,
        (numbers(TOKENS, 8, below=9, seed=1), numbers(TOKENS, 8, below=9, seed=2)),
    ),
    Case("rms_norm add_rms_norm layer_norm", norms, (X, Y, GAMMA, draw(WIDTH, seed=27))),
    Case("swiglu gelu sigmoid", activations, (X,)),
    Case("apply_rotary", rotary_by_rows, (QKV[0], QKV[1], *TURNS), lengths=(EACH_A_TOKEN, EACH_A_TOKEN)),
    Case("flash_attention", fresh, QKV, lengths=((20, 12), (20, 12))),
    Case(
        "reshape_and_cache paged_attention",
        decode,
        requests(*DECODING),
        lengths=DECODING,
        caches=(3, 4),
        avoid="export MS_INTERNAL_DISABLE_CUSTOM_KERNEL_LIST=FlashAttentionScore,PagedAttention",
    ),
    Case(
        "paged_attention",
        chunk,
        requests(*CHUNKED),
        lengths=CHUNKED,
        caches=(3, 4),
        avoid="--disable-radix-cache --chunked-prefill-size -1",
    ),
    Case(
        "fused_attention",
        fused,
        (
            draw(2, 32, HEADS * HEAD, seed=30),
            draw(2, FUSED_KEYS, KV_HEADS * HEAD, seed=31),
            draw(2, FUSED_KEYS, KV_HEADS * HEAD, seed=32),
            TRIANGLE,
            draw(2, 1, HEADS * HEAD, seed=33),
            draw(1, HEADS, 1, FUSED_KEYS, seed=34),
        ),
        avoid="--framework torch for models with sliding windows, sinks or ALiBi",
        all_chips=False,
    ),
    Case(
        "segment_attention choose_rows",
        towers,
        (*(draw(TOKENS, HEADS, HEAD, seed=seed) for seed in (36, 37, 38)), X, Y, numbers(TOKENS, below=2, seed=39)),
        avoid="--framework torch for models that see",
        all_chips=False,
    ),
    Case(
        "multiply_stacks turn",
        stacks,
        tuple(draw(*shape, seed=35) for shape in ((3, 16, 32), (3, 16, 32), (3, 32, 16), (2, 3, 4, 16))),
        tolerance=2e-2,
    ),
    Case(
        "put",
        put,
        (
            pages(36),
            np.arange(3 * KV_HEADS * HEAD, dtype=I32).reshape(3, -1),
            draw(3, KV_HEADS * HEAD, seed=37),
            np.arange(8, dtype=I32),
        ),
        avoid="--framework torch for models with sliding windows, sinks or ALiBi on a 310P",
        written=(0,),
    ),
    Case(
        "put_rows append_rows",
        state_rows,
        (draw(9, WIDTH, seed=46), np.array([7, 0, 4], I32), draw(3, WIDTH, seed=47), np.arange(9, dtype=I32)),
        avoid="--framework torch for models whose layers keep a state",
        all_chips=False,
        written=(0,),
    ),
    Case(
        "mla_paged_attention",
        latent_decode,
        (draw(2, HEADS * (LATENT + ROPE), seed=38), LATENT_PAGES, np.array([[1], [2]], I32)),
        lengths=((1, 1), (5, 9)),
        avoid="--framework torch for models with MLA",
        all_chips=False,
    ),
    Case(
        "multiply_heads",
        latent_products,
        (draw(TOKENS, HEADS, 32, seed=39), draw(HEADS, 32, 16, seed=40), draw(HEADS, 16, 32, seed=41)),
        tolerance=2e-2,
        avoid="--framework torch for models with MLA",
        all_chips=False,
    ),
    Case(
        "gather_pages numbered to_all_heads pad_heads",
        latent_rows,
        (LATENT_PAGES, np.array([1, 3], I32), np.array([[5, 6], [7, 8]], I32), draw(TOKENS, 48, seed=42)),
        avoid="--framework torch for models with MLA",
        all_chips=False,
    ),
    Case("softmax_top_k softmax", softmax_routing, (LOGITS,), avoid="--framework torch for models with experts"),
    Case(
        "sigmoid_top_k",
        sigmoid_routing,
        (LOGITS, np.abs(draw(EXPERTS, seed=43, dtype=F32))),
        avoid="--framework torch for models with experts that are routed by sigmoid",
    ),
    Case("top_k columns membership", composed_routing, (LOGITS,), avoid="--framework torch for models with experts"),
    Case(
        "sort_by_expert grouped_matmul sum_of_experts",
        grouped,
        (X, CHOSEN, draw(EXPERTS, WIDTH, 48, seed=44), np.abs(draw(TOKENS, 2, seed=45, dtype=F32)), CHOSEN.astype(I64)),
        tolerance=2e-2,
        avoid="--framework torch for models with experts",
    ),
    *operator_cases_quant.CASES,
)
