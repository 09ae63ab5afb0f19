"""Models that see, small and random, with processors: made by transformers, which is their reference too."""

import functools
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralImageProcessor,
    PixtralProcessor,
    PixtralVisionConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

DEMO = Path(__file__).parents[2] / "ms_example/demo_model"
SIZE, PATCH = 28, 7  # pixels
# Messages whose parts are texts and images, which a placeholder stands for.
CHAT = """{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}PLACEHOLDER
{%- else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"""


def tokenizer(*tokens: str, shown: str = "", **named: dict[str, str]):
    """The demo model's, with more tokens. shown: the placeholder of an image in messages, the first token by default.

    named: extra_special_tokens, by their names.
    """
    found = AutoTokenizer.from_pretrained(DEMO, **named)
    found.add_special_tokens({"additional_special_tokens": list(tokens)})
    found.chat_template = CHAT.replace("PLACEHOLDER", shown or tokens[0])
    return found


def text(kind, **more) -> dict:
    """A decoder's config: sizes of which none divides another by accident."""
    sizes = dict(hidden_size=60, intermediate_size=92, num_hidden_layers=3, num_attention_heads=6)
    return kind(**sizes, num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-3, **more)


def _clip(hidden_size: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=hidden_size,
        intermediate_size=76,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        layer_norm_eps=2e-3,
    )


def _llava_like(config_class, model_class, processor_class, image_processor, decoder, more, npu=False):
    tokens = tokenizer("<image>")
    decoder = text(decoder, vocab_size=len(tokens), **(dict(head_dim=16) if npu else {}))
    image_token = tokens.convert_tokens_to_ids("<image>")
    config = config_class(
        vision_config=_clip(64 if npu else 48), text_config=decoder, image_token_index=image_token, **more
    )
    processor = processor_class(
        image_processor=image_processor,
        tokenizer=tokens,
        patch_size=PATCH,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        image_token="<image>",
    )
    return model_class, config, processor


CROPPED = dict(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def _llava(decoder=LlamaConfig, npu=False, **more):
    classes = (LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor)
    return _llava_like(*classes, CLIPImageProcessor(**CROPPED), decoder, more, npu)


def _llava_next():
    classes = (LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor)
    sizes = [[SIZE, 2 * SIZE], [2 * SIZE, SIZE], [2 * SIZE, 2 * SIZE], [SIZE, 3 * SIZE]]
    made = LlavaNextImageProcessor(**CROPPED, image_grid_pinpoints=sizes)
    return _llava_like(*classes, made, MistralConfig, dict(image_grid_pinpoints=sizes))


def _qwen(config_class, model_class, processor_class, vision, decoder=None, video=Qwen2VLVideoProcessor, rope=None):
    names = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokens = tokenizer(*names, shown=PLACEHOLDERS["qwen"])
    begin, end, image_token, video_token = map(tokens.convert_tokens_to_ids, names)
    turns = {"rope_type": "default", "rope_theta": 5000.0, "mrope_section": [2, 2, 1]}
    config = config_class(
        text_config=dict(
            dict(hidden_size=60),
            vocab_size=len(tokens),
            intermediate_size=92,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=512,
            rms_norm_eps=1e-3,
            rope_parameters=turns | (rope or {}),
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=0,
        )
        | (decoder or {}),
        vision_config=dict(depth=3, num_heads=3, patch_size=14, **vision),
        image_token_id=image_token,
        video_token_id=video_token,
        vision_start_token_id=begin,
        vision_end_token_id=end,
        tie_word_embeddings=False,
    )
    processor = processor_class(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=tokens,
        video_processor=video(),
    )
    return model_class, config, processor


def _qwen2_vl():
    vision = dict(embed_dim=36, hidden_size=60, mlp_ratio=2)
    return _qwen(Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor, vision)


def _qwen2_5_vl(npu=False):
    # Windows of two squares of patches each way; the middle layer sees the whole image.
    windows = dict(window_size=56, fullatt_block_indexes=[1])
    classes = (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor)
    if npu:
        vision = dict(hidden_size=48, out_hidden_size=96, intermediate_size=64, **windows)
        return _qwen(*classes, vision, dict(hidden_size=96), rope=dict(mrope_section=[4, 2, 2]))
    return _qwen(*classes, dict(hidden_size=36, out_hidden_size=60, intermediate_size=52, **windows))


def _qwen3_vl():
    vision = dict(hidden_size=36, out_hidden_size=60, intermediate_size=52, num_position_embeddings=25)
    vision |= dict(deepstack_visual_indexes=[0, 2])
    processors = (Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor)
    interleaved = dict(mrope_interleaved=True, mrope_section=[2, 2, 2])
    return _qwen(*processors, vision, dict(head_dim=12), Qwen3VLVideoProcessor, interleaved)


def _qwen3_vl_moe():
    vision = dict(hidden_size=36, out_hidden_size=60, intermediate_size=52, num_position_embeddings=25)
    vision |= dict(deepstack_visual_indexes=[0, 2])
    experts = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=28, mlp_only_layers=[1])
    processors = (Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration, Qwen3VLProcessor)
    interleaved = dict(mrope_interleaved=True, mrope_section=[2, 2, 2])
    return _qwen(*processors, vision, dict(head_dim=12, **experts), Qwen3VLVideoProcessor, interleaved)


