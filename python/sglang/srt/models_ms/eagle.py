"""Drafts of EAGLE and EAGLE3: one layer of Llama that reads the target's hidden states beside the token after them.

References: Li et al., 2024 (EAGLE) and 2025 (EAGLE-3); their checkpoints, as SGLang serves them. A product with
[embedding | hidden state] is computed as the sum of a product with each.
"""

from mindspore import mint, nn

from sglang.srt.layers_ms import Attention, GatedMLP, LMHead, RMSNorm, ops
from sglang.srt.layers_ms.drafts import HalvedLinear, HalvedQKV, TokenOffsets
from sglang.srt.layers_ms.linear import ReplicatedLinear
from sglang.srt.layers_ms.ops.metadata import INPUT_IDS, TOKENS, Field
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, Decoder, rms_norm
from sglang.srt.models_ms.llama import LlamaConfig

TARGET_HIDDEN = "target_hidden_states"  # what a draft's step begins with beside ids: [T, hidden_size]


class EagleConfig(LlamaConfig):
    fc_bias: bool = key("bias", True)


class Eagle3Config(LlamaConfig):
    draft_vocab_size: int = key("draft_vocab_size", lambda config: config.vocab_size)
    target_hidden_size: int = key("target_hidden_size", lambda config: config.hidden_size)
    aux_layers: tuple = key("eagle_config.eagle_aux_hidden_state_layer_ids", (), convert=tuple)
    num_aux_hidden_states: int = key("num_aux_hidden_states", lambda config: len(config.aux_layers) or 3)
    # What is normalized beside EAGLE-3's own: all that is read, each layer's by itself, and what is handed on.
    norm_before_fc: bool = key("eagle_config.norm_before_fc", False, aliases=("norm_before_fc",))
    fc_norm: bool = key("fc_norm", False, aliases=("use_aux_norm",), convert=bool)
    norm_output: bool = key("norm_output", False)
    expected = {
        "bias": False,
        "eagle_config.use_aux_hidden_state": True,
        "eagle_config.use_input_layernorm_in_first_layer": True,
        "eagle_config.use_last_layernorm": True,
        "eagle_config.use_mtp_layernorm": False,
    }

    def problems(self):
        yield from super().problems()
        if self.num_hidden_layers != 1:
            yield f"num_hidden_layers = {self.num_hidden_layers}: drafts of one layer are computed"
        if self.target_hidden_size != self.hidden_size:
            yield f"hidden_size = {self.hidden_size}, and target_hidden_size = {self.target_hidden_size}: they are one"


class Eagle3Layer(nn.Cell):
    """Attention sees the embedding beside the hidden state, and adds to the latter."""

    def __init__(self, config, layer_id):
        super().__init__()
        attention = Attention(config, layer_id)
        attention.qkv_proj = HalvedQKV(config)
        self.self_attn, self.mlp = attention, GatedMLP(config)
        self.input_layernorm, self.hidden_norm = rms_norm(config), rms_norm(config)
        self.post_attention_layernorm = rms_norm(config)

    def construct(self, embedded, hidden_states, step):
        pair = (self.input_layernorm.plain(embedded), self.hidden_norm.plain(hidden_states))
        x, residual = self.post_attention_layernorm(self.self_attn(pair, step), hidden_states)
        return self.mlp(x, step), residual


class EagleLayer(nn.Cell):
    """A layer of Llama without the norm before attention."""

    def __init__(self, config, layer_id):
        super().__init__()
        bias = config.attention_bias
        self.self_attn = Attention(config, layer_id, qkv_bias=bias, out_bias=bias)
        self.mlp, self.post_attention_layernorm = GatedMLP(config, bias=config.mlp_bias), rms_norm(config)

    def construct(self, x, step):
        x, residual = self.post_attention_layernorm(self.self_attn(x, step), x)
        return ops.add(self.mlp(x, step), residual, 1.0)


class DraftDecoder(nn.Cell):
    """What drafts share: the embedding is the target's, which whoever loads both hands over."""

    begins_with, aux_places, takes_media = INPUT_IDS.name, (), False
    of_first_stage = Decoder.of_first_stage

    def __init__(self, layers):
        super().__init__()
        self.embed_tokens = self.norm = self.fused = None
        self.layers = nn.CellList(layers)

    def begin(self, step):
        """-> embeddings of the ids, and the target's hidden states."""
        ids, hidden_states = (ops.with_valid_rows(step[name], step) for name in (INPUT_IDS.name, TARGET_HIDDEN))
        return self.embed_tokens.plain(ids), hidden_states


