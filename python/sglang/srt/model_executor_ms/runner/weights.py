"""SGLang's way to a model's weights, at start and while serving, led to the MindSpore model's own loader."""

import contextlib
import json
import logging
from pathlib import Path

import torch

from sglang.srt.configs.load_config import LoadConfig
from sglang.srt.layers.moe.utils import resolve_shared_experts_config
from sglang.srt.layers_ms import ops
from sglang.srt.model_executor.model_runner_components.weight_exporter import WeightExporter
from sglang.srt.model_executor.model_runner_components.weight_updater import LocalSerializedTensor, WeightUpdater
from sglang.srt.model_executor_ms.runner import device
from sglang.srt.model_executor_ms.seams import runner
from sglang.srt.model_loader.loader import BaseModelLoader
from sglang.srt.model_loader.utils import get_model_architecture, set_default_torch_dtype
from sglang.srt.model_loader_ms import loader
from sglang.srt.model_loader_ms.files import CheckpointError, locate
from sglang.srt.model_loader_ms.loader import differ
from sglang.srt.model_loader_ms.names import TensorNames
from sglang.srt.model_loader_ms.weight_slice import restore_host
from sglang.srt.runtime_context import get_parallel
from sglang.srt.utils.weight_checker import WeightChecker
from sglang.srt.weight_sync.tensor_bucket import FlattenedTensorBucket

logger = logging.getLogger(__name__)

_NO_IPC = "--framework mindspore takes weights by tensors, from a group of processes, or from disk; not by CUDA IPC"
_DRAFT = "The draft model keeps its weights."
_FIRST_STAGE = "The first stage sends this one what it is given."


def with_quantization(config: dict, folder: str | Path, asked: str | None) -> dict:
    """A model's config with what else says how its weights are quantized: ModelSlim's own file, or --quantization."""
    described = Path(folder) / "quant_model_description.json"
    if described.is_file():
        return config | {"quantization_config": json.loads(described.read_text()) | {"quant_method": "modelslim"}}
    if config.get("compression_config") and not config.get("quantization_config"):  # compressed-tensors' older name
        return config | {"quantization_config": config["compression_config"] | {"quant_method": "compressed-tensors"}}
    if asked and not config.get("quantization_config"):
        return config | {"quantization_config": {"quant_method": asked}}
    return config


def with_own_head(config: dict, model_class: type, folder: str | Path, load_format: str) -> dict:
    """A model's config; untied, as transformers does it, where the checkpoint's head is not its embedding."""
    tied = config.get("tie_word_embeddings", True) and model_class.scores_vocabulary
    if not tied or load_format == "dummy":
        return config
    names = TensorNames(model_class.tensor_names, optional_prefix=model_class.optional_prefix)
    if not differ(Path(folder), load_format, model_class.tied_tensors, names):
        return config
    logger.warning("the head of %s is not its embedding: tie_word_embeddings is taken for false", folder)
    return config | {"tie_word_embeddings": False}


def check_weights(network, source: str | Path, load_format: str = "auto") -> loader.Plan:
    """What a network is to load of a checkpoint; CheckpointError if it does not fit. Nothing is changed."""
    for parameter in network.get_parameters():
        restore_host(parameter)  # with zeros, which take no memory before something is written there
    return loader.check(network, source, load_format=load_format, **network.checkpoint())


def load_weights(network, plan: loader.Plan, progress: bool = True) -> None:
    """Fill every parameter as `check_weights` said, rearrange it for the device, and move it there.

    A network that runs goes on in the memory that its parameters have there.
    """
    parameters = list(network.get_parameters())
    loader.execute(plan, progress)
    for parameter in parameters:
        ops.renew(parameter)
    network.process_weights_after_loading()
    for parameter in parameters:
        if not parameter.slices:  # it was computed of others just now
            ops.renew(parameter)
        ops.move_to_device(parameter)


class MindSporeModelLoader(BaseModelLoader):
    """Builds the model and lets it read its checkpoint: slices go straight into MindSpore's buffers."""

    def download_model(self, model_config) -> None:
        raise NotImplementedError("the model downloads what it lacks when it is loaded")

    def load_model(self, *, model_config, device_config) -> torch.nn.Module:
        load_format, folder = self.load_config.load_format.value, model_config.model_path
        if load_format != "dummy":
            folder = locate(folder, load_format, model_config.revision, self.load_config.download_dir)
        runner.note_weights(model_config, str(folder), load_format)
        with set_default_torch_dtype(model_config.dtype), torch.device(device_config.device):
            model_class, _ = get_model_architecture(model_config)
            model = model_class(model_config)
        # SGLang reads it at each forward pass: these models fuse no shared experts with the others.
        model.shared_experts_config = resolve_shared_experts_config(model_class, model_config.hf_config, None)
        model.load_checkpoint(model.check_checkpoint(str(folder), load_format))
        device.synchronize(str(device_config.device).split(":")[0])  # SGLang measures the memory that is left next
        return model.eval()


def get_model_loader(load_config: LoadConfig, model_config=None) -> MindSporeModelLoader:
    """In place of SGLang's function of this name."""
    return MindSporeModelLoader(load_config)


