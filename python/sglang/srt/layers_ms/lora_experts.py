"""Low-rank adapters of single experts of a mixture: the slots in which its two stacks have them."""

from collections.abc import Callable

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.lora import LoRA, LoRAPart
from sglang.srt.layers_ms.quantization.base import Matrix
from sglang.srt.model_loader_ms.names import TensorNames


class ExpertsLoRA(LoRA):
    """What adapters add to one of the stacks of a mixture, gate and up or down, for ops.fused_experts.

    Place e * max_loras + s of lora_a, lora_b and ranks is what the adapter in slot s has for expert e of the rank.
    """

    def __init__(self, described: Callable, dtype, max_loras: int, rank: int):
        """described: function of nothing -> experts and what is known, as of expert_parts, where experts are now."""
        experts, _ = described()
        super().__init__([forms[0] for forms in experts[0]], dtype, len(experts) * max_loras, rank)
        self.described, self.max_loras = described, max_loras
        self.locate()
        ops.prepack_experts_lora(self.lora_a, self.lora_b, max_loras, self.widths)

    def locate(self) -> None:
        """Know where experts are now. What is in slots is still where they were."""
        self.experts, self.parts = map(tuple, self.described())

    def renew(self):
        super().renew()
        ops.prepack_experts_lora(self.lora_a, self.lora_b, self.max_loras, self.widths)

    process_weights_after_loading = renew

    def places(self, slot):
        return [(number * self.max_loras + slot, parts) for number, parts in enumerate(self.experts)]


def expert_parts(path: str, stack: Matrix, names: TensorNames) -> tuple[list, list[LoRAPart]]:
    """The experts of a stack [E, 2, n, h] or [E, h, n] at `path`, and all that adapters may have of the mixture.

    Of each expert there are the matrices that are multiplied as one, of each of these the forms in which an adapter may
    have it: those in which checkpoints have the stack, each expert for itself, or all of them as one parameter.
    """
    parts = stack.shape[1] if len(stack.shape) == 4 else 1
    found, known = [[{} for _ in range(parts)] for _ in range(stack.shape[0])], {}
    for slices in (stack.slices, *stack.alternatives):
        for one in slices:
            for place, part, form in _forms(path, one, names):
                known.setdefault((form.names, form.number), form)
                if form.width and place is not None:
                    found[place][part if parts > 1 else 0].setdefault(form.names, form)
    experts = [[tuple(forms.values()) for forms in matrices] for matrices in found]
    return experts, list(known.values())


def _forms(path, one, names):
    """(place in the stack or None, part, LoRAPart) of each matrix that a weight slice is of."""
    into = one.rows if isinstance(one.rows, tuple) else (one.rows,)
    out, inside = (-1, -2) if one.transposed else (-2, -1)
    known = tuple(name.removesuffix(".weight") for name in names.all_of(path, one.source))
    whole = one.whole[out], one.whole[inside]
    rows, columns = (slice(*one.read[axis].indices(one.whole[axis])) for axis in (out, inside))
    part = into[1] if len(into) > 1 and isinstance(into[1], int) else 0
    if len(one.whole) == 2:
        yield into[0], part, LoRAPart(known, whole, columns, (rows,))
        return
    numbers = range(*one.read[0].indices(one.whole[0]))
    places = range(into[0].start, into[0].stop) if isinstance(into[0], slice) else [into[0]]
    for number, place in zip(numbers, places, strict=True):
        yield place, part, LoRAPart(known, whole, columns, (rows,), one.whole[0], number)
