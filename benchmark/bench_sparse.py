"""How much sooner a token of sparse latent attention is there than one of the same stack that is dense, by context.

python benchmark/bench_sparse.py --cases 1:16384 8:16384

Layers of DeepSeek V3.2's shape with random bfloat16 weights, without a server, on random caches. Each MLP is a dense
one of 18,432 columns: a token reads as much of eight experts and the shared one. A case has requests and the tokens of
each before the step. Both models take turns, and the median of each counts.
"""

import argparse

import numpy as np
import step_model

SHAPE = dict(
    vocab_size=16384,  # of 129,280: the head is a small part of what a token reads, as in the whole model
    hidden_size=7168,
    intermediate_size=18432,
    num_attention_heads=128,
    num_key_value_heads=128,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    max_position_embeddings=163840,
    rope_theta=10000,
    hidden_act="silu",
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    moe_intermediate_size=2048,
    n_routed_experts=256,
    n_shared_experts=1,
    num_experts_per_tok=8,
    n_group=8,
    topk_group=4,
    norm_topk_prob=True,
    scoring_func="sigmoid",
    topk_method="noaux_tc",
    routed_scaling_factor=2.5,
)
INDEXER = dict(index_topk=2048, index_head_dim=128, index_n_heads=64)
KINDS = {
    "sparse": INDEXER | dict(model_type="deepseek_v32", architectures=["DeepseekV32ForCausalLM"]),
    "dense": dict(model_type="deepseek_v3", architectures=["DeepseekV3ForCausalLM"]),
}


def case(text: str) -> tuple[int, int]:
    requests, context = map(int, text.split(":"))
    return requests, context


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", type=case, default=[(1, 4096), (1, 16384), (8, 16384)])
    parser.add_argument("--layers", type=int, default=2, help="a layer has 1.2 GB, and there are two models")
    parser.add_argument("--hidden-size", type=int, default=SHAPE["hidden_size"])
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    step_model.start()
    slots = 1 + max(requests * (context + 1) for requests, context in arguments.cases)
    most = max(requests for requests, _ in arguments.cases)
    layers = dict(num_hidden_layers=arguments.layers, first_k_dense_replace=arguments.layers)
    shape = SHAPE | layers | dict(hidden_size=arguments.hidden_size)
    models = {name: step_model.StepModel(shape | kind, slots, most, most) for name, kind in KINDS.items()}
    for requests, context in arguments.cases:
        step = next(iter(models.values())).step(requests, 1, context)
        turns = [[model.seconds(step) for model in models.values()] for _ in range(arguments.turns + 1)][1:]
        sparse, dense = np.median(turns, 0)
        times = f"sparse {sparse * 1e3:.1f} ms, dense {dense * 1e3:.1f} ms, {dense / sparse:.2f}x"
        print(f"{requests} requests of {context} tokens: {times}", flush=True)


if __name__ == "__main__":
    main()
