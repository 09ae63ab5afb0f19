"""SGLang's AttentionBackend for MindSpore: prepares each step's inputs on the host; the graph computes attention."""

from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.model_executor_ms.step_inputs import from_forward_batch


class MindSporeAttnBackend(AttentionBackend):
    """`forward_metadata` is the StepInputs of the batch that is about to run."""

    needs_cpu_seq_lens = True  # lengths are read from the host mirrors, never from the device

    def __init__(self, model_runner):
        super().__init__()
        self.page_size = model_runner.page_size
        self.req_to_token_pool = model_runner.req_to_token_pool
        self.token_to_kv_pool = model_runner.token_to_kv_pool
        self.profile = model_runner.model.profile
        self.forward_metadata = None

    def init_forward_metadata(self, forward_batch):
        with self.profile.phase("inputs"):
            table = self.req_to_token_pool.req_to_token
            self.forward_metadata = from_forward_batch(forward_batch, table, self.page_size)
