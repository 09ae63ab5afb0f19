"""Faults of towers and of their operators, each as a change of the sources, and the tests that fail with it.

python test/models/mutations_towers.py          # makes each change in turn, runs its tests, and undoes it
python test/models/mutations_towers.py tiles    # those whose names have this in them
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # test/, as pytest has it
from mutating import Mutation, run

ROOMS = "python/sglang/srt"
MODELS = f"{ROOMS}/models_ms"
ANYRES, GRIDS, QWEN3 = (f"{MODELS}/vision/{name}.py" for name in ("anyres", "grids", "qwen3"))
LAYERS, OPS = f"{ROOMS}/layers_ms/vision.py", f"{ROOMS}/layers_ms/ops"
TOWERS, OWN = f"{ROOMS}/model_loader_ms/towers.py", f"{MODELS}/llava_own.py"
PROCESSOR = f"{ROOMS}/model_executor_ms/processors/llava_own.py"
OF_FRAMES = 'test/models/test_vision.py -k "frames_are_transformers and llava_next_video"'
PUBLISHED = "test/models/test_vision_published.py"
OF_TOWERS = "test/models/test_vision.py -k"
OF_OPS = "test/ops/test_vision.py -k"


def rows(kind: str) -> str:
    """The test of a kind's rows on the CPU's table."""
    return f'{OF_TOWERS} "rows_of_an_image and cpu and {kind}"'


def as_published(kind: str) -> str:
    """The same, of a checkpoint as its makers wrote it."""
    return f'{PUBLISHED} -m "" -k "rows_of_an_image and cpu and {kind}"'


MUTATIONS = (
    # ---- towers ----
    Mutation(
        "inner values over each other",
        LAYERS,
        "slice(place * room, place * room + size)",
        "slice(place * size, place * size + size)",
        rows("qwen2_5_vl"),
    ),
    Mutation(
        "inner values that do not grow",
        LAYERS,
        "return -(-size // COLUMNS) * COLUMNS",
        "return size",
        OF_TOWERS + " whole_columns",
    ),
    Mutation(
        "heads scaled by their number",
        LAYERS,
        "own.stop - own.start, head_dim**-0.5",
        "own.stop - own.start, heads**-0.5",
        rows("llava_siglip"),
    ),
    Mutation("means of three of four", LAYERS, "1.0 / len(places)", "1.0 / (len(places) - 1)", OF_FRAMES),
    Mutation(
        "factors of matrices without their biases",
        LAYERS,
        "for weight in (layer.weight, layer.bias):",
        "for weight in (layer.weight,):",
        rows("internvl"),
    ),
    Mutation(
        "layers that see the whole image where windows are",
        f"{MODELS}/vision/qwen.py",
        "frames if index in self.full_layers else windows",
        "frames",
        rows("qwen2_5_vl"),
    ),
    Mutation(
        "windows that are left in their order",
        f"{MODELS}/qwen2_vl.py",
        "np.argsort(squares)",
        "squares",
        rows("qwen2_5_vl"),
    ),
    Mutation(
        "rotation of patches in the order of the image",
        f"{MODELS}/qwen2_vl.py",
        "turn = np.concatenate(turns)[patches]",
        "turn = np.concatenate(turns)",
        rows("qwen2_5_vl"),
    ),
    Mutation(
        "windows that reach over the edge",
        GRIDS,
        "frame[top : top + size, left : left + size]",
        "frame[top : top + size, left:]",
        rows("qwen2_5_vl"),
    ),
    Mutation(
        "columns for rows",
        GRIDS,
        "[np.outer(row, frequencies), np.outer(column, frequencies)]",
        "[np.outer(column, frequencies), np.outer(row, frequencies)]",
        rows("qwen2_vl"),
    ),
    Mutation(
        "positions that are not stretched",
        GRIDS,
        "table[low] * (1 - part) + table[high] * part",
        "table[low]",
        rows("qwen3_vl"),
    ),
    Mutation("learned positions of the neighbor", GRIDS, 'side="right"', 'side="left"', rows("idefics3")),
    Mutation(
        "squares that are lines",
        GRIDS,
        ".swapaxes(1, 2).reshape(-1, merge * merge)",
        ".reshape(-1, merge * merge)",
        rows("gemma3"),
    ),
    Mutation(
        "frames that see each other",
        f"{MODELS}/qwen2_vl.py",
        "frames.append(np.full(grid[0], grid[1] * grid[2]))",
        "frames.append(np.full(1, grid.prod()))",
        f"{OF_TOWERS} frames_are_transformers",
    ),
    Mutation(
        "rows of another layer for the decoder",
        QWEN3,
        "if index in self.deepstack_layers:",
        "if index + 1 in self.deepstack_layers or not index:",
        rows("qwen3_vl"),
    ),
    Mutation(
        "a norm of each patch where squares are normed",
        QWEN3,
        "Qwen3PatchMerger(config, True)",
        "Qwen3PatchMerger(config, False)",
        rows("qwen3_vl"),
    ),
    Mutation(
        "tiles of the smallest resolution", ANYRES, "tuple(max(possible", "tuple(min(possible", rows("llava_next")
    ),
    Mutation(
        "padding of tiles that is kept",
        ANYRES,
        "return index[padding : height - padding]",
        "return index",
        rows("llava_next"),
    ),
    Mutation(
        "lines without an end",
        ANYRES,
        "np.full((len(index), 1), NEWLINE)",
        "np.full((len(index), 1), 0)",
        rows("llava_next"),
    ),
    Mutation("large images that are not made smaller", ANYRES, "if ratio <= 1.1:", "if True:", rows("llava_onevision")),
    Mutation(
        "frames of a video without their line's end",
        ANYRES,
        "found += [np.append(taken, NEWLINE)",
        "found += [np.append(taken, 0)",
        f"{OF_TOWERS} half_a_side",
    ),
    Mutation(
        "names of tensors as published",
        f"{MODELS}/llava.py",
        '"vision_tower": "vision_tower.vision_model",',
        '"vision_tower": "vision_tower.model",',
        f"{OF_TOWERS} published_names",
    ),
    # ---- operators ----
    Mutation(
        "an activation that is another",
        f"{OPS}/cpu/vision.py",
        '"quick_gelu": 3',
        '"quick_gelu": 1',
        f"{OF_OPS} activation",
    ),
    Mutation(
        "heights for widths",
        f"{OPS}/cpu/vision.py",
        'step["mrope_h"], step["mrope_w"]',
        'step["mrope_w"], step["mrope_h"]',
        f"{OF_OPS} three_positions",
    ),
    Mutation(
        "parts that do not take turns",
        f"{ROOMS}/layers_ms/rotary.py",
        "axes[axis : 3 * rope.mrope_section[axis] : 3] = axis",
        "axes[axis : 3 * rope.mrope_section[axis]] = axis",
        f"{OF_OPS} three_positions",
    ),
    Mutation(
        "segments of an NPU that are one",
        f"{OPS}/ascend/vision.py",
        "bounds.asnumpy().tolist()[1:]",
        "bounds.asnumpy().tolist()[-1:]",
        "test/ascend/test_vision.py -k within",
    ),
    # ---- checkpoints as their makers published them ----
    Mutation(
        "heights before widths",
        ANYRES,
        "tuple((height, width) for width, height in read)",
        "tuple((height, width) for height, width in read)",
        as_published("mistral"),
    ),
    Mutation(
        "images without as many places",
        PROCESSOR,
        "if ids.count(token) != len(counts):",
        "if False:",
        f"{PUBLISHED} -k cut_at",
    ),
    Mutation(
        "parts of a prompt that begin as prompts do",
        PROCESSOR,
        "self._tokenizer(part, add_special_tokens=False)",
        'self._tokenizer(part + " ", add_special_tokens=False)',
        f"{PUBLISHED} -k cut_at",
    ),
    Mutation(
        "several images of LLaVA's own in tiles",
        PROCESSOR,
        "return count == 1 and self._said",
        "return self._said",
        f"{PUBLISHED} -k several_images",
    ),
    Mutation(
        "images that are not made square",
        PROCESSOR,
        'if self._said("image_aspect_ratio", "square") != "square":',
        "if False:",
        f'{PUBLISHED} -k "pixels and llava_own"',
    ),
    Mutation(
        "towers within a checkpoint that are looked for elsewhere",
        TOWERS,
        "if inside.is_dir()",
        "if False",
        f"{PUBLISHED} -k folder_or_elsewhere",
    ),
    Mutation(
        "texts of a whole CLIP",
        TOWERS,
        'return read.get("vision_config") or read',
        "return read",
        f"{PUBLISHED} -k folder_or_elsewhere",
    ),
    Mutation(
        "towers that are wanted for text alone",
        TOWERS,
        ' or config.get("language_model_only")',
        "",
        f"{PUBLISHED} -k folder_or_elsewhere",
    ),
    Mutation(
        "weights of a tower that the checkpoint has too",
        f"{ROOMS}/model_loader_ms/loader.py",
        "if not checkpoint.has(prefix):",
        "if True:",
        as_published("mistral"),
    ),
    Mutation(
        "a projector without its last norm",
        OWN,
        "return self.mlp[4].plain(self.mlp[3](x))",
        "return self.mlp[3](x)",
        as_published("yi_vl"),
    ),
    Mutation(
        "a tower as wide as it is not",
        OWN,
        'if width != vision["hidden_size"]:',
        "if False:",
        f"{PUBLISHED} -k mm_hidden_size",
    ),
    Mutation(
        "tiles whose rows nobody merges",
        OWN,
        "elif tiled and (",
        "elif False and (",
        f"{PUBLISHED} -k tiles_want",
    ),
    Mutation(
        "queries and keys that are not normalized",
        f"{MODELS}/vision/intern.py",
        "norm = RowNorm(config) if config.qk_norm else None",
        "norm = None",
        as_published("6b"),
    ),
    Mutation(
        "a decoder's own names that are left out",
        f"{MODELS}/internvl_chat.py",
        "return {**outer, **cls.tensor_names, **names, **outer}",
        "return cls.tensor_names",
        as_published("internlm2"),
    ),
    Mutation(
        "towers that ranks divide whatever their heads are",
        f"{MODELS}/multimodal.py",
        "return Shard() if any(",
        "return self.runtime.shard if any(",
        f"{OF_TOWERS} ranks_divide",
    ),
)

if __name__ == "__main__":
    run(MUTATIONS)