class Eagle3Decoder(DraftDecoder):
    def __init__(self, config):
        super().__init__([Eagle3Layer(config, 0)])
        self.norm, self.norm_output = rms_norm(config), config.norm_output

    def construct(self, step):
        x, residual = self.layers[0](*self.begin(step), step)
        x, total = self.norm(x, residual)
        return ops.without_valid_rows(x), ops.without_valid_rows(x if self.norm_output else total)


class EagleDecoder(DraftDecoder):
    def __init__(self, config):
        super().__init__([EagleLayer(config, layer) for layer in config.layer_range])
        size = config.hidden_size
        self.fc = HalvedLinear(size, [("../fc", size, slice(0, size))], config.fc_bias, config.dtype)

    def construct(self, step):
        x = self.fc(self.begin(step))
        for layer in self.layers:
            x = layer(x, step)
        return (ops.without_valid_rows(x),)


class DraftForCausalLM(CausalLM):
    """A draft as the executor takes it: a CausalLM that begins with ids and with hidden states of the target."""

    decoder_class = None
    ignored_tensors = (r"^(model\.)?embed_tokens\.weight$", r"^t2d$")
    optional_prefix = "model."
    shares_head = True  # the target's head scores
    keeps_weights = True  # when the target gets new ones

    def __init__(self, hf_config, runtime):
        nn.Cell.__init__(self)
        config = self.read_config(hf_config, runtime)
        self.config, self.tied = config, None
        self.model = self._decoder(config)
        for index, layer in enumerate(self.model.layers):
            layer.self_attn.cache_index = index
        self.lm_head = self.offsets = None  # offsets: of a draft's own tokens from the target's
        self._add_head(config)
        self._place(config)
        self._name_tensors(config)
        self._create_parameters(hf_config)

    @classmethod
    def read_config(cls, hf_config, runtime):
        return cls.config_class.read(hf_config, runtime=runtime)

    def _decoder(self, config):
        return self.decoder_class(config)

    def _name_tensors(self, config):
        """What is called otherwise in the checkpoint, and what of it belongs to others."""
        self.other_stages = []

    def _add_head(self, config):
        """Make the draft's own head and what belongs to it, if it has one."""

    def share_embedding(self, embed_tokens):
        """Take the target's. Before the graph is compiled."""
        self.model.embed_tokens = embed_tokens

    def model_inputs(self):
        dtype = str(self.config.dtype).lower()
        return INPUT_IDS, Field(TARGET_HIDDEN, (TOKENS, self.config.hidden_size), dtype)

    def head(self):
        return None if self.lm_head is None else self.lm_head.weight


class LlamaForCausalLMEagle3(DraftForCausalLM):
    config_class, decoder_class, shares_head = Eagle3Config, Eagle3Decoder, False
    tensor_names = {"model.layers.0": "midlayer", "model.norm": "norm"}
    other_tensor_names = (
        {"model.layers.0": "layers.0", "model.norm": "norm"},
        tensor_names | {f"fc_norm.{layer}": f"aux_norm_{name}" for layer, name in enumerate(("low", "mid", "high"))},
    )

    def _add_head(self, config):
        aux = config.target_hidden_size * config.num_aux_hidden_states
        self.fc = ReplicatedLinear(aux, config.hidden_size, config.dtype)
        sizes = config.target_hidden_size, config.rms_norm_eps, config.dtype
        self.input_norm = RMSNorm(aux, *sizes[1:]) if config.norm_before_fc else None
        self.fc_norm = nn.CellList(
            [RMSNorm(*sizes) for _ in range(config.num_aux_hidden_states if config.fc_norm else 0)]
        )
        self.lm_head = LMHead(config.draft_vocab_size, config.hidden_size, config.shard.head, config.dtype)
        if config.draft_vocab_size != config.vocab_size:
            self.offsets = TokenOffsets(config.draft_vocab_size)

    def project(self, features):
        """[T, target_hidden_size * num_aux_hidden_states] -> [T, hidden_size]. Called outside graphs."""
        if self.input_norm is not None:
            features = self.input_norm.plain(features)
        if len(self.fc_norm):
            layers = zip(self.fc_norm, mint.chunk(features, len(self.fc_norm), -1), strict=True)
            features = mint.cat([norm.plain(part.contiguous()) for norm, part in layers], -1)
        return self.fc(features)


class LlamaForCausalLMEagle(DraftForCausalLM):
    config_class, decoder_class = EagleConfig, EagleDecoder
    ignored_tensors = (*DraftForCausalLM.ignored_tensors, r"^lm_head\.weight$")


class Qwen2EagleConfig(EagleConfig):
    attention_bias: bool = key("attention_bias", True)


class Qwen2ForCausalLMEagle(LlamaForCausalLMEagle):
    config_class = Qwen2EagleConfig