class MindSporeWeightUpdater(WeightUpdater):
    """Updates the weights of a serving model, all of what is given on all ranks, or nothing on any."""

    __slots__ = ()

    def update_weights_from_disk(self, model_path, load_format, weight_name_filter=None, recapture_cuda_graph=False):
        """-> (success, message). A checkpoint that does not fit on some rank changes nothing on any.

        SGLang asks a draft too, for the checkpoint of its target: a draft that is not of it keeps its own weights.
        """
        model = self.get_model()
        if self.get_model_runner().is_draft_worker and getattr(model.network, "keeps_weights", True):
            return True, _DRAFT
        plan, problems = model.update.prepare(model_path, load_format)
        if problems:
            return False, "\n".join(problems)
        with _written_whole():
            model.load_checkpoint(plan)
        runner.note_checkpoint(self.model_config, model_path)
        load_config = LoadConfig(load_format=load_format)
        self.update_model_fields(model, model_path=model_path, load_format=load_format, load_config=load_config)
        return True, "Succeeded to update model weights."

    def init_weights_update_group(
        self, master_address, master_port, rank_offset, world_size, group_name, backend="nccl"
    ):
        """Join a trainer's group -> (success, message). A rank waits until all others have joined.

        The ranks of the first stage are members; they send later stages what they are sent.
        """
        usable = "hccl" if self.device.startswith("npu") else "gloo"
        if backend != usable:
            return False, f"backend is {backend!r}: on {self.device} a group is of backend {usable!r}"
        if get_parallel().pp_rank:
            return True, _FIRST_STAGE
        return super().init_weights_update_group(
            master_address, master_port, rank_offset, world_size, group_name, backend
        )

    def destroy_weights_update_group(self, group_name):
        return (True, _FIRST_STAGE) if get_parallel().pp_rank else super().destroy_weights_update_group(group_name)

    def receive_weights_from_distributed(self, **described):
        return [] if get_parallel().pp_rank else super().receive_weights_from_distributed(**described)

    def begin_weight_update(self):
        """Nothing is restored: every bucket leaves weights that can be served."""

    def end_weight_update(self, *, run_post_load):
        """Nothing is left to do."""

    def load_weights_from_distributed(self, named_tensors):
        return self._update(lambda: named_tensors)

    def update_weights_from_tensor(self, named_tensors, load_format=None):
        """named_tensors: (name, tensor)s, or with load_format flattened_bucket one tensor and what is where in it."""
        read = _READERS.get(load_format)
        if read is None:
            return False, f"load_format is {load_format!r}: tensors come by name (null), or in a flattened_bucket"
        return self._update(lambda: read(named_tensors))

    def update_weights_from_ipc(self, recv_req):
        return False, _NO_IPC

    def _update(self, read):
        if self.get_model_runner().is_draft_worker:
            return True, _DRAFT
        with _written_whole():
            return self.get_model().weights.update(read)


@contextlib.contextmanager
def _written_whole():
    try:
        yield
    except Exception as error:  # all was checked a moment ago: what is in memory now is of both
        raise SystemExit(f"new weights were written in part, which cannot be served: {error}") from error


def _of_names(named_tensors):
    tp_rank = get_parallel().tp_rank
    for name, tensor in named_tensors:
        yield name, tensor.get(tp_rank) if isinstance(tensor, LocalSerializedTensor) else tensor


def _of_bucket(bucket):
    described = FlattenedTensorBucket(flattened_tensor=bucket["flattened_tensor"], metadata=bucket["metadata"])
    return described.reconstruct_tensors()


_READERS = {None: _of_names, "flattened_bucket": _of_bucket}


class MindSporeWeightExporter(WeightExporter):
    """Hands out single tensors; whole models are not exported."""

    __slots__ = ()

    def get_weights_by_name(self, name, truncate_size=100):
        """The first rows of a checkpoint's tensor, in float32. CheckpointError, which names it, if it is not there."""
        if get_parallel().pp_size > 1:
            raise CheckpointError("with --pp-size a stage has some of the weights only: they are not handed out")
        return self.get_model().weights.read(name, truncate_size).float().tolist()


class MindSporeWeightChecker(WeightChecker):
    """SGLang's checks, of the tensors of a checkpoint that parameters hold."""

    def handle(self, *arguments, **options):
        with self._get_model().weights.plain() as self.held:
            return super().handle(*arguments, **options)

    def _model_state(self):
        yield from self.held

    def _compare(self, *, allow_quant_error=False, skip_tensor_list=None):
        """SGLang compares on a GPU. allow_quant_error: of what is held as it was loaded there is none."""
        if self._snapshot_tensors is None:
            raise ValueError("there is no snapshot to compare with")
        skipped, before = self._skip_compare_names(skip_tensor_list), self._snapshot_tensors
        held = [(name, now) for name, now in self._model_state() if name not in skipped]
        differ = [name for name, now in held if not torch.equal(now, before[name])]
        if differ:
            raise ValueError(f"these weights differ from the snapshot: {', '.join(differ)}")
        self._snapshot_tensors = self._snapshot_arena = None
