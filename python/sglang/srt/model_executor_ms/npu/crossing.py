"""Whether a tensor on a card is the same memory to torch and to MindSpore."""

import torch

from sglang.srt.model_executor_ms.runner import bridge


def lost(device: str) -> str | None:
    """What is lost of a bfloat16 tensor of torch's on `device` on its way to MindSpore and back; None: nothing.

    Values, the address, and that each sees what the other writes later.
    """
    values = [1.0, -2.5, 3.25, 0.0]
    sent = torch.tensor(values, dtype=torch.bfloat16, device=device)
    seen = bridge.to_mindspore(sent)
    back = bridge.to_torch(seen)
    if back.dtype != sent.dtype or str(seen.dtype) != "BFloat16":
        return f"it is {seen.dtype} to MindSpore, and {back.dtype} again"
    if back.data_ptr() != sent.data_ptr():
        return "it comes back at another address: a copy"
    if back.float().tolist() != values:
        return f"{values} come back as {back.float().tolist()}"
    sent += 1.0
    written = [value + 1.0 for value in values]
    if back.float().tolist() != written:
        return "what torch writes later is not seen"
    return None
