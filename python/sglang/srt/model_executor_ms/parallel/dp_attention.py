"""Replicas of attention (--attn-dp-size): the sleep of an idle one."""

from sglang.srt.runtime_context import get_parallel

IDLE = 10  # milliseconds for which an idle replica looks at nothing but its own requests


def sleep_briefly(original, sleeper) -> None:
    """Around IdleSleeper.maybe_sleep: replicas step together, and one that slept would keep the others waiting."""
    if get_parallel().attn_dp_size == 1:
        original(sleeper)
    else:
        sleeper.poller.poll(IDLE)
