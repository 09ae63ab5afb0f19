"""What SGLang's EAGLE workers ask of a target and of its draft: hidden states out and in, one embedding, one head."""

import numpy as np
import torch

from sglang.srt.model_executor_ms.runner import bridge
from sglang.srt.models_ms.aux_layers import aux_layers
from sglang.srt.models_ms.eagle import TARGET_HIDDEN, DraftForCausalLM
from sglang.srt.runtime_context import get_device


class Shared:
    """What a target hands to its draft through SGLang, which looks at its device only: maps of tokens go there."""

    def __init__(self, cell):
        self.cell, self.device = cell, torch.device(get_device().device)


class EagleModel(torch.nn.Module):
    """Base of the model that SGLang calls, with what only speculative decoding calls."""

    network = runner = lm_head = hot_token_id = None
    draft_head = None  # of a target: the head without adapters, which its draft scores with
    load_lm_head_from_target = False  # an EAGLE3 draft has a head of its own

    @property
    def is_draft(self) -> bool:
        """Whether it drafts from hidden states of a target."""
        return isinstance(self.network, DraftForCausalLM)

    def vocabulary(self, config):
        """A config for the LogitsProcessor, with as many tokens as the head scores."""
        size = getattr(self.network.config, "draft_vocab_size", config.vocab_size)
        if size == config.vocab_size:
            return config
        return type(config).from_dict(config.to_dict() | {"vocab_size": size})

    # ---- a target ----

    def get_embed_and_head(self) -> tuple[Shared, Shared]:
        self.draft_head = self._head()
        return Shared(self.network.model.embed_tokens), Shared(self.draft_head)

    def set_eagle3_layers_to_capture(self, layer_ids: list[int] | None = None) -> None:
        """layer_ids: as aux_layers has them, of the draft's config."""
        self.network.set_aux_layers(aux_layers(self.network.config.num_hidden_layers, layer_ids))

    # ---- a draft ----

    def set_embed(self, embed: Shared) -> None:
        self.network.share_embedding(embed.cell)

    def set_embed_and_head(self, embed: Shared, head: Shared) -> None:
        self.set_embed(embed)
        self.lm_head = head.cell  # an LMHead of the target's weight

    def note_token_map(self) -> None:
        """Once a draft is loaded: which token of the target each of its own is."""
        if self.is_draft and self.network.offsets is not None:
            offsets = self.network.offsets.d2t.asnumpy()
            self.hot_token_id = torch.from_numpy(offsets + np.arange(len(offsets)))

    def features(self, forward_batch) -> dict:
        """What a draft's step begins with beside ids: the hidden states that SGLang hands on.

        Those of several layers of the target are one row here; those of a draft step are the draft's own.
        """
        rows = forward_batch.spec_info.hidden_states
        if rows.shape[1] != self.network.config.hidden_size:
            rows = self.runner.beside_graphs(self._projected, rows.contiguous())
        return {TARGET_HIDDEN: rows}

    def _projected(self, rows: torch.Tensor) -> torch.Tensor:
        return bridge.to_torch(self.network.project(bridge.to_mindspore(rows)))
