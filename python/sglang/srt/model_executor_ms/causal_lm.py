"""The torch.nn.Module that SGLang calls: ForwardBatch in, hidden states out to SGLang's LogitsProcessor."""

import logging

import mindspore as ms
import torch
from tqdm import tqdm

from sglang.srt.layers.logits_processor import LogitsProcessor
from sglang.srt.layers_ms import ops
from sglang.srt.model_executor.forward_context import get_attn_backend
from sglang.srt.model_executor_ms import bridge, device
from sglang.srt.model_executor_ms.arguments import read_environment
from sglang.srt.model_executor_ms.graphs import Limits, compilations, forward_graph
from sglang.srt.model_executor_ms.kv_caches import KVCaches
from sglang.srt.model_executor_ms.lm_head import LMHead
from sglang.srt.model_executor_ms.profile import ForwardProfile
from sglang.srt.model_executor_ms.step_inputs import step_inputs
from sglang.srt.model_loader_ms import loader
from sglang.srt.models_ms.config import Runtime
from sglang.srt.models_ms.registry import model_class
from sglang.srt.runtime_context import get_device, get_model, get_schedule
from sglang.srt.utils.hf_transformers_utils import get_context_length

logger = logging.getLogger(__name__)

# Steps run before the server is ready: name, tokens and context of each request. One graph serves them all; the later
# ones show that it does, and touch what only runs once.
WARM_UP = (("prefill", (3, 2), (3, 2)), ("cached prefix", (2,), (5,)), ("decode", (1, 1, 1), (1, 7, 4)))


class MindSporeForCausalLM(torch.nn.Module):
    """A MindSpore model behind the interface that SGLang's ModelRunner expects of a torch one."""

    def __init__(self, config, quant_config=None):
        """config: Hugging Face's; built under torch's default dtype, which is the one that --dtype asks for."""
        super().__init__()
        environment = read_environment()
        device.start(get_device().device, environment.ops_table, torch.get_num_threads())
        requested = str(torch.get_default_dtype()).removeprefix("torch.")
        computed = ops.compute_dtype(requested)
        if computed != requested:
            logger.info("dtype %s: these operators hold weights and activations in %s", requested, computed)
        runtime = Runtime(dtype=getattr(ms, computed), max_positions=get_context_length(config))
        asked_context = get_model().context_length
        if asked_context and asked_context > runtime.max_positions:
            runtime = Runtime(dtype=runtime.dtype, max_positions=asked_context)
        self.config = config
        self.network = model_class(config.architectures)(config.to_dict(), runtime)
        self.profile = ForwardProfile(environment.profile)
        self.logits_processor = LogitsProcessor(config)
        self.lm_head = LMHead(self.network.head())
        self.kv_caches = self.graph = self.limits = None  # until the key/value pool exists

    def load_checkpoint(self, model_path: str, load_format: str, revision: str | None = None) -> None:
        """Fill every parameter from a local checkpoint, or raise CheckpointError and change none."""
        loader.load(
            self.network, model_path, load_format=load_format, ignore=self.network.ignored_tensors, revision=revision
        )
        self.network.pack()

    def compile_graphs(self, model_runner) -> None:
        """Compile all that serving needs, with a progress bar; the key/value pool exists by now."""
        self.limits = _limits(model_runner)
        table = model_runner.req_to_token_pool.req_to_token[:1].cpu().numpy() * 0  # the spare page
        for _, query_lens, seq_lens in (bar := tqdm(WARM_UP, desc="Compiling MindSpore graphs")):
            slots = [0] * sum(query_lens)
            tables = table[:, : max(seq_lens) + model_runner.page_size].repeat(len(query_lens), axis=0)
            step = step_inputs(query_lens, seq_lens, slots, tables, model_runner.page_size)
            self._hidden_states(torch.zeros(sum(query_lens), dtype=torch.int32), step, model_runner.token_to_kv_pool)
            bar.set_postfix(graphs=compilations())
        logger.info("MindSpore graphs compiled before serving: %d", compilations())

    @torch.no_grad()
    def forward(self, input_ids, positions, forward_batch):
        """One step of SGLang: input_ids [T], positions [T] -> LogitsProcessorOutput."""
        backend = get_attn_backend()
        step = backend.forward_metadata
        kind = forward_batch.forward_mode.name.lower()
        with self.profile.forward(kind, len(step.seq_lens), len(step.positions)):
            hidden_states = self._hidden_states(input_ids, step, backend.token_to_kv_pool)
        return self.logits_processor(input_ids, hidden_states, self.lm_head, forward_batch)

    def _hidden_states(self, input_ids, step, pool) -> torch.Tensor:
        if self.kv_caches is None or self.kv_caches.stale():
            self.kv_caches = KVCaches(pool, self.config.num_hidden_layers)
            caches = self.kv_caches.k_caches, self.kv_caches.v_caches
            self.graph = forward_graph(self.network, *caches, self.limits)
        hidden_states = self.graph.run(input_ids.to(torch.int32).numpy(), step)
        return bridge.to_torch(hidden_states)[: len(step.positions)]


def _limits(model_runner) -> Limits:
    """The largest step that SGLang schedules: a chunk of prefill, or a whole prompt, beside every decoding request."""
    schedule, context = get_schedule(), model_runner.model_config.context_len
    chunk = schedule.chunked_prefill_size or -1
    prefill = chunk if chunk > 0 else max(schedule.max_prefill_tokens, context)
    requests = model_runner.max_running_requests
    return Limits(prefill + requests, requests, -(-context // model_runner.page_size) + 1)
