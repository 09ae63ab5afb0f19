"""What the operators of low-rank adapters compute: a part of contract.py, whose conventions hold here too."""

from mindspore import Tensor


def add_lora(
    y: Tensor, x: Tensor, slots: Tensor, lora_a: Tensor, lora_b: Tensor, ranks: Tensor, parts: tuple[int, ...]
) -> Tensor:
    """y [T, out], plus what the adapter of each row makes of x [T, in] -> [T, out]. Hu et al., 2021 (LoRA).

    slots [T]: which of S adapters each row has; of -1 the row stays as it is, bit for bit. parts: how many columns of
    y each of P matrices has that are multiplied as one. lora_a [P, S, r, in]; lora_b [S * r * out] has of each part,
    one behind the other, [S, r, columns]. ranks [S]: what comes after so many of r rows is zero.

    fused_experts and quant_experts take `lora`, (slots, lora_a, lora_b, ranks, lora_a, lora_b, ranks): for gate and up,
    which are two parts, and for down. Place e * S + s of the factors is what adapter s has for expert e of the stacks.
    It is added to the products before they are activated and weighted. mla_attention takes (slots, lora_a, lora_b,
    ranks) of one part, for what makes keys and values of latent rows: its columns are those of all heads' keys, and
    then those of their values. All tokens of a request have one slot. Rows of slot -1 stay as they are there, too.
    """
