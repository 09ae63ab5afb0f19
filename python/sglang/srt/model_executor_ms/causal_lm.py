"""The torch.nn.Module that SGLang calls: ForwardBatch in, hidden states out to SGLang's LogitsProcessor."""

import logging
from types import SimpleNamespace

import mindspore as ms
import torch
from tqdm import tqdm

from sglang.srt.layers.logits_processor import LogitsProcessor
from sglang.srt.layers_ms import ops
from sglang.srt.model_executor.forward_context import get_attn_backend
from sglang.srt.model_executor_ms import bridge, device
from sglang.srt.model_executor_ms.arguments import read_environment
from sglang.srt.model_executor_ms.graphs import ForwardGraph, compilations
from sglang.srt.model_executor_ms.kv_caches import KVCaches
from sglang.srt.model_executor_ms.profile import ForwardProfile
from sglang.srt.model_executor_ms.step_inputs import step_inputs
from sglang.srt.model_loader_ms import loader
from sglang.srt.models_ms.config import Runtime
from sglang.srt.models_ms.registry import model_class
from sglang.srt.runtime_context import get_device, get_model
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
        device.start(get_device().device, environment.ops_table)
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
        self.lm_head = SimpleNamespace(weight=bridge.to_torch(self.network.head()))
        self.kv_caches = None
        self.graph = None

    def load_checkpoint(self, model_path: str, load_format: str, revision: str | None = None) -> None:
        """Fill every parameter from a local checkpoint, or raise CheckpointError and change none."""
        loader.load(
            self.network, model_path, load_format=load_format, ignore=self.network.ignored_tensors, revision=revision
        )

    def compile_graphs(self, model_runner) -> None:
        """Compile all that serving needs, with a progress bar; the key/value pool exists by now."""
        table = model_runner.req_to_token_pool.req_to_token[:1].cpu().numpy() * 0  # the spare page
        for _, query_lens, seq_lens in (bar := tqdm(WARM_UP, desc="Compiling MindSpore graphs")):
            slots = [0] * sum(query_lens)
            tables = table[:, : max(seq_lens) + model_runner.page_size].repeat(len(query_lens), axis=0)
            step = step_inputs(query_lens, seq_lens, slots, tables, model_runner.page_size)
            ids = torch.zeros(sum(query_lens), dtype=torch.int32)
            self._hidden_states(ids, step, model_runner.token_to_kv_pool)
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
            self.graph = ForwardGraph(self.network, step, self.kv_caches.k_caches, self.kv_caches.v_caches)
        ids = bridge.to_mindspore(input_ids.to(torch.int32))
        return bridge.to_torch(self.graph.run(ids, step))
