"""Models that see as their makers first published them: transformers' weights under the other keys and names."""

import functools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from models import vision_models
from models.vision_makers import CROPPED, DEMO, PATCH, SIZE, TILED, text, tokenizer
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    CLIPImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipImageProcessor,
)

from sglang.srt.model_executor_ms.processors.llava_own import OwnLlavaProcessor
from sglang.srt.models.yivl import YiVLMultiModalProjector
from sglang.srt.multimodal.processors.internvl import InternVLProcessor

PLACEHOLDER = "<image>"
TEXT = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "sliding_window")
TEXT += ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act", "use_sliding_window")
# kind -> architecture, transformers' model of the same weights, and what config.json says of images.
LLAVAS = {
    "llava_own": ("LlavaLlamaForCausalLM", "llava", dict(image_aspect_ratio="pad")),
    "llava_own-mistral": (
        "LlavaMistralForCausalLM",
        "llava_next",
        dict(image_aspect_ratio="anyres", mm_patch_merge_type="spatial_unpad"),
    ),
    "llava_own-qwen": (
        "LlavaQwenForCausalLM",
        "llava_onevision",
        dict(image_aspect_ratio="anyres_max_2", mm_patch_merge_type="spatial_unpad", mm_vision_select_layer=-1),
    ),
    "yi_vl": ("LlavaLlamaForCausalLM", "llava", dict(image_aspect_ratio="pad", mm_projector_type="mlp2x_gelu_Norm")),
}
APART = ("llava_own", "yi_vl")  # whose tower's weights are not in the checkpoint
INTERNVLS = {  # kind -> the decoder, and what sets its tower apart
    "internvl_chat": (Qwen2Config, dict(attention_bias=True)),
    "internvl_chat-6b": (Qwen3Config, dict(use_qk_norm=True, norm_type="rms_norm")),
    "internvl_chat-internlm2": (LlamaConfig, dict(attention_bias=True)),
}
KINDS = (*LLAVAS, *INTERNVLS)
TILE, TILE_PATCH = 448, 112  # pixels
ARCHITECTURES = {
    "LlavaLlamaForCausalLM": "llava_own",
    "LlavaMistralForCausalLM": "llava_own-mistral",
    "LlavaQwenForCausalLM": "llava_own-qwen",
    "InternVLChatModel": "internvl_chat",
}


@functools.cache
def hugging_face(kind: str):
    """transformers' model of the same weights, in float32, and a tokenizer."""
    if kind in INTERNVLS:
        return _internvl(kind)
    model, processor = vision_models.hugging_face(LLAVAS[kind][1])
    if kind == "yi_vl":
        model = vision_models.hugging_face.__wrapped__("llava")[0]  # one of its own
        torch.manual_seed(5)
        model.model.multi_modal_projector = vision_models.randomized(YiVLMultiModalProjector(model.config))
    tokens = processor.tokenizer
    if kind in APART:  # as it was published: without a token for images
        tokens = AutoTokenizer.from_pretrained(DEMO)
        tokens.chat_template = processor.tokenizer.chat_template
    return model, tokens


