"""Names and shapes of the tensors of each architecture's checkpoints, by what config.json says."""

from models.published.parts import (
    POST,
    PRE,
    attention,
    corrected,
    experts,
    head_norms,
    latent,
    mlp,
    model,
    norms,
    repeated,
    sizes,
    weights,
)


def llama(config, **options):
    return model(config, lambda _: attention(config) | mlp(config) | norms(config, *PRE), **options)


def headless(config, **options):
    return llama(config, tied=True, **options)


def classifier(config):
    return headless(config) | {"score.weight": (len(config["id2label"]), config["hidden_size"])}


def urm(config):
    hidden, classes = config["hidden_size"], len(config["id2label"])
    fc = {"0": (hidden, hidden), "2": (hidden, hidden), "4": (classes // 2, hidden)}
    found = {f"weights.fc.{i}.weight": shape for i, shape in fc.items()}
    return classifier(config) | found | {f"weights.fc.{i}.bias": shape[:1] for i, shape in fc.items()}


def mixtral(config):
    def layer(_):
        hidden, size = config["hidden_size"], config["intermediate_size"]
        found = attention(config) | norms(config, *PRE)
        found["block_sparse_moe.gate.weight"] = (config["num_local_experts"], hidden)
        for i in range(config["num_local_experts"]):
            shapes = dict(w1=(size, hidden), w2=(hidden, size), w3=(size, hidden))
            found |= weights(f"block_sparse_moe.experts.{i}.", **shapes)
        return found

    return model(config, layer)


def lfm2(config):
    hidden, q, kv, head = sizes(config)
    size = config["block_ff_dim"] * 2 // 3

    def layer(number):
        found = norms(config, "operator_norm", "ffn_norm")
        found |= weights("feed_forward.", w1=(size, hidden), w2=(hidden, size), w3=(size, hidden))
        if number not in config["full_attn_idxs"]:
            found["conv.conv.weight"] = (hidden, 1, config["conv_L_cache"])
            return found | weights("conv.", in_proj=(3 * hidden, hidden), out_proj=(hidden, hidden))
        found |= weights("self_attn.", q_proj=(q, hidden), k_proj=(kv, hidden), v_proj=(kv, hidden))
        found |= weights("self_attn.", out_proj=(hidden, q), q_layernorm=(head,), k_layernorm=(head,))
        return found

    found = model(config, layer, tied=True)
    del found["model.norm.weight"]
    return found | norms(config, "model.embedding_norm")


def grok(config):
    names = ("pre_attn_norm", "post_attn_norm", "pre_moe_norm", "post_moe_norm")
    found = {key: shape for key, shape in mixtral(config).items() if "layernorm" not in key}
    return found | repeated(config, "model.layers", lambda _: norms(config, *names))


def gemma(config):
    return llama(config, tied=True)


def gemma2(config):
    def layer(_):
        return attention(config) | mlp(config) | norms(config, *PRE, "pre_feedforward_layernorm", POST[1])

    return model(config, layer, tied=True)


def gemma3(config):
    return gemma2(config) | repeated(config, "model.layers", lambda _: head_norms(config))


def gemma2_classifier(config):
    return gemma2(config) | {"score.weight": (1, config["hidden_size"])}


def qwen1(config):
    hidden, size = config["hidden_size"], config["intermediate_size"] // 2

    def layer(_):
        found = weights("attn.", c_attn=(3 * hidden, hidden), c_proj=(hidden, hidden))
        found |= weights("mlp.", w1=(size, hidden), w2=(size, hidden), c_proj=(hidden, size))
        return found | norms(config, "ln_1", "ln_2") | {"attn.c_attn.bias": (3 * hidden,)}

    rows = (config["vocab_size"], hidden)
    found = {"transformer.wte.weight": rows, "lm_head.weight": rows, **norms(config, "transformer.ln_f")}
    return found | repeated(config, "transformer.h", layer)


def qwen2(config, **options):
    return model(config, lambda _: attention(config, True, False) | mlp(config) | norms(config, *PRE), **options)


def qwen2_reward(config):
    hidden = config["hidden_size"]
    head = {"score.0.weight": (hidden, hidden), "score.0.bias": (hidden,)}
    return qwen2(config, tied=True) | head | {"score.2.weight": (1, hidden), "score.2.bias": (1,)}


def qwen3(config, **options):
    return llama(config, **options) | repeated(config, "model.layers", lambda _: head_norms(config))


def qwen3_classifier(config):
    return qwen3(config, tied=True) | {"score.weight": (1, config["hidden_size"])}


def qwen2_moe(config):
    def layer(_):
        found = attention(config, True, False) | norms(config, *PRE)
        found |= experts(config, config["num_experts"], config["moe_intermediate_size"])
        found["mlp.shared_expert_gate.weight"] = (1, config["hidden_size"])
        return found | mlp(config, config["shared_expert_intermediate_size"], "mlp.shared_expert.")

    return model(config, layer)


def qwen3_moe(config):
    def layer(_):
        found = attention(config) | norms(config, *PRE) | head_norms(config)
        return found | experts(config, config["num_experts"], config["moe_intermediate_size"])

    return model(config, layer)


def olmoe(config):
    def layer(_):
        hidden, q, kv, _ = sizes(config)
        found = attention(config) | norms(config, *PRE) | weights("self_attn.", q_norm=(q,), k_norm=(kv,))
        return found | experts(config, config["num_experts"], config["intermediate_size"])

    return model(config, layer)


def phi3(config):
    def layer(_):
        hidden, q, kv, _ = sizes(config)
        found = weights("self_attn.", qkv_proj=(q + 2 * kv, hidden), o_proj=(hidden, q))
        size = config["intermediate_size"]
        return found | weights("mlp.", gate_up_proj=(2 * size, hidden), down_proj=(hidden, size)) | norms(config, *PRE)

    return model(config, layer)


def stablelm(config):
    def layer(_):
        parallel, qk = config.get("use_parallel_residual", False), config.get("qk_layernorm", False)
        _, q, kv, head = sizes(config)
        biased = norms(config, *(PRE[:1] if parallel else PRE))
        biased |= {name.replace("weight", "bias"): shape for name, shape in biased.items()}
        found = attention(config, config["use_qkv_bias"], False) | mlp(config) | biased
        for name, rows in (("q", q), ("k", kv)) if qk else ():
            found |= {f"self_attn.{name}_layernorm.norms.{i}.weight": (head,) for i in range(rows // head)}
        return found

    return model(config, layer) | {"model.norm.bias": (config["hidden_size"],)}


def cohere(config):
    def layer(_):
        heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
        head = sizes(config)[3]
        norm = weights("self_attn.", q_norm=(heads, head), k_norm=(kv, head)) if config.get("use_qk_norm") else {}
        return attention(config) | mlp(config) | norms(config, PRE[0]) | norm

    return model(config, layer, tied=True)


def exaone(config):
    def layer(_):
        hidden, q, kv, _ = sizes(config)
        size = config["intermediate_size"]
        found = weights("attn.attention.", q_proj=(q, hidden), k_proj=(kv, hidden), v_proj=(kv, hidden))
        found |= weights("attn.attention.", out_proj=(hidden, q)) | norms(config, "ln_1", "ln_2")
        return found | weights("mlp.", c_fc_0=(size, hidden), c_fc_1=(size, hidden), c_proj=(hidden, size))

    rows = (config["vocab_size"], config["hidden_size"])
    found = {"transformer.wte.weight": rows, **norms(config, "transformer.ln_f")}
    found |= {} if config["tie_word_embeddings"] else {"lm_head.weight": rows}
    return found | repeated(config, "transformer.h", layer)


def exaone4(config):
    return model(config, lambda _: attention(config) | mlp(config) | norms(config, *POST) | head_norms(config))


def olmo2(config):
    def layer(_):
        _, q, kv, _ = sizes(config)
        rows = weights("self_attn.", q_norm=(q,), k_norm=(kv,))
        return attention(config) | mlp(config) | norms(config, *POST) | rows

    return model(config, layer)


def chatglm(config):
    hidden, size, kv = config["hidden_size"], config["ffn_hidden_size"], config["multi_query_group_num"]
    qkv = hidden + 2 * kv * config["kv_channels"]

    def layer(_):
        found = weights("self_attention.", query_key_value=(qkv, hidden), dense=(hidden, hidden))
        found |= weights("mlp.", dense_h_to_4h=(2 * size, hidden), dense_4h_to_h=(hidden, size))
        return found | norms(config, *PRE) | {"self_attention.query_key_value.bias": (qkv,)}

    rows, decoder = (config["padded_vocab_size"], hidden), "transformer.encoder"
    found = {"transformer.embedding.word_embeddings.weight": rows, "transformer.output_layer.weight": rows}
    return found | norms(config, f"{decoder}.final_layernorm") | repeated(config, f"{decoder}.layers", layer)


def glm(config):
    def layer(_):
        hidden, size = config["hidden_size"], config["intermediate_size"]
        packed = weights("mlp.", gate_up_proj=(2 * size, hidden), down_proj=(hidden, size))
        return attention(config, out_bias=False) | packed | norms(config, *PRE)

    return model(config, layer)


def glm4(config):
    both = ("post_self_attn_layernorm", "post_mlp_layernorm")
    return glm(config) | repeated(config, "model.layers", lambda _: norms(config, *both))


def glm4_moe_layer(config, number):
    found = attention(config, out_bias=False) | norms(config, *PRE) | corrected(config, number)
    return found | (head_norms(config) if config["use_qk_norm"] else {})


def glm4_moe(config):
    return model(config, lambda number: glm4_moe_layer(config, number))


def internlm2(config, headless=False):
    def layer(_):
        hidden, q, kv, _ = sizes(config)
        size = config["intermediate_size"]
        found = weights("attention.", wqkv=(q + 2 * kv, hidden), wo=(hidden, q))
        found |= weights("feed_forward.", w1=(size, hidden), w2=(hidden, size), w3=(size, hidden))
        return found | norms(config, "attention_norm", "ffn_norm")

    rows = (config["vocab_size"], config["hidden_size"])
    found = {"model.tok_embeddings.weight": rows, **norms(config, "model.norm")}
    return found | ({} if headless else {"output.weight": rows}) | repeated(config, "model.layers", layer)


def internlm2_reward(config):
    return internlm2(config, headless=True) | {"v_head.weight": (1, config["hidden_size"])}


def baichuan(config):
    def layer(_):
        hidden = config["hidden_size"]
        packed = weights("self_attn.", W_pack=(3 * hidden, hidden), o_proj=(hidden, hidden))
        return packed | mlp(config) | norms(config, *PRE)

    return model(config, layer)


def minicpm(config):
    return llama(config, tied=config.get("tie_word_embeddings", True))


def minicpm3(config):
    value = config["hidden_size"] // config["num_attention_heads"]
    return model(config, lambda _: latent(config, value) | mlp(config) | norms(config, *PRE), tied=True)


def deepseek(config):
    return model(config, lambda number: attention(config) | corrected(config, number) | norms(config, *PRE))


def deepseek_layer(config, number):
    return latent(config, config["v_head_dim"]) | corrected(config, number) | norms(config, *PRE)


def deepseek_v2(config):
    return model(config, lambda number: deepseek_layer(config, number))


def gpt_oss(config):
    def layer(_):
        hidden, size, count = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
        found = attention(config) | norms(config, *PRE) | {"self_attn.sinks": (config["num_attention_heads"],)}
        found |= {"mlp.router.weight": (count, hidden), "mlp.router.bias": (count,)}
        found["mlp.experts.gate_up_proj"] = (count, hidden, 2 * size)
        found["mlp.experts.gate_up_proj_bias"] = (count, 2 * size)
        found["mlp.experts.down_proj"] = (count, size, hidden)
        return found | {"mlp.experts.down_proj_bias": (count, hidden)}

    return model(config, layer)


def dbrx(config):
    hidden, ffn = config["d_model"], config["ffn_config"]
    kv = config["attn_config"]["kv_n_heads"] * hidden // config["n_heads"]
    rows = (ffn["moe_num_experts"] * ffn["ffn_hidden_size"], hidden)

    def layer(_):
        found = weights("norm_attn_norm.", norm_1=(hidden,), norm_2=(hidden,))
        found |= weights("norm_attn_norm.attn.", Wqkv=(hidden + 2 * kv, hidden), out_proj=(hidden, hidden))
        found["ffn.router.layer.weight"] = (ffn["moe_num_experts"], hidden)
        return found | {f"ffn.experts.mlp.{name}": rows for name in ("w1", "v1", "w2")}

    vocabulary = (config["vocab_size"], hidden)
    found = {"transformer.wte.weight": vocabulary, "lm_head.weight": vocabulary, "transformer.norm_f.weight": (hidden,)}
    return found | repeated(config, "transformer.blocks", layer)


def frequencies(config):
    half = sizes(config)[3] // 2
    return repeated(config, "model.layers", lambda _: {"self_attn.rotary_emb.inv_freq": (half,)})


def rotary_of_chatglm(config):
    return {"transformer.rotary_pos_emb.inv_freq": (config["kv_channels"] // 4,)}


def tied_head(config):
    return {"lm_head.weight": (config["vocab_size"], config["hidden_size"])}


def predictor(config):
    """The layer after the last, which predicts one more token."""
    number, hidden = config["num_hidden_layers"], config["hidden_size"]
    layer = glm4_moe_layer if config["model_type"] == "glm4_moe" else deepseek_layer
    rows = (config["vocab_size"], hidden)
    own = weights(eh_proj=(hidden, 2 * hidden), embed_tokens=rows) | norms(config, "enorm", "hnorm", "shared_head.norm")
    own["shared_head.head.weight"] = rows
    own |= layer(config, number)
    return repeated(config, "model.layers", lambda _: own, number, number + 1)


ARCHITECTURES = dict(
    BaiChuanForCausalLM=baichuan,
    BaichuanForCausalLM=baichuan,
    ChatGLMModel=chatglm,
    Cohere2ForCausalLM=cohere,
    CohereForCausalLM=cohere,
    DbrxForCausalLM=dbrx,
    DeepseekForCausalLM=deepseek,
    DeepseekV2ForCausalLM=deepseek_v2,
    DeepseekV3ForCausalLM=deepseek_v2,
    Exaone4ForCausalLM=exaone4,
    ExaoneForCausalLM=exaone,
    Gemma2ForCausalLM=gemma2,
    Gemma2ForSequenceClassification=gemma2_classifier,
    Gemma3ForCausalLM=gemma3,
    GemmaForCausalLM=gemma,
    Glm4ForCausalLM=glm4,
    Glm4MoeForCausalLM=glm4_moe,
    GlmForCausalLM=glm,
    GptOssForCausalLM=gpt_oss,
    GraniteForCausalLM=llama,
    Grok1ModelForCausalLM=grok,
    InternLM2ForCausalLM=internlm2,
    InternLM2ForRewardModel=internlm2_reward,
    InternLM3ForCausalLM=llama,
    LLaMAForCausalLM=llama,
    Lfm2ForCausalLM=lfm2,
    LlamaForCausalLM=llama,
    LlamaForSequenceClassification=classifier,
    LlamaForSequenceClassificationWithNormal_Weights=urm,
    MiniCPM3ForCausalLM=minicpm3,
    MiniCPMForCausalLM=minicpm,
    MistralForCausalLM=llama,
    MistralModel=headless,
    MixtralForCausalLM=mixtral,
    Olmo2ForCausalLM=olmo2,
    Olmo3ForCausalLM=olmo2,
    OlmoeForCausalLM=olmoe,
    Phi3ForCausalLM=phi3,
    QWenLMHeadModel=qwen1,
    Qwen2ForCausalLM=qwen2,
    Qwen2ForRewardModel=qwen2_reward,
    Qwen2Model=lambda config: qwen2(config, tied=True),
    Qwen2MoeForCausalLM=qwen2_moe,
    Qwen3ForCausalLM=qwen3,
    Qwen3ForSequenceClassification=qwen3_classifier,
    Qwen3MoeForCausalLM=qwen3_moe,
    StableLmForCausalLM=stablelm,
)
