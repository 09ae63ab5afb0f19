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

    def update_mamba_state_after_mtp_verify(
        self, last_correct_step_indices, mamba_track_indices, mamba_steps_to_track, model, req_pool_indices
    ):
        """SGLang's commit of what a verify step left: which of its tokens is the last that stays, of each request [B].

        The other arguments are for its strategy `extra_buffer`, refused with drafts, and for what the backend knows.
        """
        self.model.commit_states(req_pool_indices, last_correct_step_indices)
