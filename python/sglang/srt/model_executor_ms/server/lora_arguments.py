"""Checks the arguments for low-rank adapters."""

from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag


def check_lora(arguments) -> None:
    """UnsupportedFlag for adapters beside what they were not made for."""
    if not arguments.enable_lora and not arguments.lora_paths:
        return
    beside = {
        "--enable-dp-attention": arguments.enable_dp_attention or arguments.attn_dp_size > 1,
        "--pp-size": arguments.pp_size > 1,
        "--is-embedding": arguments.is_embedding,
    }
    for flag, given in beside.items():
        if given:
            raise UnsupportedFlag(f"--enable-lora with {flag}: adapters are not served so yet")
