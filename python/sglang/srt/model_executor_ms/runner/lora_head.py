"""What adapters add to logits. They are torch's: so are the rows of which SGLang wants them."""

import numpy as np
import torch

from sglang.srt.layers_ms.lora import LoRAPart
from sglang.srt.lora.utils import get_lm_head_pruned_lens
from sglang.srt.model_loader_ms import lora


class HeadLoRA:
    """float32 factors of max_loras adapters, for this rank's rows of a head."""

    def __init__(self, part: LoRAPart, rows: int, max_loras: int, rank: int, device: str):
        """rows: of this rank, with those that are padding."""
        self.parts, columns = (part,), part.whole[1]
        self.lora_a = torch.zeros(max_loras, rank, columns, device=device)
        self.lora_b = torch.zeros(max_loras, rows, rank, device=device)
        self.slots = np.zeros(0, np.int32)  # of the rows of a step that have not come yet

    def put(self, slot: int, loaded: lora.Adapter | None) -> None:
        """Hold an adapter's factors in a slot; None: none."""
        (part,) = self.parts
        self.lora_a[slot] = self.lora_b[slot] = 0.0
        module = None if loaded is None else next(filter(None, map(loaded.modules.get, part.names)), None)
        if module is not None:
            (rows,) = part.rows
            self.lora_a[slot, : module.rank] = module.a.to(self.lora_a)
            self.lora_b[slot, : rows.stop - rows.start, : module.rank] = module.b[rows].to(self.lora_b) * module.factor

    def begin(self, forward_batch, slots: np.ndarray) -> None:
        """The rows of a step come next, in order, perhaps in parts. slots: of its requests."""
        lengths = get_lm_head_pruned_lens(forward_batch)
        if forward_batch.forward_mode.is_target_verify():
            lengths = forward_batch.spec_info.draft_token_num
        self.slots = slots if lengths is None else np.repeat(slots, lengths)

    def add(self, logits: torch.Tensor, hidden_states: torch.Tensor) -> None:
        """Add to the logits [T, rows] of the next T rows, in place."""
        slots, self.slots = np.split(self.slots, [len(logits)])
        for slot in sorted({*slots.tolist()} - {-1}):
            rows = torch.from_numpy(np.flatnonzero(slots == slot)).to(logits.device)
            hidden = hidden_states[rows].float() @ self.lora_a[slot].T
            logits[rows] += hidden @ self.lora_b[slot].T
