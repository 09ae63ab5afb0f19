"""Configs and processors of models that see, small: as transformers makes them."""

import functools
from pathlib import Path

from models.variants import blocks
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
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
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
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    Ministral3Config,
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
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

DEMO = Path(__file__).parents[2] / "ms_example/demo_model"
SIZE, PATCH = 28, 7  # pixels
PLACEHOLDERS = {
    "gemma3": "<start_of_image>",
    "idefics3": "<image>",
    "internvl": "<IMG_CONTEXT>",
    "llava": "<image>",
    "mistral3": "[IMG]",
    "pixtral": "[IMG]",
    "smolvlm": "<image>",
    "qwen": "<|vision_start|><|image_pad|><|vision_end|>",
}
VIDEOS = {"llava": "<video>", "qwen": "<|vision_start|><|video_pad|><|vision_end|>"}
# Messages whose parts are texts, images and videos, which placeholders stand for.
CHAT = """{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}PLACEHOLDER
{%- elif part['type'] == 'video' %}VIDEO{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"""


def tokenizer(*tokens: str, shown: str = "", **named: dict[str, str]):
    """The demo model's, with more tokens. shown: the placeholder of an image in messages, the first token by default.

    named: extra_special_tokens, by their names.
    """
    found = AutoTokenizer.from_pretrained(DEMO, **named)
    found.add_special_tokens({"additional_special_tokens": list(tokens)})
    shown = shown or tokens[0]
    video = next((of_video for family, of_video in VIDEOS.items() if PLACEHOLDERS[family] == shown), "")
    found.chat_template = CHAT.replace("PLACEHOLDER", shown).replace("VIDEO", video)
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


def _llava_like(config_class, model_class, processor_class, image_processor, decoder, more, npu=False, **processors):
    tokens, additional = tokenizer("<image>", *(["<video>"] if processors else [])), more.pop("additional", 1)
    decoder = text(decoder, vocab_size=len(tokens), **(dict(head_dim=16) if npu else {}))
    image_token = tokens.convert_tokens_to_ids("<image>")
    config = config_class(
        vision_config=more.pop("vision", None) or _clip(64 if npu else 48),
        text_config=decoder,
        image_token_index=image_token,
        **(dict(video_token_index=tokens.convert_tokens_to_ids("<video>")) if processors else {}),
        **more,
    )
    processor = processor_class(
        image_processor=image_processor,
        tokenizer=tokens,
        patch_size=PATCH,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=additional,
        image_token="<image>",
        **processors,
    )
    return model_class, config, processor


CROPPED = dict(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def _llava(decoder=LlamaConfig, npu=False, **more):
    classes = (LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor)
    return _llava_like(*classes, CLIPImageProcessor(**CROPPED), decoder, more, npu)


TILED = [[SIZE, 2 * SIZE], [2 * SIZE, SIZE], [2 * SIZE, 2 * SIZE], [SIZE, 3 * SIZE]]
LLAVA_NEXT = (LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor)
LLAVA_NEXT_VIDEO = (LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration, LlavaNextVideoProcessor)


def _llava_next(*classes, **processors):
    made = LlavaNextImageProcessor(**CROPPED, image_grid_pinpoints=TILED)
    return _llava_like(*classes, made, MistralConfig, dict(image_grid_pinpoints=TILED), **processors)


def _siglip() -> SiglipVisionConfig:
    sizes = dict(hidden_size=48, intermediate_size=76, num_hidden_layers=3, num_attention_heads=4)
    return SiglipVisionConfig(**sizes, image_size=SIZE, patch_size=PATCH, vision_use_head=False)


def _llava_onevision():
    tokens = tokenizer("<image>", "<video>")
    image_token, video_token = map(tokens.convert_tokens_to_ids, ("<image>", "<video>"))
    config = LlavaOnevisionConfig(
        vision_config=_siglip(),
        text_config=text(Qwen2Config, vocab_size=len(tokens)),
        image_token_index=image_token,
        video_token_index=video_token,
        image_grid_pinpoints=TILED,
        vision_aspect_ratio="anyres_max_2",  # images of four tiles are made smaller
    )
    sizes = dict(size={"height": SIZE, "width": SIZE}, image_grid_pinpoints=TILED)
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(**sizes),
        video_processor=LlavaOnevisionVideoProcessor(size={"height": SIZE, "width": SIZE}),
        tokenizer=tokens,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
        image_token="<image>",
        video_token="<video>",
    )
    return LlavaOnevisionForConditionalGeneration, config, processor


