"""SGLang's AttentionBackend for MindSpore: has each step's inputs prepared; the graph computes attention."""

from sglang.srt.layers.attention.base_attn_backend import AttentionBackend


class MindSporeAttnBackend(AttentionBackend):
    """`forward_metadata` is the prepared step of the batch that is about to run."""

    needs_cpu_seq_lens = True  # lengths are read from the host mirrors, never from the device

    def __init__(self, model_runner):
        super().__init__()
        self.model = model_runner.model
        self.token_to_kv_pool = model_runner.token_to_kv_pool
        self.forward_metadata = None

    def init_forward_metadata(self, forward_batch):
        with self.model.profile.phase("inputs"):
            self.forward_metadata = self.model.prepare(forward_batch, self.token_to_kv_pool)
