"""SGLang's sampler, but for a host: numpy looks for the largest of a vocabulary's logits ten times as fast as torch."""

import torch

from sglang.srt.layers import sampler


class HostSampler(sampler.Sampler):
    """Chooses as SGLang's; greedy steps of which nobody asks for more than the tokens do so at the speed of memory."""

    def forward(self, logits_output, sampling_info, return_logprob, *arguments, **named):
        """next_token_logits [B, vocab_size] -> ids [B]: the first of equal logits, and NaN before all, as in torch."""
        more = return_logprob or sampling_info.sampling_mask_batch_indices is not None
        if more or not sampling_info.is_all_greedy:
            return super().forward(logits_output, sampling_info, return_logprob, *arguments, **named)
        logits = self._preprocess_logits(logits_output.next_token_logits, sampling_info)
        ids = torch.from_numpy(logits.numpy().argmax(-1))
        self._sync_token_ids_across_tp(ids, sampling_info)
        return ids
