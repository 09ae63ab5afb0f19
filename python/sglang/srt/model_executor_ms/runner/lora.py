"""SGLang's LoRAManager and LoRAMemoryPool for a MindSpore model.

Which adapters are loaded, which are in a slot, and which goes when another comes, SGLang decides. How they are read,
which layers have room for them, and what a slot holds are this backend's.
"""

import functools
import operator

import numpy as np
import torch

from sglang.srt.layers_ms.cache_spec import state_specs
from sglang.srt.layers_ms.lora import vocabulary_part
from sglang.srt.layers_ms.lora_attach import attach, attach_embedding
from sglang.srt.lora.lora_manager import LoRAManager
from sglang.srt.lora.mem_pool import LoRAMemoryPool
from sglang.srt.lora.utils import get_normalized_target_modules
from sglang.srt.model_executor_ms.parallel.agreement import FirstStagePrepares, Outcome, of_all_ranks
from sglang.srt.model_executor_ms.runner import device
from sglang.srt.model_executor_ms.runner.lora_head import HeadLoRA
from sglang.srt.model_executor_ms.runner.step_inputs import host_lengths
from sglang.srt.model_executor_ms.seams import batches
from sglang.srt.model_loader_ms import lora
from sglang.srt.model_loader_ms.loader import Wanted
from sglang.srt.runtime_context import get_lora, get_parallel

ALL, EXPERTS = "all", ".experts."
KEPT = 16  # unloaded adapters: requests that were on their way to one when it was unloaded come soon


class MindSporeLoRAMemoryPool(LoRAMemoryPool):
    """Slots of adapters in the memory of the model's layers. A request without an adapter reads none."""

    def __init__(self, layers, embeddings, heads, kind: str, **options):
        """layers: LoRA cells; embeddings: EmbeddingLoRA cells; heads: of HeadLoRA. kind: of the device of all."""
        self.layers, self.embeddings, self.heads, self.kind = layers, embeddings, heads, kind
        self.unloaded = {}  # by SGLang's id, the last one at the end
        self.written = {}  # slot -> its adapter
        super().__init__(**options)

    def init_buffers(self, base_model):
        """The layers have them."""

    def can_support(self, config) -> bool:
        """What an adapter has is looked at when its tensors are read: a config may name modules by a pattern."""
        return True

    def _write(self, buffer_id: int, adapter: lora.Adapter | None) -> None:
        device.synchronize(self.kind)  # a step before may still read the slot
        self.written[buffer_id] = adapter
        for layer in self.layers:
            lora.put(layer, buffer_id, adapter)
            layer.renew()
        for embedding in self.embeddings:
            lora.put_embedding(embedding, buffer_id, adapter)
            embedding.renew()
        for head in self.heads:
            head.put(buffer_id, adapter)
        device.synchronize(self.kind)

    def rewrite(self, layers) -> None:
        """Write again what these layers have of the adapters in slots: the layers hold other experts now."""
        device.synchronize(self.kind)
        for layer in layers:
            for buffer_id, adapter in self.written.items():
                lora.put(layer, buffer_id, adapter)
            layer.renew()
        device.synchronize(self.kind)

    def load_lora_weight_to_buffer(self, uid, buffer_id, lora_adapter, *_modules):
        """uid: of the adapter; None: the slot is SGLang's for requests without one, which read none."""
        if uid is None:
            return
        adapter = lora_adapter or self.unloaded.get(uid)
        if adapter is None:
            raise lora.AdapterError(f"a request asks for adapter {uid}, which is not loaded any more")
        self._write(buffer_id, adapter)

    def _clear_buffer_slot_for_base(self, buffer_id: int) -> None:
        self._write(buffer_id, None)


