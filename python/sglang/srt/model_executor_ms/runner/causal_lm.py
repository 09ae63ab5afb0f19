"""The torch.nn.Module that SGLang calls: ForwardBatch in, hidden states out to SGLang's LogitsProcessor."""

import logging
import weakref

import mindspore as ms
import torch

from sglang.srt.constants import GPU_MEMORY_TYPE_KV_CACHE, GPU_MEMORY_TYPE_WEIGHTS
from sglang.srt.layers.logits_processor import LogitsProcessor
from sglang.srt.layers_ms import Experts, ops
from sglang.srt.layers_ms.cache_spec import cache_specs, keep_intermediate_states, state_specs
from sglang.srt.layers_ms.ops.metadata import TOKEN_TYPE_IDS
from sglang.srt.model_executor.forward_batch_info import PPProxyTensors
from sglang.srt.model_executor.forward_context import get_attn_backend
from sglang.srt.model_executor_ms.environment import read_environment
from sglang.srt.model_executor_ms.parallel import groups, hosts
from sglang.srt.model_executor_ms.parallel.agreement import AllOrNone
from sglang.srt.model_executor_ms.parallel.cpu_affinity import processors
from sglang.srt.model_executor_ms.runner import (
    config_fixups,
    device,
    eplb,
    image_chunks,
    input_rows,
    kv_scales,
    sentence_transformers,
)
from sglang.srt.model_executor_ms.runner.cpu_runner import WARM_UP
from sglang.srt.model_executor_ms.runner.drafts import EagleModel
from sglang.srt.model_executor_ms.runner.graphs import Limits, compilations
from sglang.srt.model_executor_ms.runner.host_memory_saver import HostMemorySaver
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches, StatePool
from sglang.srt.model_executor_ms.runner.lm_head import LMHead, gather_logits
from sglang.srt.model_executor_ms.runner.media import MediaInputs
from sglang.srt.model_executor_ms.runner.named_weights import NamedWeights, drafting_layers
from sglang.srt.model_executor_ms.runner.pooling import Pooling
from sglang.srt.model_executor_ms.runner.profile import ForwardProfile
from sglang.srt.model_executor_ms.runner.sentence_transformers import Recipe
from sglang.srt.model_executor_ms.runner.weights import check_weights, load_weights, with_own_head, with_quantization
from sglang.srt.model_executor_ms.seams import batches, runner
from sglang.srt.model_loader_ms import loader
from sglang.srt.model_loader_ms.towers import with_tower
from sglang.srt.models_ms.config import Runtime
from sglang.srt.models_ms.pooled import embedding_class
from sglang.srt.models_ms.registry import model_class
from sglang.srt.runtime_context import (
    get_device,
    get_lora,
    get_model,
    get_schedule,
    get_spec,
    max_speculative_num_draft_tokens,
)

logger = logging.getLogger(__name__)

PP_HIDDEN_STATES = "hidden_states"  # SGLang sends what it is given from stage to stage, by name


