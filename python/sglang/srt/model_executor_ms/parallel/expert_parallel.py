"""Reads from the arguments how experts are placed and how tokens reach them."""


def dispatches(moe) -> bool:
    """Whether tokens are dispatched only to the ranks of their experts. moe: the arguments, or get_exec().moe."""
    return moe.moe_a2a_backend != "none"


def uses_eplb(moe) -> bool:
    """Whether experts are replicated, moved or counted (SGLang's EPLB). moe: the arguments, or get_exec().moe."""
    return bool(
        moe.ep_num_redundant_experts
        or moe.init_expert_location != "trivial"
        or moe.enable_eplb
        or moe.expert_distribution_recorder_mode
    )