def _pixtral():
    tokens = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    sizes = dict(hidden_size=48, intermediate_size=76, num_hidden_layers=3, num_attention_heads=4)
    config = LlavaConfig(
        vision_config=PixtralVisionConfig(**sizes, image_size=84, patch_size=14),
        text_config=text(MistralConfig, vocab_size=len(tokens), head_dim=14, sliding_window=None),
        image_token_index=tokens.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    made = PixtralImageProcessor(size={"longest_edge": 84}, patch_size={"height": 14, "width": 14})
    return LlavaForConditionalGeneration, config, PixtralProcessor(made, tokens, patch_size=14)


def _llava_siglip():
    more = dict(vision_feature_select_strategy="full", vision_feature_layer=-1, additional=0, vision=_siglip())
    classes = (LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor)
    return _llava_like(*classes, CLIPImageProcessor(**CROPPED), Qwen2Config, more)


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


def _mistral3(decoder=MistralConfig, **sizes):
    tokens = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    vision = PixtralVisionConfig(
        hidden_size=48, intermediate_size=76, num_hidden_layers=3, num_attention_heads=4, image_size=168, patch_size=14
    )
    config = Mistral3Config(
        vision_config=vision,
        text_config=text(decoder, vocab_size=len(tokens), **dict(head_dim=14, sliding_window=None) | sizes),
        image_token_index=tokens.convert_tokens_to_ids("[IMG]"),
        tie_word_embeddings=False,
    )
    shown = dict(size={"longest_edge": 168}, patch_size={"height": 14, "width": 14})
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessor(**shown), tokenizer=tokens, patch_size=14, spatial_merge_size=2
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


def _gemma3(npu=False):
    names = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
    tokens = tokenizer(shown=PLACEHOLDERS["gemma3"], extra_special_tokens=names)
    vision = dict(hidden_size=48, intermediate_size=76, num_hidden_layers=2, num_attention_heads=4, image_size=2 * SIZE)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    # Windows of fewer tokens than an image has.
    sizes = dict(head_dim=16 if npu else 12, query_pre_attn_scalar=20, sliding_window=9, layer_types=kinds)
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


IDEFICS3 = (Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, Idefics3ImageProcessor)
SMOLVLM = (SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor, SmolVLMImageProcessor)


def _idefics3(config_class, model_class, processor_class, image_processor, **more):
    grid = [f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)]
    names = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *grid)
    tokens = tokenizer(*names)
    vision = dict(hidden_size=48, intermediate_size=76, num_hidden_layers=2, num_attention_heads=4)
    config = config_class(
        vision_config=dict(vision, image_size=2 * SIZE, patch_size=PATCH),
        text_config=text(LlamaConfig, vocab_size=len(tokens)).to_dict(),
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    sizes = dict(size={"longest_edge": 4 * SIZE}, max_image_size={"longest_edge": 2 * SIZE})
    processor = processor_class(image_processor=image_processor(**sizes), tokenizer=tokens, image_seq_len=16, **more)
    return model_class, config, processor


def _smolvlm():
    return _idefics3(*SMOLVLM, video_processor=SmolVLMVideoProcessor())


# With heads of 16 values, as kernels of NPUs want them.
ON_NPU = {
    "gemma3@16": functools.partial(_gemma3, npu=True),
    "llava@16": functools.partial(_llava, npu=True),
    "qwen2_5_vl@16": functools.partial(_qwen2_5_vl, npu=True),
}
KINDS = {
    "gemma3": _gemma3,
    "llava": _llava,
    "idefics3": functools.partial(_idefics3, *IDEFICS3),
    "smolvlm": _smolvlm,
    "internvl": _internvl,
    "llava_next": functools.partial(_llava_next, *LLAVA_NEXT),
    "llava_next_video": functools.partial(
        _llava_next, *LLAVA_NEXT_VIDEO, video_processor=LlavaNextVideoVideoProcessor(**CROPPED)
    ),
    "llava_onevision": _llava_onevision,
    "llava_siglip": _llava_siglip,
    "pixtral": _pixtral,
    "mistral3": _mistral3,
    "mistral3-ministral3": functools.partial(
        _mistral3, Ministral3Config, head_dim=20, rope_parameters=blocks.MINISTRAL3["rope_parameters"]
    ),
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl_moe,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "llava-qwen2-full": functools.partial(
        _llava, Qwen2Config, vision_feature_select_strategy="full", vision_feature_layer=2
    ),
}
