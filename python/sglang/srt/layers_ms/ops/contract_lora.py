"""What the operators of low-rank adapters compute: a part of contract.py, whose conventions hold here too."""

from mindspore import Tensor


def add_lora(
    y: Tensor, x: Tensor, slots: Tensor, lora_a: Tensor, lora_b: Tensor, ranks: Tensor, parts: tuple[int, ...]
) -> Tensor:
    """y [T, out], plus what the adapter of each row makes of x [T, in] -> [T, out]. Hu et al., 2021 (LoRA).

    slots [T]: which of S adapters each row has; of -1 the row stays as it is, bit for bit. parts: how many columns of
    y each of P matrices has that are multiplied as one. lora_a [P, S, r, in]; lora_b [S * r * out] has of each part,
    one behind the other, [S, r, columns]. ranks [S]: what comes after so many of r rows is zero.
    """