class MindSporeForCausalLM(MediaInputs, EagleModel):
    """A MindSpore model behind the interface that SGLang's ModelRunner expects of a torch one.

    What another device than a CPU does otherwise, a subclass says.
    """

    join = staticmethod(groups.join_on_cpus)
    head_class = LMHead
    # SGLang's WeightExporter refuses with it.
    _weight_export_error = "--framework mindspore does not export models: they are MindSpore's, not torch parameters"

    process_table = None  # the operator table of the process, once its first model has started MindSpore

    def __init__(self, model_config):
        """model_config: SGLang's, of this model; the process may have others, with graphs and caches of their own.

        Built under torch's default dtype, which is the one that --dtype asks for.
        """
        super().__init__()
        config, environment = model_config.hf_config, read_environment()
        allreduce_fusion = self.fuses_allreduce(environment)
        self.table = self._start_process(config, environment, allreduce_fusion)
        requested = str(torch.get_default_dtype()).removeprefix("torch.")
        computed = ops.compute_dtype(requested)
        if computed != requested:
            logger.info("dtype %s: these operators hold weights and activations in %s", requested, computed)
        positions = model_config.context_len
        shard = groups.join_tensor_parallel(eplb.physical_to_logical_map(), self.join)
        stage = groups.pipeline_stage(environment.pp_layer_partition)
        begun = _max_prefill_tokens(positions)
        drafts, cache_dtype = _draft_tokens(), get_model().kv_cache_dtype
        ops.check_kv_cache_dtype(cache_dtype)
        served = (begun, drafts, cache_dtype, model_config.is_multimodal)
        runtime = Runtime(getattr(ms, computed), positions, shard, stage, allreduce_fusion, *served)
        self.config = model_config.hf_text_config
        network_class = model_class(config.architectures, config.to_dict())
        generates = model_config.is_generation
        if not generates:
            network_class = embedding_class(network_class)
        folder, load_format = runner.noted_weights(model_config)
        written = with_quantization(config.to_dict(), folder, model_config.requested_quantization)
        written = with_own_head(written, network_class, folder, load_format)
        published = config_fixups.restored(written, model_config.model_path, model_config.revision)
        self.network = network_class(with_tower(published, folder), runtime)
        self._prepare_media(model_config.is_generation)
        self.expert_counter = eplb.ExpertCounter(self.network)
        self.pooling = None if generates else self._pooling(model_config, load_format)
        self.profile = ForwardProfile(environment.profile, environment.traces)
        self.logits_processor = LogitsProcessor(self.vocabulary(self.config))
        batches.leave_cap_to_head(self.logits_processor)
        gather_logits(self.logits_processor, shard.head)
        read = self.network.config
        # SGLang reads the layers.
        self.stage, self.start_layer, self.end_layer = stage, read.layer_range.start, read.layer_range.stop
        self.lm_head = self._head() if self.network.head() is not None else None
        self.update = AllOrNone(self.check_checkpoint)
        self.weights = NamedWeights(self.network, self._bind_head, drafting_layers(self.config))
        self.kv_caches = self.runner = self.model_runner = None  # until the key/value pool exists

    def _prepare_media(self, generates: bool) -> None:
        image_chunks.keep_images_whole(self.network)
        input_rows.take_input_embeds(self.network, generates)

    def _pooling(self, model_config, load_format: str) -> Pooling:
        where = (model_config.model_path, model_config.revision)
        if hasattr(self.network, "scores"):
            return Pooling(self.network, Recipe(self.network.pooling), self.config)
        made = Pooling(self.network, sentence_transformers.recipe(*where, self.network.pooling))
        if load_format == "dummy":
            made.projection.fill()
        else:
            made.projection.check(*where)
        return made

    def _start_process(self, config, environment, allreduce_fusion) -> str:
        """MindSpore, the device and threads are the process's, whatever models it has -> its operator table."""
        if MindSporeForCausalLM.process_table is None:
            cores = processors(environment, groups.rank())
            self.take_device(config, environment.pp_layer_partition, allreduce_fusion)
            MindSporeForCausalLM.process_table = device.start(get_device().device, environment.ops_table, cores)
            self.pin_threads(cores)
        return MindSporeForCausalLM.process_table

    def fuses_allreduce(self, environment) -> bool:
        """Whether all-reduces may be computed with the norms behind them: that kernel is for the cards of one host."""
        # Adapters add to a product before it is summed, and drafts of EAGLE3 read sums before they are normalized.
        apart = get_lora().enable_lora or get_spec().speculative_algorithm == "EAGLE3"
        return environment.allreduce_fusion and not hosts.stages_span() and not apart

    def take_device(self, config, pp_layer_partition: tuple[int, ...], allreduce_fusion: bool) -> None:
        """Make ready what MindSpore computes on, before its first operator."""

    def pin_threads(self, processors: list[int]) -> None:
        """Keep the threads of a rank among others on its processors."""
        if groups.ranks() > 1:
            groups.pin_threads(processors)

    def _head(self):
        read = self.network.config
        return self.head_class(self.network, read.logit_scale, read.final_logit_softcapping)

    def check_checkpoint(self, model_path: str, load_format: str) -> loader.Plan:
        """What this rank is to load of a checkpoint; CheckpointError if it does not fit. Nothing is changed."""
        if self.pooling is not None and self.runner is not None:  # at first they were read of the model's own path
            self.pooling.projection.check(model_path)
        return check_weights(self.network, model_path, load_format)

    def load_checkpoint(self, plan: loader.Plan) -> None:
        """Fill every parameter as `check_checkpoint` said."""
        load_weights(self.network, plan, progress=self.runner is None)
        if self.pooling is not None:
            self.pooling.projection.load()
        self._bind_head()
        self.note_token_map()

    def load_kv_cache_scales(self, path: str) -> None:
        """SGLang asks for it where --quantization-param-path says which scales the float8 cache has."""
        shard = self.network.config.shard
        kv_scales.give(self.network, kv_scales.read(path, self.config, shard.size)[shard.rank])

    @classmethod
    def get_model_config_for_expert_location(cls, hf_config):
        """SGLang asks what experts a model has."""
        return eplb.model_config_for_expert_location(hf_config)

    @property
    def routed_experts_weights_of_layer(self) -> dict[int, Experts]:
        """What SGLang lets its updater, eplb.Updater, move between ranks: layer -> its experts."""
        return eplb.eplb_layers(self.network)

    def compile_graphs(self, model_runner, make_runner) -> None:
        """Compile all that serving needs, with a progress bar; the key/value pool exists by now.

        make_runner: as cpu_runner.runner, for the operator table that computes.
        """
        self.model_runner, self.make_runner = weakref.proxy(model_runner), make_runner
        self._prepare(model_runner.token_to_kv_pool, first=True)
        HostMemorySaver.register(GPU_MEMORY_TYPE_KV_CACHE, lambda: self.kv_caches.memory())
        HostMemorySaver.register(GPU_MEMORY_TYPE_WEIGHTS, self.weights.memory)
        logger.info("MindSpore graphs compiled before serving: %d", compilations())

    def _prepare(self, pool, first: bool = False) -> None:
        model_runner, limits = self.model_runner, _limits(self.model_runner)
        requests, specs = model_runner.req_to_token_pool, state_specs(self.network)
        states = StatePool(requests, specs) if specs else None
        if states and states.intermediate:
            if not ops.capabilities().intermediate_states:
                raise ops.OperatorTableError(f"operators {self.table}: the states behind drafts are not kept")
            keep_intermediate_states(self.network)
        self.kv_caches = KVCaches(pool, cache_specs(self.network), model_runner.is_hybrid_swa, states)
        if states and first:
            logger.info("states of requests: %d slots, %.2f GB", states.slots, states.memory() / 1e9)
        common = (self.network, self.kv_caches, limits, requests.req_to_token)
        self.runner = self.make_runner(*common, model_runner.page_size, self.config.vocab_size, first)
        self.expert_counter.bind()
        self._bind_head()

    def _bind_head(self) -> None:
        for head in (self.lm_head, self.draft_head):
            if head is not None:
                head.bind()

    def prepare(self, forward_batch, pool):
        """Prepare the step of a ForwardBatch that is about to run on SGLang's key/value pool."""
        if self.kv_caches.stale():
            self._prepare(pool)
        if self.model_runner.lora_manager is not None:
            self.model_runner.lora_manager.note_slots(forward_batch)
        return self.runner.prepare(forward_batch)

    def commit_states(self, requests: torch.Tensor, steps: torch.Tensor) -> None:
        """After a verify step: keep the states behind the tokens `steps` [B] of the requests in these rows [B]."""
        states = self.kv_caches.states
        states.commit(states.slots_of_requests[requests], steps)

    @torch.no_grad()
    def forward(
        self, input_ids, positions, forward_batch, get_embedding=False, pp_proxy_tensors=None, input_embeds=None
    ):
        """One step of SGLang: input_ids [T], positions [T] -> LogitsProcessorOutput, or EmbeddingPoolerOutput.

        Stages of a pipeline pass on hidden states [T, hidden_size] as PPProxyTensors. input_embeds is SGLang's bfloat16
        copy of what forward_batch has in float32, which is read.
        """
        backend, kind = get_attn_backend(), forward_batch.forward_mode.name.lower()
        if (
            forward_batch.forward_mode.is_idle()
        ):  # SGLang has the step of an idle replica prepared only where it pads it
            backend.init_forward_metadata(forward_batch)
        step = backend.forward_metadata
        inputs = self._inputs(input_ids, positions, forward_batch, pp_proxy_tensors)
        if self.is_draft:
            inputs |= self.features(forward_batch)
        with self.profile.step(kind, len(forward_batch.seq_lens), len(input_ids)):
            self.expert_counter.begin_pass()
            with self.profile.phase("graph"):
                hidden_states, aux = self.runner.run(inputs, step)
            self.expert_counter.end_pass()
            if not self.stage.last:
                return PPProxyTensors({PP_HIDDEN_STATES: hidden_states})
            with self.profile.phase("logits"):
                if get_embedding:
                    return self.pooling(hidden_states, forward_batch, input_ids)
                return self.logits_processor(input_ids, hidden_states, self.lm_head, forward_batch, list(aux) or None)

    def _inputs(self, input_ids, positions, forward_batch, pp_proxy_tensors):
        """What the step begins with, by name."""
        inputs = {"input_ids": input_ids}
        if not self.stage.first:
            inputs = {PP_HIDDEN_STATES: pp_proxy_tensors[PP_HIDDEN_STATES]}
        elif self.takes_media:
            with self.profile.phase("media"):
                inputs |= self.media_inputs(input_ids, forward_batch)
        elif TOKEN_TYPE_IDS in self.network.model_inputs():
            types = forward_batch.token_type_ids
            inputs["token_type_ids"] = torch.zeros_like(input_ids) if types is None else types.to(input_ids.dtype)
        self.clamp_placeholders(input_ids, forward_batch)
        inputs |= self.last_seen_inputs(positions, forward_batch)
        return inputs | self.mrope_inputs(positions, forward_batch)


