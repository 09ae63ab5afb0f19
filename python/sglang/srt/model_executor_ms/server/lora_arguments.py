"""Checks the arguments for low-rank adapters."""

from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag


def check_lora(arguments) -> None:
    """UnsupportedFlag for adapters beside what they were not made for."""
    if not arguments.enable_lora and not arguments.lora_paths:
        return
    if arguments.is_embedding:
        raise UnsupportedFlag("--enable-lora with --is-embedding: adapters are not served so yet")
    if arguments.enable_dp_attention or arguments.attn_dp_size > 1:
        _check_replicas(arguments)


def _check_replicas(arguments) -> None:
    """As SGLang 0.5.23 has adapters in replicas of attention: pinned ones, of replicas of one rank."""
    beside = "--enable-lora with --enable-dp-attention"
    if arguments.device == "npu":
        raise UnsupportedFlag(f"{beside}: SGLang serves it with triton's kernels only, and this backend on CPUs")
    if arguments.attn_dp_size != arguments.tp_size:
        raise UnsupportedFlag(
            f"{beside}: --tp-size {arguments.tp_size} must be the number of replicas, {arguments.attn_dp_size}"
        )
    paths = arguments.lora_paths
    loose = [one for one in (paths or ()) if isinstance(paths, dict) or not _pinned(one)]
    if loose or not paths:
        given = f"{loose[0]} is not" if loose else "none is given"
        raise UnsupportedFlag(
            f"{beside}: adapters are pinned, and {given}: --lora-paths "
            """'{"lora_name": "NAME", "lora_path": "FOLDER", "pinned": true}'"""
        )


def _pinned(one) -> bool:
    return bool(one.get("pinned") if isinstance(one, dict) else getattr(one, "pinned", False))
