"""Which layers of the model one pipeline stage computes."""

from dataclasses import dataclass


class StageError(Exception):
    """A model cannot be divided into the pipeline stages that were asked for."""


@dataclass(frozen=True)
class Stage:
    """Pipeline stage `rank` of `size`; the default is the whole model in one stage.

    The first stage embeds tokens. The last stage has the final norm and the head. Each stage passes hidden states on to
    the next one.
    """

    rank: int = 0
    size: int = 1
    sizes: tuple[int, ...] = ()  # number of layers of each stage; (): divided equally

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
        """The layers of this stage, out of `total`. A stage has at least one.

        The division is SGLang's: equal parts, and one of the remaining layers for each of the last stages.
        StageError if there are fewer layers than stages, or if `sizes` does not add up to `total`.
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
