"""Low-rank adapters as PEFT saves them: read by the names of their tensors, and put where layers have them.

PEFT's LoraConfig says what the keys of adapter_config.json mean. What of a folder is not used is an error.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from huggingface_hub import snapshot_download

from sglang.srt.model_loader_ms.leftovers import listed
from sglang.srt.model_loader_ms.lora_parameters import AdapterError, by_parameter, of_experts

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
_TENSOR = re.compile(
    r"(?P<module>.+)\.lora_(?:(?P<factor>[AB])(\.default)?\.weight|embedding_(?P<of_ids>[AB])(\.default)?)"
)
_COPY = ".base_layer.weight"  # of the model's own embedding or head, as PEFT saves it beside factors for it
# Keys of the config, and the values with which an adapter is what is served here; None: the key is not there.
_SERVED = {
    "peft_type": ("LORA",),
    "bias": (None, "none"),
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),  # others change the model's own weights
}
_UNSERVED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "fan_in_fan_out",
    "alora_invocation_tokens",
    "layer_replication",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)


class LoRAFactors(NamedTuple):
    """What is added to a matrix [out, in]: factor * b @ a. Of an embedding in are its ids.

    Of a stack of matrices there are as many as matrices, or one that all of them share.
    """

    a: torch.Tensor  # [r, in], or [count, r, in]
    b: torch.Tensor  # [out, r], or [count, out, r]
    factor: float

    @property
    def rank(self) -> int:
        return self.a.shape[-2]

    def of(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """a and b of a matrix of the stack; of one that is in none."""
        return tuple(one if one.dim() == 2 else one[number % len(one)] for one in (self.a, self.b))


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory. modules: name of a module of the model -> its factors."""

    modules: Mapping[str, LoRAFactors]

    @property
    def rank(self) -> int:
        """The largest of its modules."""
        return max(one.rank for one in self.modules.values())


def locate_adapter(path: str) -> Path:
    """The folder of an adapter: itself, or its snapshot in the Hugging Face cache or hub. AdapterError."""
    if Path(path).is_dir():
        return Path(path)
    try:
        return Path(snapshot_download(path, allow_patterns=[CONFIG, *WEIGHTS, "added_tokens.json"]))
    except Exception as error:  # of many kinds, for names that are none, and for a hub that is not reached
        reason = str(error).strip().splitlines()[0]
        raise AdapterError(f"{path} is no folder, and not to be had from the hub: {reason}") from error


def read_config(folder: Path) -> dict:
    """An adapter's adapter_config.json. AdapterError."""
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise AdapterError(f"{folder / CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{folder / CONFIG} holds no object")
    return config


def check_config(config: Mapping) -> None:
    """AdapterError, naming the key, where an adapter is none that is served."""
    for key, served in _SERVED.items():
        if config.get(key) not in served:
            choices = ", ".join(str(one) for one in served if one is not None)
            raise AdapterError(f"{CONFIG} has {key} {config.get(key)!r}: only {choices}")
    for key in _UNSERVED:
        if config.get(key):
            raise AdapterError(f"{CONFIG} has {key} {config[key]!r}, which is not served")
    for key in ("r", "lora_alpha", "target_modules"):
        if config.get(key) is None and not (key == "target_modules" and config.get("target_parameters")):
            raise AdapterError(f"{CONFIG} has no {key}")


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter's folder by name. AdapterError."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise AdapterError(f"{folder} has neither {' nor '.join(WEIGHTS)}")
    try:
        if path.suffix == ".bin":
            return torch.load(path, map_location="cpu", weights_only=True)
        return safetensors.torch.load_file(path)
    except Exception as error:  # safetensors and pickle have errors of their own
        raise AdapterError(f"{path} cannot be read: {error}") from error


def adapter(config: Mapping, tensors: Mapping[str, torch.Tensor]) -> Adapter:
    """Pair an adapter's tensors. AdapterError names those that are no factors, lack their other one, or are damaged."""
    check_config(config)
    found, unused = {}, []
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name.removeprefix(PREFIX))
        if match and tensor.dim() in (2, 3) and tensor.is_floating_point():
            found.setdefault(match["module"], {})[match["factor"] or match["of_ids"]] = tensor
        elif not (name.endswith(_COPY) and _is_copy(name, tensor, tensors)):
            unused.append(name)
    if unused:
        raise AdapterError(f"tensors that are no factors of a linear layer: {listed(unused)}")
    if not found:
        raise AdapterError("the adapter has no tensors")
    named = by_parameter(found, config.get("target_parameters") or ())
    modules = {one.module: _factors(one.key, found[own], config, one.wraps) for own, one in named.items()}
    if len(modules) < len(named):
        raise AdapterError(f"factors of one matrix twice: {listed(sorted({*found} - {*modules}))}")
    return Adapter(modules)


