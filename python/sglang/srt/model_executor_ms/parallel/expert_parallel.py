"""What the arguments say of where experts are, and of how tokens get to them."""


def dispatches(moe) -> bool:
    """Whether arguments, or get_exec().moe, have tokens sent to the ranks that hold their experts, and to no others."""
    return moe.moe_a2a_backend != "none"


def uses_eplb(moe) -> bool:
    """Whether arguments, or get_exec().moe, give experts other places than one each in order, or count their tokens."""
    return bool(
        moe.ep_num_redundant_experts
        or moe.init_expert_location != "trivial"
        or moe.enable_eplb
        or moe.expert_distribution_recorder_mode
    )
