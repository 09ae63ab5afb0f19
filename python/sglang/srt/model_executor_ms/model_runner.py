"""The small dispatch: which class runs the model for this framework and device, or an error that lists them."""

import torch

from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.model_executor_ms.environment import keep_convolution_states_in
from sglang.srt.model_executor_ms.runner import cpu_runner, device, eplb, swa_pool, weights
from sglang.srt.model_executor_ms.runner.lazy_zeros import LazyZeros
from sglang.srt.model_executor_ms.runner.lora import lora_manager
from sglang.srt.model_executor_ms.runner.sampler import HostSampler
from sglang.srt.model_executor_ms.seams import runner
from sglang.srt.model_executor_ms.server.accelerators import DEVICES
from sglang.srt.runtime_context import get_model, get_parallel


class UnsupportedDevice(Exception):
    """No runner computes with this framework on this device."""


class MindSporeModelRunner(ModelRunner):
    """SGLang's ModelRunner around a MindSpore model; pools, sampler, scheduling and graph-free forward are SGLang's."""

    def init_mindspore_runner(self):
        """The model starts MindSpore itself; SGLang's way leaves a log in the working folder and processes behind."""

    def load_model(self):
        """Load weights without SGLang's layers for quantized ones: the model's own read config.json."""
        runner.leave_quantization_to_model(self.model_config)
        super().load_model()
        keep_convolution_states_in(str(self.model_config.dtype).removeprefix("torch."))  # pools are made later
        swa_pool.divide_pool(self)
        if self.device == "cpu":
            self.sampler = HostSampler()

    def alloc_memory_pool(self, *arguments, **named):
        """Make the key/value pool, on a CPU without writing it."""
        if self.device != "cpu":
            return super().alloc_memory_pool(*arguments, **named)
        with LazyZeros() as zeros:
            super().alloc_memory_pool(*arguments, **named)
        zeros.check(self.max_total_num_tokens)
        return None

    def configure_kv_cache_dtype(self):
        """Ask SGLang for a pool of bytes: its pool of float8 is for CPUs with AMX, for its own backend, not for MLA."""
        super().configure_kv_cache_dtype()
        if self.kv_cache_dtype == torch.float8_e4m3fn:
            self.kv_cache_dtype = torch.uint8

    def check_quantized_moe_compatibility(self):
        """SGLang wants whole blocks of float8 weights in a rank; the loader converts them, and Shard checks sizes."""

    def maybe_enable_batch_invariant_mode(self):
        """SGLang's way puts triton kernels in the place of torch's products; none of the model's are torch's."""

    def init_cuda_graphs(self, capture_decode_cuda_graph: bool = True):
        """Prepare SGLang's runners of forward passes, and compile the model: pools and attention backend exist."""
        super().init_cuda_graphs(capture_decode_cuda_graph)
        eplb.prepare(self)
        self.model.compile_graphs(self, step_runner(self.model.table))

    def init_lora_manager(self):
        """Give the model's layers room for adapters; before the key/value pool is sized."""
        self.lora_manager = lora_manager(self)

    def init_weight_updater(self):
        self.weight_updater = weights.MindSporeWeightUpdater(
            tp_rank=get_parallel().tp_rank,
            device=self.device,
            gpu_id=self.gpu_id,
            model_config=self.model_config,
            custom_weight_loaders=get_model().custom_weight_loader,
            get_model=lambda: self.model,
            update_model_fields=self.update_model_fields,
            recapture_cuda_graph=self.recapture_decode_cuda_graph,
            get_model_runner=lambda: self,
        )

    def init_weight_exporter(self):
        parallel, config = get_parallel(), self.model_config
        sizes = dict(tp_rank=parallel.tp_rank, tp_size=parallel.tp_size, gpu_id=self.gpu_id)
        self.weight_exporter = weights.MindSporeWeightExporter(
            **sizes, get_model_path=lambda: config.model_path, get_model=lambda: self.model
        )
        self._weight_checker = weights.MindSporeWeightChecker(get_model=lambda: self.model)


RUNNERS = {("mindspore", name): MindSporeModelRunner for name in DEVICES}


def runner_for(framework: str, device: str) -> type[ModelRunner]:
    """The runner's class. UnsupportedDevice, naming the supported ones, if there is none."""
    kind = device.split(":")[0]
    if (framework, kind) not in RUNNERS:
        supported = ", ".join(f"{name} on {where}" for name, where in RUNNERS)
        raise UnsupportedDevice(f"no runner for framework {framework} on device {device}; there are: {supported}")
    return RUNNERS[framework, kind]


def model_class(device: str) -> type:
    """The model that runs on this device."""
    if device.startswith("npu"):
        from sglang.srt.model_executor_ms.npu.causal_lm import NpuForCausalLM

        return NpuForCausalLM
    from sglang.srt.model_executor_ms.runner.causal_lm import MindSporeForCausalLM

    return MindSporeForCausalLM


def step_runner(table: str):
    """What makes the runner of steps, as cpu_runner.runner, for the operator table that computes."""
    if table in device.AS_ON_NPU:
        from sglang.srt.model_executor_ms.npu import start

        return start.runner
    return cpu_runner.runner


def attention_backend(model_runner: ModelRunner):
    """SGLang's factory of the attention backend `mindspore`."""
    from sglang.srt.model_executor_ms.runner.attention_backend import MindSporeAttnBackend

    return MindSporeAttnBackend(model_runner)
