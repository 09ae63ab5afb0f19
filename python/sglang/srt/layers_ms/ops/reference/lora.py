"""Low-rank adapters, each computed for all rows, of which those that have it are taken."""

from mindspore import mint


def add_lora(y, x, slots, lora_a, lora_b, ranks, parts):
    loras, rank = lora_a.shape[1], lora_a.shape[2]
    columns, begin = (), 0
    for place, width in enumerate(parts):
        b = lora_b[begin : begin + loras * rank * width].reshape(loras, rank, width)
        added = mint.matmul(mint.matmul(x, mint.transpose(lora_a[place, 0], 0, 1)), b[0])
        for slot in range(1, loras):
            one = mint.matmul(mint.matmul(x, mint.transpose(lora_a[place, slot], 0, 1)), b[slot])
            added = mint.where(mint.unsqueeze(slots == slot, 1), one, added)
        columns, begin = columns + (added,), begin + loras * rank * width
    return mint.where(mint.unsqueeze(slots < 0, 1), y, y + mint.cat(columns, 1))
