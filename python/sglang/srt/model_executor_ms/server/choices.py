"""Several answers to one prompt, `n`, with one seed: each has a seed of its own, and the same one the next time."""

from collections import OrderedDict

SEED = 42  # SGLang's, of a request that has none
MASK = (1 << 64) - 1
KEPT = 1024  # of the requests that were sent last

_sent: OrderedDict[int, tuple] = OrderedDict()  # by id: the parameters, and how many answers with them were asked for


def own_seed(shared) -> int | None:
    """The seed of one of the n answers to a request, which share their parameters; None: the request's own."""
    from sglang.srt.runtime_context import get_exec

    if not get_exec().deterministic.enable_deterministic_inference or shared.n == 1:
        return None
    _, before = _sent.pop(id(shared), (shared, 0))
    _sent[id(shared)] = shared, before + 1
    if len(_sent) > KEPT:
        _sent.popitem(last=False)
    return of_choice(shared.sampling_seed, before) if before else None


def of_choice(seed: int | None, choice: int) -> int:
    """The seed of an answer that is not the first: SplitMix64, of 0 to 2^63 - 1."""
    mixed = ((SEED if seed is None else seed) + choice * 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    return (mixed ^ (mixed >> 31)) >> 1
