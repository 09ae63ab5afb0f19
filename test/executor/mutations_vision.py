"""Faults of images in a step, of processors and of refusals, each as a change of the sources, and the tests that fail.

python test/executor/mutations_vision.py          # makes each change in turn, runs its tests, and undoes it
python test/executor/mutations_vision.py tiles    # those whose names have this in them
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # test/, as pytest has it
from mutating import Mutation, run

ROOMS = "python/sglang/srt"
MEDIA, CHUNKS = (f"{ROOMS}/model_executor_ms/runner/{name}.py" for name in ("media", "image_chunks"))
PROCESSORS, MODELS = f"{ROOMS}/model_executor_ms/processors", f"{ROOMS}/models_ms"
DECODER, ANYRES = f"{MODELS}/decoder.py", f"{MODELS}/vision/anyres.py"
OF_MEDIA = "test/executor/test_media_inputs.py -k"
OF_CHUNKS = "test/executor/test_image_chunks.py -k"
OF_PROCESSORS = "test/executor/test_processors.py -k"
OF_TOWERS = "test/models/test_vision.py -k"
SERVED = 'test/serving/test_vision.py -m "" -k'

MUTATIONS = (
    # ---- rows of images in a step ----
    Mutation(
        "items of the request before",
        MEDIA,
        "sizes.append(len(items))",
        "sizes.append(len(own))",
        OF_MEDIA + " rows_are",
    ),
    Mutation(
        "videos merged as images", MEDIA, "if item.is_modality(MODALITIES[modality])]", "]", OF_MEDIA + " rows_are"
    ),
    Mutation(
        "videos computed as images", MEDIA, 'self.network.video if modality == "video" else', "", OF_MEDIA + " rows_are"
    ),
    Mutation("placeholders in any order", MEDIA, "pads = sorted(", "pads = list(", OF_MEDIA + " rows_are"),
    Mutation("places that are not marked", MEDIA, "            mask[places] = 1\n", "", OF_MEDIA + " rows_are"),
    Mutation(
        "positions behind the other indices",
        MEDIA,
        "indices.insert(0, bridge",
        "indices.append(bridge",
        OF_MEDIA + " rows_are",
    ),
    Mutation(
        "chunks that begin with the image",
        MEDIA,
        "prefix_length=forward_batch.extend_prefix_lens_cpu",
        "prefix_length=[0] * len(forward_batch.extend_prefix_lens_cpu)",
        OF_MEDIA + " chunks_take",
    ),
    Mutation(
        "deepstack rows that are the first ones",
        MEDIA,
        "for part in rows.split(width, 1))",
        "for part in [rows[:, :width]] * len(names))",
        OF_MEDIA + " added_later",
    ),
    Mutation(
        "images of steps that decode",
        f"{ROOMS}/model_executor_ms/seams/batches.py",
        "return not (mode.is_decode_or_idle() or mode.is_target_verify()) and forward_batch",
        "return forward_batch",
        OF_MEDIA + " steps_without",
    ),
    Mutation("placeholders that stay", MEDIA, "input_ids.clamp_(0", "input_ids.clamp(0", OF_MEDIA + " becomes_an_id"),
    Mutation(
        "ids that are no placeholders clamped",
        MEDIA,
        "        if batches.has_media(forward_batch):\n            input_ids.clamp_",
        "        if True:\n            input_ids.clamp_",
        OF_MEDIA + " becomes_an_id",
    ),
    Mutation(
        "positions in another order",
        MEDIA,
        "else found.unbind(0)",
        "else found.flip(0).unbind(0)",
        OF_MEDIA + " three_positions",
    ),
    Mutation(
        "rows of all tokens",
        DECODER,
        "step[MEDIA_ROWS], step[MEDIA_MASK.name])",
        "step[MEDIA_ROWS], step[MEDIA_MASK.name] * 0 + 1)",
        "test/executor/test_media_steps.py -k take_the_place",
    ),
    Mutation(
        "deepstack of one layer",
        DECODER,
        "step[self.deepstack[place]]",
        "step[self.deepstack[0]]",
        SERVED + " Qwen3VLForConditionalGeneration",
    ),
    Mutation(
        "deepstack a layer late",
        DECODER,
        "x = ops.add(x, step[self.deepstack[place]], 1.0)",
        "x = ops.add(x, step[self.deepstack[place]], 2.0)",
        SERVED + " Qwen3VLForConditionalGeneration",
    ),
    # ---- tokens that see their whole image ----
    Mutation(
        "tokens that see all but the last",
        MEDIA,
        "found[own] = last\n",
        "found[own] = last - 1\n",
        OF_MEDIA + " see_its_last",
    ),
    Mutation("places of another request", MEDIA, "                begin += new\n", "", OF_MEDIA + " see_its_last"),
    Mutation(
        "images that end behind the chunk",
        MEDIA,
        "max(min(last + 1 - cached, new), 0)",
        "max(last + 1 - cached, 0)",
        OF_MEDIA + " see_its_last",
    ),
    Mutation(
        "images that begin before the chunk",
        MEDIA,
        "begin + max(first - cached, 0)",
        "begin + first - cached",
        OF_MEDIA + " see_its_last",
    ),
    Mutation(
        "videos whose tokens see all",
        MEDIA,
        "for item in items if item.is_image() for",
        "for item in items for",
        OF_MEDIA + " see_its_last",
    ),
    Mutation(
        "chunks that cut an image's last token",
        CHUNKS,
        "first < end <= last",
        "first < end < last",
        OF_CHUNKS + " ends_before",
    ),
    Mutation("chunks that end before they begin", CHUNKS, "max(begin, first)", "first", OF_CHUNKS + " ends_before"),
    Mutation(
        "chunks beside decoding requests",
        CHUNKS,
        "if get_schedule().enable_mixed_chunk:",
        "if False:",
        OF_CHUNKS + " share_their_room",
    ),
    Mutation(
        "chunks smaller than an image",
        f"{MODELS}/gemma3_vl.py",
        "if 0 < chunk < tokens:",
        "if False:",
        OF_TOWERS + " smaller_than",
    ),
    Mutation(
        "squares of a picture that is none", f"{MODELS}/gemma3_vl.py", "or side % tokens", "", OF_TOWERS + " divide"
    ),
    # ---- processors ----
    Mutation(
        "images a token further",
        f"{PROCESSORS}/llava.py",
        "(places[end - count], places[end - 1])",
        "(places[end - count], places[end - 1] + 1)",
        f"{OF_PROCESSORS} has_its_tokens",
    ),
    Mutation(
        "placeholders that are not counted",
        f"{PROCESSORS}/llava.py",
        "if sum(counts) != len(places):",
        "if False:",
        f"{OF_PROCESSORS} fewer_places",
    ),
    Mutation(
        "a class token that is not counted",
        f"{PROCESSORS}/llava.py",
        "self.side**2 + with_class",
        "self.side**2",
        f"{OF_PROCESSORS} has_its_tokens",
    ),
    Mutation(
        "several images in tiles",
        f"{PROCESSORS}/llava.py",
        "if len(sizes) > 1:",
        "if False:",
        f"{OF_PROCESSORS} has_its_tokens",
    ),
    Mutation(
        "tiles of the neighbor",
        f"{PROCESSORS}/internvl.py",
        "zip([0, *ends], ends, strict=False)",
        "zip([0, *ends[1:]], ends, strict=False)",
        f"{OF_PROCESSORS} own_tiles",
    ),
    Mutation(
        "tiles that no place is for",
        f"{PROCESSORS}/internvl.py",
        "if not tiles.shape[0] or",
        "if tiles.shape[0] and",
        f"{OF_PROCESSORS} no_place",
    ),
    Mutation(
        "tiles that are padded",
        f"{PROCESSORS}/idefics3.py",
        'if not data_dict["pixel_attention_mask"].all():',
        "if False:",
        f"{OF_PROCESSORS} idefics3",
    ),
    Mutation(
        "images without a key",
        f"{PROCESSORS}/gemma3.py",
        "im_token_id=self.mm_tokens.image_token_id",
        "im_token_id=None",
        f"{OF_PROCESSORS} gemma3",
    ),
    Mutation(
        "frames that nobody asked for",
        f"{PROCESSORS}/videos.py",
        "        if unknown:\n",
        "        if False:\n",
        'test/serving/test_videos.py -m "" -k http',
    ),
    Mutation(
        "videos that the prompt has no place for",
        f"{PROCESSORS}/videos.py",
        "if len(loaded.videos) < len(given):",
        "if False:",
        'test/serving/test_videos.py -m "" -k http',
    ),
    # ---- refusals ----
    Mutation(
        "devices as images",
        f"{ROOMS}/model_executor_ms/server/request_validation.py",
        "strange = Path(path).exists() and not Path(path).is_file()",
        "strange = False",
        "test/executor/test_request_validation.py -k devices",
    ),
    Mutation(
        "sounds that nothing hears",
        f"{ROOMS}/model_executor_ms/server/request_validation.py",
        "if count > shown:",
        'if count > shown and kind != "sounds":',
        "test/executor/test_request_validation.py -k hears",
    ),
    Mutation(
        "videos counted by their frames",
        f"{ROOMS}/model_executor_ms/server/request_validation.py",
        "sum(video is not None for video in videos)",
        "_count(videos)",
        "test/executor/test_request_validation.py -k every_video",
    ),
    Mutation(
        "towers packed as the decoder is",
        f"{ROOMS}/layers_ms/quantization/create.py",
        "plain = () if scheme.towers else",
        "plain = () if True else",
        f"{OF_TOWERS} not_packed",
    ),
    Mutation(
        "a model that only looks like one",
        f"{MODELS}/registry.py",
        "if name in NOT_COMPUTED:",
        "if False:",
        "test/models/test_config.py -k only_looks",
    ),
    Mutation(
        "a tower of another kind",
        f"{MODELS}/llava_onevision.py",
        'tower_kinds = ("siglip_vision_model",)',
        'tower_kinds = ("siglip_vision_model", "clip_vision_model")',
        f"{OF_TOWERS} another_kind",
    ),
    Mutation("tiles whose number is none", ANYRES, "or not int(number)", "", f"{OF_TOWERS} names_no_number"),
    Mutation(
        "towers that are not looked for before the start",
        f"{ROOMS}/model_executor_ms/server/framework.py",
        "problems += towers.problems(",
        "problems + towers.problems(",
        "test/executor/test_model_config.py -k cannot_be_had_is",
    ),
    Mutation(
        "Yi-VL by SGLang's name",
        f"{ROOMS}/model_executor_ms/server/model_config.py",
        "AS_PUBLISHED.get(name, name)",
        "name",
        "test/executor/test_model_config.py -k yi_vl",
    ),
    Mutation(
        "processors of all models",
        f"{ROOMS}/model_executor_ms/seams/processors.py",
        'if path.stem == "__init__" or not named.search(',
        'if path.stem == "__init__" and not named.search(',
        "test/seams/test_sglang_processor_seams.py -k served_models",
    ),
    Mutation(
        "adapters by the names of checkpoints alone",
        f"{MODELS}/llava.py",
        ', "lm_head": "language_model.lm_head"}, OF_MODULES)',
        ', "lm_head": "language_model.lm_head"},)',
        'test/serving/test_vision_lora.py -m "" -k llava',
    ),
)

if __name__ == "__main__":
    run(MUTATIONS)