def _mistral3():
    tokens = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    vision = PixtralVisionConfig(
        hidden_size=48, intermediate_size=76, num_hidden_layers=3, num_attention_heads=4, image_size=168, patch_size=14
    )
    config = Mistral3Config(
        vision_config=vision,
        text_config=text(MistralConfig, vocab_size=len(tokens), head_dim=14, sliding_window=None),
        image_token_index=tokens.convert_tokens_to_ids("[IMG]"),
        tie_word_embeddings=False,
    )
    sizes = dict(size={"longest_edge": 168}, patch_size={"height": 14, "width": 14})
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessor(**sizes), tokenizer=tokens, patch_size=14, spatial_merge_size=2
    )
    return Mistral3ForConditionalGeneration, config, processor


def _internvl():
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokens = tokenizer(shown=PLACEHOLDERS["internvl"], extra_special_tokens=names | {"video_token": "<video>"})
    vision = InternVLVisionConfig(
        hidden_size=48,
        intermediate_size=76,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=[SIZE, SIZE],
        patch_size=[PATCH, PATCH],
        attention_bias=True,
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=text(Qwen2Config, vocab_size=len(tokens)),
        image_token_id=tokens.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    made = GotOcr2ImageProcessor(size={"height": SIZE, "width": SIZE}, min_patches=1, max_patches=6)
    video = InternVLVideoProcessor()
    processor = InternVLProcessor(image_processor=made, tokenizer=tokens, video_processor=video, image_seq_length=4)
    return InternVLForConditionalGeneration, config, processor


def _gemma3():
    names = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
    tokens = tokenizer(shown=PLACEHOLDERS["gemma3"], extra_special_tokens=names)
    vision = dict(hidden_size=48, intermediate_size=76, num_hidden_layers=2, num_attention_heads=4, image_size=2 * SIZE)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    # Windows of fewer tokens than an image has.
    sizes = dict(head_dim=12, query_pre_attn_scalar=20, sliding_window=9, layer_types=kinds)
    begin, image_token, end = map(tokens.convert_tokens_to_ids, names.values())
    config = Gemma3Config(
        text_config=text(Gemma3TextConfig, vocab_size=len(tokens), **sizes),
        vision_config=dict(vision, patch_size=PATCH),
        mm_tokens_per_image=16,
        boi_token_index=begin,
        image_token_index=image_token,
        eoi_token_index=end,
    )
    made = Gemma3ImageProcessor(size={"height": 2 * SIZE, "width": 2 * SIZE})
    processor = Gemma3Processor(image_processor=made, tokenizer=tokens, image_seq_length=16)
    return Gemma3ForConditionalGeneration, config, processor


# With heads of 16 values, as kernels of NPUs want them.
ON_NPU = {"llava@16": functools.partial(_llava, npu=True), "qwen2_5_vl@16": functools.partial(_qwen2_5_vl, npu=True)}
KINDS = {
    "gemma3": _gemma3,
    "llava": _llava,
    "internvl": _internvl,
    "llava_next": _llava_next,
    "mistral3": _mistral3,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl_moe,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "llava-qwen2-full": functools.partial(
        _llava, Qwen2Config, vision_feature_select_strategy="full", vision_feature_layer=2
    ),
}


def _randomize(name: str, parameter: torch.Tensor, of_tokens: float) -> None:
    """Norms far from one, biases far from zero, and scores so large that attention is no plain average.

    of_tokens: how large the embeddings of tokens are.
    """
    inner = 1.5 / math.sqrt(parameter[0].numel()) if parameter.ndim else 1.0
    gain = 0.5 if parameter.ndim == 1 else of_tokens if "embed_tokens" in name else inner
    offset = 1.0 if parameter.ndim == 1 and name.endswith("norm.weight") else 0.0
    parameter.copy_(torch.randn(parameter.shape) * gain + offset)


PLACEHOLDERS = {
    "gemma3": "<start_of_image>",
    "internvl": "<IMG_CONTEXT>",
    "llava": "<image>",
    "mistral3": "[IMG]",
    "qwen": "<|vision_start|><|image_pad|><|vision_end|>",
}


def placeholder(kind: str) -> str:
    """What stands for an image in a prompt."""
    found = [token for family, token in PLACEHOLDERS.items() if kind.startswith(family)]
    return found[0]


@functools.cache
def hugging_face(kind: str):
    """transformers' model in float32, and its processor."""
    model_class, config, processor = (KINDS | ON_NPU)[kind]()
    torch.manual_seed(len(kind))
    config._attn_implementation = "eager"
    model = model_class._from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _randomize(name, parameter, 0.15 if kind == "gemma3" else 1.0)  # Gemma's are scaled, and the head too
            if kind in ON_NPU:
                parameter.copy_(parameter.half())
    return model, processor


def save(kind: str, folder: Path) -> Path:
    """Write a checkpoint with its processor, as transformers does -> its folder."""
    model, processor = hugging_face(kind)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def image(seed: int, width: int = 56, height: int = 84) -> Image.Image:
    """Noise of few colors."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.NEAREST)


@torch.no_grad()
def reference(kind: str, prompt: str, images: list, tokens: int) -> tuple[list[int], np.ndarray]:
    """Ids that transformers' `generate` answers with, and the logprobs [tokens, vocab] that it chose them by."""
    model, processor = hugging_face(kind)
    given = processor(text=prompt, return_tensors="pt", **(dict(images=images) if images else {}))
    found = model.generate(
        **given,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logprobs = torch.stack(found.logits, 1)[0].log_softmax(-1)
    return found.sequences[0, given["input_ids"].shape[1] :].tolist(), logprobs.numpy()
