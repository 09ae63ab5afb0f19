"""Images of a step: SGLang says which rows of which image a step takes, a tower of ours makes the rows.

SGLang's processors, hashes, radix keys and its cache of rows stay SGLang's. It asks the model for `pad_input_ids`, and
for the rows of images that its cache does not have.
"""

import numpy as np
import torch

from sglang.srt.layers_ms.ops.metadata import LAST_SEEN
from sglang.srt.managers.mm_schedule import get_embedding_and_mask
from sglang.srt.managers.mm_utils import pad_mm_tokens
from sglang.srt.managers.schedule_batch import Modality
from sglang.srt.model_executor_ms.runner import bridge, input_rows
from sglang.srt.model_executor_ms.seams import batches
from sglang.srt.models_ms.decoder import MEDIA_MASK, MEDIA_ROWS, MROPE

MODALITIES = {"image": Modality.IMAGE, "video": Modality.VIDEO}


class MediaInputs:
    """What SGLang asks of a model that sees. A mixin of MindSporeForCausalLM, whose `network` computes."""

    @property
    def takes_media(self) -> bool:
        """Whether steps may begin with rows that take the place of tokens."""
        return self.network.model.takes_media

    def pad_input_ids(self, input_ids, mm_inputs):
        """Put a number made of each image in the place of its placeholder tokens: the radix cache's key."""
        return pad_mm_tokens(input_ids, mm_inputs)

    def get_image_feature(self, items) -> list[torch.Tensor]:
        """Rows [tokens, hidden_size] of each image."""
        return [self._rows(item, "image") for item in items]

    def get_video_feature(self, items) -> list[torch.Tensor]:
        """The same of videos."""
        return [self._rows(item, "video") for item in items]

    def _rows(self, item, modality: str) -> torch.Tensor:
        known = {name: _array(value) for name, value in item.model_specific_data.items()}
        made = self.network.vision_inputs(_array(item.feature), modality, known)
        dtype = getattr(torch, str(self.network.config.dtype).lower())
        patches = bridge.to_mindspore(torch.from_numpy(made.patches).to(dtype))
        indices = [bridge.to_mindspore(torch.from_numpy(array)) for array in made.indices]
        if made.positions is not None:
            indices.insert(0, bridge.to_mindspore(torch.from_numpy(made.positions).to(dtype)))
        compute = self.network.video if modality == "video" else self.network.vision
        return bridge.to_torch(compute(patches, *indices)).clone()

    def media_inputs(self, input_ids: torch.Tensor, forward_batch) -> dict[str, torch.Tensor]:
        """What a step of T tokens begins with beside ids: which are replaced, and their rows. {}: none is."""
        if not batches.has_media(forward_batch) and forward_batch.input_embeds is None:
            return {}
        width, dtype = self.network.config.hidden_size, getattr(torch, str(self.network.config.dtype).lower())
        names = (MEDIA_ROWS, *self.network.model.deepstack)
        rows = torch.zeros(len(input_ids), len(names) * width, dtype=dtype, device=input_ids.device)
        mask = torch.zeros(len(input_ids), dtype=torch.int32, device=input_ids.device)
        if batches.has_media(forward_batch):
            for modality in getattr(self.network, "modalities", ()):
                self._merge(modality, input_ids, forward_batch, rows, mask)
        input_rows.put_input_embeds(forward_batch, rows[:, :width], mask)
        parts = (part.contiguous() for part in rows.split(width, 1))
        return {MEDIA_MASK.name: mask, **dict(zip(names, parts, strict=True))}

    def clamp_placeholders(self, input_ids: torch.Tensor, forward_batch) -> None:
        """Make placeholders ids of the vocabulary, in place, for whoever reads them next."""
        if batches.has_media(forward_batch):
            input_ids.clamp_(0, self.network.config.vocab_size - 1)

    def mrope_inputs(self, positions: torch.Tensor, forward_batch) -> dict[str, torch.Tensor]:
        """The three positions of each token [T], of models whose tokens have three; text's are all its place."""
        if MROPE[0] not in self.network.model_inputs():
            return {}
        found = forward_batch.mrope_positions
        rows = [positions] * len(MROPE) if found is None else found.unbind(0)
        return {field.name: row.contiguous() for field, row in zip(MROPE, rows, strict=True)}

    def last_seen_inputs(self, positions: torch.Tensor, forward_batch) -> dict[str, torch.Tensor]:
        """Up to which place each token [T] sees keys, of models whose tokens see all of their image."""
        if LAST_SEEN not in self.network.model_inputs():
            return {}
        found, begin = positions.clone(), 0
        if batches.has_media(forward_batch):
            lengths = (forward_batch.extend_prefix_lens_cpu, forward_batch.extend_seq_lens_cpu)
            for mm_inputs, cached, new in zip(forward_batch.mm_inputs, *lengths, strict=True):
                for first, last in image_places(mm_inputs):
                    own = slice(begin + max(first - cached, 0), begin + max(min(last + 1 - cached, new), 0))
                    found[own] = last
                begin += new
        return {LAST_SEEN.name: found}

    def _merge(self, modality: str, input_ids, forward_batch, rows, mask) -> None:
        """Put the rows of all requests' images, or videos, where their placeholders are."""
        items, sizes, offsets = [], [0], []
        for mm_inputs in forward_batch.mm_inputs:
            own = [] if mm_inputs is None else mm_inputs.mm_items
            own = [item for item in own if item.is_modality(MODALITIES[modality])]
            items += own
            sizes.append(len(items))
            offsets.append([offset for item in own for offset in item.offsets])
        if not items:
            return
        pads = sorted(value for item in items for value in item.padding_values())
        found, where, _ = get_embedding_and_mask(
            data_embedding_func=getattr(self, f"get_{modality}_feature"),
            embedding_items=items,
            placeholder_tensor=torch.as_tensor(pads, device=input_ids.device),
            input_ids=input_ids,
            items_size=sizes,
            prefix_length=forward_batch.extend_prefix_lens_cpu,
            extend_length=forward_batch.extend_seq_lens_cpu,
            items_offset_list=offsets,
        )
        if found is not None:
            places = where.view(-1)
            rows[places] = found.to(rows)
            mask[places] = 1


def image_places(mm_inputs) -> list[tuple[int, int]]:
    """First and last place of each image of a prompt, in SGLang's MultimodalInputs or None."""
    items = [] if mm_inputs is None else mm_inputs.mm_items
    return [tuple(places) for item in items if item.is_image() for places in item.offsets]


def _array(value):
    """A tensor, or what holds one, as numpy; other values as they are."""
    if isinstance(value, torch.Tensor):
        return (value.float() if value.is_floating_point() else value).cpu().numpy()
    return np.asarray(value) if isinstance(value, (list, tuple)) else value