def _internvl(kind: str):
    decoder, more = INTERNVLS[kind]
    tokens = tokenizer("<IMG_CONTEXT>", "<img>", "</img>", "<|video_pad|>", shown=PLACEHOLDER)
    sizes = dict(hidden_size=48, intermediate_size=76, num_hidden_layers=2, num_attention_heads=4)
    vision = InternVLVisionConfig(**sizes, image_size=[TILE, TILE], patch_size=[TILE_PATCH, TILE_PATCH], **more)
    config = InternVLConfig(
        vision_config=vision,
        text_config=text(decoder, vocab_size=len(tokens), **(dict(head_dim=12) if decoder is Qwen3Config else {})),
        image_token_id=tokens.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    torch.manual_seed(len(kind))
    made = InternVLForConditionalGeneration._from_config(config, dtype=torch.float32, attn_implementation="eager")
    return vision_models.randomized(made.eval()), tokens


def save(kind: str, folder: Path) -> Path:
    """Write a checkpoint as its makers would -> its folder, in which there may be another one, of its tower."""
    model, tokens = hugging_face(kind)
    folder.mkdir(parents=True, exist_ok=True)
    write = _write_internvl if kind in INTERNVLS else _write_llava
    config, tensors = write(kind, model, folder)
    if kind in INTERNVLS:  # the code that auto_map names
        (folder / "configuration_internvl_chat.py").write_text(
            "from sglang.srt.configs.internvl import InternVLChatConfig\n"
        )
    (folder / "config.json").write_text(json.dumps(config | dict(torch_dtype="float32", bos_token_id=None)))
    save_file({name: one.contiguous().clone() for name, one in tensors.items()}, folder / "model.safetensors")
    tokens.save_pretrained(folder)
    return folder


def _renamed(model, names: dict[str, str]) -> dict:
    """The tensors, their names begun otherwise."""
    found = {}
    for name, one in model.state_dict().items():
        name = name.removeprefix("model.")
        begin = next(begin for begin in names if name.startswith(begin))
        found[names[begin] + name.removeprefix(begin)] = one
    return found


def _write_llava(kind, model, folder):
    architecture, _, more = LLAVAS[kind]
    names = {
        "language_model.": "model.",
        "lm_head.": "lm_head.",
        "image_newline": "model.image_newline",
        "vision_tower.vision_model.": "model.vision_tower.vision_tower.vision_model.",
        "vision_tower.": "model.vision_tower.vision_tower.vision_model.",
        "multi_modal_projector.linear_1": "model.mm_projector.0",
        "multi_modal_projector.ln_1": "model.mm_projector.1",
        "multi_modal_projector.ln_2": "model.mm_projector.4",
        "multi_modal_projector.linear_2": f"model.mm_projector.{3 if kind == 'yi_vl' else 2}",
    }
    tensors, read = _renamed(model, names), model.config
    tower = folder / "vit/tower" if kind == "yi_vl" else folder.parent / f"tower_of_{folder.name}"
    if kind in APART:
        model.model.vision_tower.save_pretrained(tower)
        tensors = {name: one for name, one in tensors.items() if "vision_tower" not in name}
    read.vision_config.save_pretrained(tower)
    square = dict(size={"height": SIZE, "width": SIZE})
    made = SiglipImageProcessor(**square) if kind == "llava_own-qwen" else CLIPImageProcessor(**CROPPED)
    made.save_pretrained(tower)
    config = {name: getattr(read.text_config, name) for name in TEXT if hasattr(read.text_config, name)}
    config |= dict(
        architectures=[architecture],
        model_type="llava_mistral" if kind == "llava_own-mistral" else "llava",
        rope_theta=read.text_config.rope_parameters["rope_theta"],
        tie_word_embeddings=False,
        image_token_index=read.image_token_id,
        mm_vision_tower="./vit/tower" if kind == "yi_vl" else str(tower),
        mm_hidden_size=read.vision_config.hidden_size,
        mm_vision_select_feature="patch",
        image_grid_pinpoints=[[width, height] for height, width in TILED],
        unfreeze_mm_vision_tower=True,
        use_mm_proj=True,
    )
    return dict(mm_projector_type="mlp2x_gelu", mm_vision_select_layer=-2) | config | more, tensors


def _write_internvl(kind, model, folder):
    read = model.config
    vision, llm = read.vision_config, read.text_config.to_dict()
    layer = {"attention.projection_layer": "attn.proj", "layernorm_before": "norm1", "layernorm_after": "norm2"}
    layer |= {"lambda_1": "ls1", "lambda_2": "ls2", "encoder.layer.": "encoder.layers.", "attention.": "attn."}
    layer |= {"cls_token": "class_embedding", "position_embeddings": "position_embedding"}
    layer |= {"patch_embeddings.projection": "patch_embedding"}
    names = {
        "language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "vision_tower.": "vision_model.",
        "multi_modal_projector.layer_norm": "mlp1.0",
        "multi_modal_projector.linear_1": "mlp1.1",
        "multi_modal_projector.linear_2": "mlp1.3",
    }
    tensors = {}
    for name, one in _renamed(model, names).items():
        if name.startswith("vision_model."):
            for begin, end in layer.items():
                name = name.replace(begin, end)
        tensors[name] = one
    for number in range(vision.num_hidden_layers):
        for kept in ("weight", "bias") if vision.attention_bias else ("weight",):
            at = f"vision_model.encoder.layers.{number}.attn."
            tensors[f"{at}qkv.{kept}"] = torch.cat([tensors.pop(f"{at}{part}_proj.{kept}") for part in "qkv"])
    if kind == "internvl_chat-internlm2":
        llm = {name: llm[name] for name in TEXT if name in llm} | dict(bias=False, model_type="internlm2")
        tensors = _as_internlm2(tensors, read.text_config)
    llm["architectures"] = [
        {"internlm2": "InternLM2ForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[
            llm["model_type"]
        ]
    ]
    kept = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "norm_type")
    config = dict(
        architectures=["InternVLChatModel"],
        auto_map={"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
        model_type="internvl_chat",
        downsample_ratio=read.downsample_ratio,
        dynamic_image_size=True,
        force_image_size=TILE,
        llm_config=llm,
        max_dynamic_patch=12,
        pad2square=False,
        ps_version="v2",
        select_layer=-1,
        template="internvl2_5",
        use_thumbnail=True,
        vision_config={name: getattr(vision, name) for name in kept}
        | dict(
            architectures=["InternVisionModel"],
            model_type="intern_vit_6b",
            image_size=TILE,
            patch_size=TILE_PATCH,
            layer_norm_eps=vision.layer_norm_eps,
            qkv_bias=vision.attention_bias,
            qk_normalization=vision.use_qk_norm,
            drop_path_rate=0.1,
        ),
    )
    return config, tensors


def _as_internlm2(tensors: dict, config) -> dict:
    """A Llama's tensors under InternLM 2's names: queries of a key/value head beside its key and its value."""
    parts = {"embed_tokens": "tok_embeddings", "lm_head": "output", "input_layernorm": "attention_norm"}
    parts |= {"post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "w1"}
    parts |= {"mlp.up_proj": "w3", "mlp.down_proj": "w2", "w1": "feed_forward.w1", "w2": "feed_forward.w2"}
    parts |= {"w3": "feed_forward.w3"}
    found, heads = {}, config.num_key_value_heads
    for name, one in tensors.items():
        if name.startswith("language_model."):
            for old, new in parts.items():
                name = name.replace(old, new)
        found[name] = one
    for number in range(config.num_hidden_layers):
        at = f"language_model.model.layers.{number}."
        three = [found.pop(f"{at}self_attn.{part}_proj.weight") for part in "qkv"]
        grouped = [one.reshape(heads, -1, config.hidden_size) for one in three]
        found[f"{at}attention.wqkv.weight"] = torch.cat(grouped, 1).reshape(-1, config.hidden_size)
    return found


def own_processor(folder: Path) -> OwnLlavaProcessor:
    """SGLang's object, as far as it makes pixels and ids of LLaVA's own format."""
    made, config = object.__new__(OwnLlavaProcessor), json.loads((folder / "config.json").read_text())
    tower = folder / config["mm_vision_tower"]  # an absolute one is itself
    made.hf_config, made._tokenizer = SimpleNamespace(**config), AutoTokenizer.from_pretrained(folder)
    made.tower = json.loads((tower / "config.json").read_text())
    made.image_processor = AutoImageProcessor.from_pretrained(tower)
    made.mm_tokens = SimpleNamespace(**made.special_tokens(made.hf_config, None))
    return made


def tiles(image: Image.Image) -> torch.Tensor:
    """What SGLang's processor of InternVL makes of an image [tiles, 3, 448, 448]."""
    mean, std = InternVLProcessor._get_normalize_tensors("cpu")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return InternVLProcessor.dynamic_preprocess((pixels - mean) / std, use_thumbnail=True).float()


def given(kind: str, folder: Path, prompt: str, images: list) -> dict:
    """What transformers' model is given of a prompt with images."""
    _, tokens = hugging_face(kind)
    if kind in INTERNVLS:
        made = [tiles(image) for image in images]
        for one in made:
            prompt = prompt.replace(PLACEHOLDER, "<img>" + "<IMG_CONTEXT>" * 4 * len(one) + "</img>", 1)
        return dict(input_ids=tokens(prompt, return_tensors="pt")["input_ids"], pixel_values=torch.cat(made))
    own, sizes = own_processor(folder), [(image.height, image.width) for image in images]
    ids, _ = own._widened(own._ids(prompt), own.tokens_of_images(sizes))
    pixels = [torch.from_numpy(own._pixels(image, own._in_tiles(len(images)))) for image in images]
    if LLAVAS[kind][1] == "llava":
        return dict(input_ids=torch.tensor([ids]), pixel_values=torch.cat(pixels))
    several = dict(batch_num_images=torch.tensor([len(images)])) if kind == "llava_own-qwen" else {}
    return dict(
        input_ids=torch.tensor([ids]), pixel_values=torch.stack(pixels), image_sizes=torch.tensor(sizes), **several
    )


SIDE = SIZE // PATCH
