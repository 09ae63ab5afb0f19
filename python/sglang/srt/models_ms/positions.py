"""The frame of decoders that add a learned embedding of a token's place, as GPT-2 and those of its time do."""

from sglang.srt.layers_ms import ReplicatedEmbedding, ops
from sglang.srt.models_ms.config import DecoderConfig, computed
from sglang.srt.models_ms.decoder import Decoder


class LearnedPositionsConfig(DecoderConfig):
    first_position = 0  # the row of a text's first token

    @property
    def position_rows(self) -> int:
        """Of the table of places."""
        return self.max_position_embeddings

    @computed
    def rope(self):
        return None

    def problems(self):
        yield from super().problems()
        yield from self.limit_context(self.position_rows - self.first_position, "positions that were not learned are")


class PositionedDecoder(Decoder):
    """What tokens are embedded as, and what their places are."""

    of_first_stage = (*Decoder.of_first_stage, "positions")

    def __init__(self, config, layer_class, norm):
        super().__init__(config, layer_class, norm)
        self.positions = None
        if config.stage.first:
            sizes = (config.position_rows, config.hidden_size, config.dtype)
            self.positions = ReplicatedEmbedding(*sizes, -config.first_position)

    def embed(self, x, step):
        x = super().embed(x, step)
        return ops.add(x, self.positions(ops.with_valid_rows(step["positions"], step)), 1.0)