def _is_copy(name: str, tensor: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether it is of a matrix that has factors and as many rows and columns as they say: PEFT trains none of it."""
    of_ids = [tensors.get(name.removesuffix(_COPY) + f".lora_embedding_{factor}") for factor in "BA"]
    own = [tensors.get(name.removesuffix(_COPY) + f".lora_{factor}.weight") for factor in "BA"]
    pair = of_ids if of_ids[0] is not None else own
    if None in [type(one) if one is not None else None for one in pair]:
        return False
    out, into = len(pair[0]), pair[1].shape[1]
    return tuple(tensor.shape) == ((into, out) if pair is of_ids else (out, into))


def _factors(module: str, pair: Mapping[str, torch.Tensor], config: Mapping, of_parameter: bool) -> LoRAFactors:
    if len(pair) == 1:
        raise AdapterError(f"{module} has lora_{next(iter(pair))} alone, not both factors")
    a, b = pair["A"], pair["B"]
    rank = _of_module(config.get("rank_pattern"), module, config["r"])
    if of_parameter and a.dim() == b.dim() == 2:
        a, b = of_experts(a, b, rank)
    if a.dim() != b.dim() or a.shape[-2] != rank or b.shape[-1] != rank:
        raise AdapterError(f"{module} has lora_A {list(a.shape)} and lora_B {list(b.shape)}: {CONFIG} says rank {rank}")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise AdapterError(f"{module} has values that are no finite numbers")
    alpha = _of_module(config.get("alpha_pattern"), module, config["lora_alpha"])
    return LoRAFactors(a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of_module(pattern: Mapping | None, module: str, default):
    """The value of the first key that matches the module's name, or the end of it behind a dot, as PEFT has it."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


class Room(NamedTuple):
    """The modules that there is room for, in the layers of a rank or of several."""

    matrices: Mapping[str, tuple]  # name of a module -> [out, in] of its matrix, and of how many it is a stack, or 0
    alike: frozenset[tuple[str, ...]]  # names of one matrix of a stack

    def __or__(self, other):
        return Room({**self.matrices, **other.matrices}, self.alike | other.alike)


def room_of(layers: Iterable) -> Room:
    """What LoRA cells have room for."""
    matrices, alike = {}, set()
    for layer in layers:
        matrices |= {name: (tuple(part.whole), part.stack) for part in layer.parts for name in part.names}
        for forms in (forms for _, parts in getattr(layer, "places", lambda slot: ())(0) for forms in parts):
            if len(names := [name for part in forms for name in part.names]) > 1:
                alike.add(tuple(sorted(set(names))))
    return Room(matrices, frozenset(alike))


def check_fits(loaded: Adapter, room: Room, max_rank: int) -> None:
    """AdapterError where there is no room for a module, or it has another shape than the model's."""
    left = [one for one in loaded.modules if one not in room.matrices]
    if left:
        raise AdapterError(
            f"modules of the adapter that the model does not have, or that no room was made for: {listed(left)}. "
            "--lora-target-modules says for which ones there is room"
        )
    for module, factors in loaded.modules.items():
        (whole, stack), (a, b, _) = room.matrices[module], factors
        if not _fits(whole, stack, a, b):
            matrix = [stack, *whole] if stack else [*whole]
            raise AdapterError(
                f"{module} has lora_A {list(a.shape)} and lora_B {list(b.shape)}; the model's matrix is {matrix}"
            )
        if factors.rank > max_rank:
            raise AdapterError(f"{module} has rank {factors.rank}, more than --max-lora-rank {max_rank}")
    for names in room.alike:
        twice = [name for name in names if name in loaded.modules]
        if len(twice) > 1:
            raise AdapterError(f"{' and '.join(twice)} are the same matrix")


def _fits(whole: tuple[int, int], stack: int, a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether factors have the shape of a matrix, or of the stack that it is in."""
    if (b.shape[-2], a.shape[-1]) != whole:
        return False
    return {len(a), len(b)} <= {1, stack} if a.dim() == 3 else not stack


def put_embedding(layer, slot: int, loaded: Adapter | None) -> None:
    """As `put`, of an EmbeddingLoRA cell."""
    (part,), (lora_b, ranks), table = layer.parts, map(torch.from_numpy, layer.hosts), layer.tables[slot]
    plain, rank = torch.from_numpy(table.plain), table.plain.shape[1]
    if plain.dtype == torch.int16:
        plain, lora_b = plain.view(torch.bfloat16), lora_b.view(torch.bfloat16)
    matrix = lora_b.view(-1, rank, part.width)[slot]
    plain[:], matrix[:], ranks[slot] = 0, 0, 0
    module = None if loaded is None else next(filter(None, map(loaded.modules.get, part.names)), None)
    if module is not None:
        ranks[slot] = module.rank
        rows = module.a[:, part.columns].T
        plain[: len(rows), : module.rank] = rows
        matrix[: module.rank] = (module.b.float() * module.factor).T
    table.renew()


def put(layer, slot: int, loaded: Adapter | None) -> None:
    """Write an adapter's factors for a layer, a LoRA cell, into its slot of the layer's memory of the host; None: none.

    They count from the layer's `renew` on.
    """
    lora_a, lora_b, ranks = map(torch.from_numpy, layer.hosts)
    if lora_a.dtype == torch.int16:
        lora_a, lora_b = lora_a.view(torch.bfloat16), lora_b.view(torch.bfloat16)
    _, places, room, _ = lora_a.shape
    for place, parts in layer.places(slot):
        ranks[place], begin = 0, 0
        for number, forms in enumerate(parts):
            width = forms[0].width
            size = places * room * width
            matrix = lora_b[begin : begin + size].view(places, room, width)[place]
            begin += size
            lora_a[number, place] = matrix[:] = 0
            part, module = _among(loaded, forms)
            if module is None:
                continue
            (a, b), rank = module.of(part.number), module.rank
            lora_a[number, place, :rank] = a[:, part.columns]
            matrix[:rank] = (torch.cat([b[rows] for rows in part.rows]).float() * module.factor).T
            ranks[place] = max(int(ranks[place]), rank)


def _among(loaded: Adapter | None, forms: Sequence) -> tuple:
    """The form in which an adapter has a matrix, and its factors; None: it has none."""
    if loaded is not None:
        for part in forms:
            for name in part.names:
                if name in loaded.modules:
                    return part, loaded.modules[name]
    return None, None