def _max_prefill_tokens(context: int) -> int:
    """Of a step that SGLang schedules: a chunk of prefill, or a whole prompt."""
    schedule = get_schedule()
    chunk = schedule.chunked_prefill_size or -1
    return chunk if chunk > 0 else max(schedule.max_prefill_tokens, context)


def _draft_tokens() -> int:
    """The most tokens that a verify step computes of each request; 0 without speculative decoding."""
    return max_speculative_num_draft_tokens() or 0


def _tree_width() -> int:
    """Into how many requests of a step a request of SGLang's may grow: runner/spec_trees.py; 1 without trees."""
    branches = get_spec().speculative_eagle_topk or 1
    return max(branches, _draft_tokens()) if branches > 1 else 1


def _limits(model_runner) -> Limits:
    """The largest step that SGLang schedules: tokens of prompts beside every decoding request, or every one's drafts.

    With room for the steps of WARM_UP, where that is less.
    """
    context, drafts = model_runner.model_config.context_len, _draft_tokens()
    prefill = _max_prefill_tokens(context)
    requests = max(model_runner.max_running_requests, *(len(queries) for _, queries, _ in WARM_UP))
    rows = requests * _tree_width()
    tokens = max(prefill + requests, requests * drafts, rows, *(sum(queries) for _, queries, _ in WARM_UP))
    verified = 1 if model_runner.is_draft_worker else max(drafts, 1)
    return Limits(tokens, rows, -(-(context + drafts) // model_runner.page_size) + 1, verified)
