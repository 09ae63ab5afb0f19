"""Which layers of the model one pipeline stage computes."""

from dataclasses import dataclass


class StageError(Exception):
    """A model cannot be divided into the pipeline stages that were asked for."""


@dataclass(frozen=True)
class Stage:
    """Pipeline stage `rank` of `size`; the default is the whole model in one stage.

    The first one embeds tokens, the last one has the last norm and the head; between two, hidden states are passed on.
    """

    rank: int = 0
    size: int = 1
    sizes: tuple[int, ...] = ()  # how many layers each stage has, where not as many as the others

    def __post_init__(self):
        if not 0 <= self.rank < self.size:
            raise StageError(f"pipeline stage {self.rank} of {self.size}: it must be from 0 to size - 1")

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def last(self) -> bool:
        return self.rank == self.size - 1

    def layers(self, total: int) -> range:
        """Those of `total` layers that this stage computes, at least one.

        As SGLang divides them: equally, and where that leaves some over, one more to each of the last stages.
        StageError if there are fewer layers than stages, or `sizes` does not fit them.
        """
        if total < self.size:
            raise StageError(
                f"num_hidden_layers = {total} cannot be divided into {self.size} pipeline stages; "
                f"start with a pipeline-parallel size of at most {total}"
            )
        sizes = self.sizes if self.sizes and self.size > 1 else self._equal(total)
        if len(sizes) != self.size or sum(sizes) != total or min(sizes) < 1:
            raise StageError(
                f"stages of {', '.join(map(str, sizes))} layers (SGLANG_PP_LAYER_PARTITION) are not {self.size} "
                f"stages of num_hidden_layers = {total} in all"
            )
        start = sum(sizes[: self.rank])
        return range(start, start + sizes[self.rank])

    def _equal(self, total: int) -> tuple[int, ...]:
        each, left_over = divmod(total, self.size)
        return (each,) * (self.size - left_over) + (each + 1,) * left_over