class MindSporeLoRAManager(LoRAManager):
    """Adapters as MindSpore's model has them. ValueError where one that is asked for at start does not fit."""

    def __init__(self, model, device: str, **options):
        if next(model.parameters(), None) is None:  # of which SGLang asks the device
            nothing = torch.nn.Parameter(torch.empty(0, device=device), requires_grad=False)
            model.register_parameter("device_of_adapters", nothing)
        self.network = model.network
        if state_specs(self.network):
            raise ValueError("--enable-lora: the model's layers keep a state of each request; not served so yet")
        self.serves, self.prepared, self.loading = False, None, FirstStagePrepares(self._read)
        self.dp_lora_slots = None
        super().__init__(base_model=model, **options)
        self.serves = True

    # ---- adapters, as they are read: by all ranks, or by none ----

    def _load_lora_adapter(self, lora_ref):
        refused = self._prepare(lora_ref.lora_path)
        return refused or self._forgetting(lora_ref, super()._load_lora_adapter(lora_ref))

    def _load_lora_adapter_from_tensors(self, lora_ref, tensors, config_dict, added_tokens_config=None):
        own = {name: tensors[name].detach().cpu().clone() for name in tensors}  # the sender may change its own
        refused = self._prepare(lora_ref.lora_name, config_dict, own)
        if refused:
            return refused
        result = super()._load_lora_adapter_from_tensors(lora_ref, tensors, config_dict, added_tokens_config)
        return self._forgetting(lora_ref, result)

    def refuse(self, lora_ref, problem: str):
        """Where this rank cannot read the tensors of an adapter: no rank loads it -> SGLang's result."""
        return self._prepare(lora_ref.lora_name, {}, problem)

    def _prepare(self, *given):
        """Read an adapter on all ranks, and keep it for SGLang to ask for -> SGLang's result if one of them cannot."""
        if self.serves:
            outcome = self.loading.prepare(*given)
        else:  # all ranks start at once, and end if one of them fails
            try:
                outcome = Outcome(self._read(*given), [])
            except lora.AdapterError as error:
                outcome = Outcome(None, [str(error)])
        self.prepared = outcome.prepared
        return self.create_lora_update_result(False, "\n".join(outcome.problems)) if outcome.problems else None

    def _read(self, name: str, config: dict | None = None, tensors: dict | str | None = None) -> lora.Adapter:
        """An adapter, of a folder or given, that fits the model. tensors: or why there are none. AdapterError."""
        try:
            if isinstance(tensors, str):
                raise lora.AdapterError(f"the tensors cannot be read: {tensors}")
            if config is None:
                folder = lora.locate_adapter(name)
                config = lora.read_config(folder)
                lora.check_config(config)
                tensors = lora.read_tensors(folder)
            adapter = lora.adapter(config, tensors)
            if self.serves:
                self._check(adapter)
        except lora.AdapterError as error:
            raise lora.AdapterError(f"{name}: {error}") from error
        return adapter

    def _forgetting(self, lora_ref, result):
        if not result.success:
            self.configs.pop(lora_ref.lora_id, None)
        return result

    def _unload_lora_adapter(self, lora_ref):
        """SGLang 0.5.23 looks an adapter up first and counts the request then: it may unload it in between."""
        adapter, result = self.loras.get(lora_ref.lora_id), super()._unload_lora_adapter(lora_ref)
        if result.success and adapter is not None:
            kept = self.memory_pool.unloaded
            kept[lora_ref.lora_id] = adapter
            for oldest in list(kept)[:-KEPT]:
                del kept[oldest]
        return result

    def load_lora_weights(self, lora_ref):
        self.loras[lora_ref.lora_id], self.prepared = self.prepared, None

    def load_lora_weights_from_tensors(self, lora_ref, tensors):
        self.load_lora_weights(lora_ref)

    def _check(self, adapter):
        lora.check_fits(adapter, self.room, self.max_lora_rank)

    def _names(self):
        return Wanted(**self.network.checkpoint()).tensor_names()

    # ---- layers with room for them ----

    def init_lora_shapes(self, max_lora_rank=None, target_modules=None):
        modules = {module for adapter in self.loras.values() for module in adapter.modules}
        own = {module.rpartition(".")[2] for module in modules}
        self.modules_at_start = None if target_modules else modules
        # As SGLang has it, one of matrices that are multiplied as one stands for all of them: q_proj for q, k and v.
        self.target_modules = get_normalized_target_modules(target_modules or own)
        self.max_lora_rank = max_lora_rank or max((adapter.rank for adapter in self.loras.values()), default=0)
        self.lora_added_tokens_size = 0

    def _detect_shared_outer_loras(self):
        return False

    def _wanted(self, parts) -> bool:
        names = {name for part in parts for name in part.names}
        if self.modules_at_start is not None and any(EXPERTS in name for name in names):
            return not names.isdisjoint(self.modules_at_start)  # as large as it is, by name only
        own = {name.rpartition(".")[2] for name in names}
        own |= get_normalized_target_modules(own)
        return ALL in self.target_modules or not own.isdisjoint(self.target_modules)

    def init_lora_modules(self):
        self.lora_modules, self.embed_tokens_module, self.lm_head_module = [], None, None
        sizes = self.max_loras_per_batch, self.max_lora_rank
        self.layers = attach(self.network, self._names(), self._wanted, *sizes)
        self.embeddings = attach_embedding(self.network, self._names(), self._wanted, *sizes)
        self.heads = self._heads(*sizes)
        own = lora.room_of([*self.layers, *self.embeddings, *self.heads])
        # Of all stages: each rank can check a whole adapter.
        self.room = functools.reduce(operator.or_, of_all_ranks(own))
        if not self.room.matrices:
            raise ValueError(f"--lora-target-modules {sorted(self.target_modules)}: the model has none of them")
        for lora_id, adapter in self.loras.items():
            try:
                self._check(adapter)
            except lora.AdapterError as error:
                raise lora.AdapterError(f"{self.lora_refs[lora_id].lora_path}: {error}") from error

    def _heads(self, max_loras: int, rank: int) -> list[HeadLoRA]:
        head = self.base_model.lm_head
        tied = self.network.lm_head is None
        own = self.network.model.embed_tokens if tied else self.network.lm_head
        shard = self.network.config.shard
        gathers = self.attn_dp_enabled and shard.head != shard.attention  # the rows of all attention DP ranks
        if head is None or gathers or not hasattr(own, "matrix"):
            return []
        part = vocabulary_part("lm_head", own.matrix, self._names(), "weight")
        if not self._wanted((part,)):
            return []
        found = HeadLoRA(part, own.matrix.shape[0], max_loras, rank, str(self.device))
        head.take_adapters(found)
        return [found]

    def init_memory_pool(self):
        self.memory_pool = MindSporeLoRAMemoryPool(
            self.layers,
            self.embeddings,
            self.heads,
            self.device.type,
            base_hf_config=self.base_hf_config,
            max_loras_per_batch=self.max_loras_per_batch,
            dtype=self.dtype,
            max_lora_rank=self.max_lora_rank,
            target_modules=self.target_modules,
            base_model=self.base_model,
            eviction_policy=self.eviction_policy,
            lora_added_tokens_size=self.lora_added_tokens_size,
        )
        # Those of attention DP ranks are pinned, and so have the same slots on all of them.
        self.fetch_new_loras({None, *(self.loras if self.attn_dp_enabled else ())})

    def update_lora_info(self):
        """The layers know their memory."""

    def follow_experts(self, experts) -> None:
        """Experts, of a layer, have moved: what adapters have for them goes where they are now. Between steps."""
        layers = [layer for layer in (experts.gate_up_lora, experts.down_lora) if layer is not None]
        for layer in layers:
            layer.locate()
        self.memory_pool.rewrite(layers)

    # ---- each step ----

    def prepare_lora_batch(self, forward_batch):
        """SGLang makes another ForwardBatch of it before the step's inputs are made: see note_slots.

        Attention DP ranks call it at once, those that are idle too, and tell each other the slots of their tokens.
        """
        if self.attn_dp_enabled:
            query_lens, _ = host_lengths(forward_batch)
            own = np.repeat(self._slots(forward_batch), query_lens)
            self.dp_lora_slots = np.concatenate(get_parallel().tp_group.all_gather_object(own))

    def note_slots(self, forward_batch) -> None:
        """Note the slot of each request's adapter with the ForwardBatch of which the step's inputs are made."""
        found = self._slots(forward_batch)
        batches.note_lora_slots(forward_batch, found, self.dp_lora_slots)
        for head in self.heads:
            head.begin(forward_batch, found)

    def _slots(self, forward_batch) -> np.ndarray:
        slots = self.memory_pool.uid_to_buffer_id
        return np.array([-1 if uid is None else slots[uid] for uid in forward_batch.lora_ids], np.int32)

    def reset_lora_batch(self):
        """An idle step has no requests."""


def lora_manager(model_runner) -> MindSporeLoRAManager:
    """What serves the adapters of a ModelRunner, whose model is loaded and not compiled yet."""
    chosen = get_lora()
    return MindSporeLoRAManager(
        model_runner.model,
        device=model_runner.device,
        base_hf_config=model_runner.model_config.hf_config,
        max_loras_per_batch=chosen.max_loras_per_batch,
        load_config=model_runner.load_config,
        dtype=model_runner.dtype,
        server_args=model_runner.server_args,
        lora_backend="triton",  # whose kernels are never called
        max_lora_rank=chosen.max_lora_rank,
        target_modules=chosen.lora_target_modules,
        lora_paths=chosen.lora_paths,
    )
