"""Layers with a state, of stock kernels: MindSpore has none for them.

A convolution's states are a table of rows [slots * (K - 1), C]: of each slot the earlier values, the latest first.
Behind the rows of a step's tokens lie those of its requests' states, first the latest of each request, then those
before. So the host knows in which row any earlier value is (`conv_rows`), and no row is padded.
"""

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.layers_ms.ops.metadata import REQUESTS, TOKENS, Field

WIDE = mstype.float32
MOST = host.LARGEST_WINDOW
EARLIER_ROWS = tuple(
    f"earlier_rows_{distance + 1}" for distance in range(MOST)
)  # of the value so far before each token
LAST_ROWS = tuple(f"last_rows_{place + 1}" for place in range(MOST))  # of each request's latest values, and
KEPT_ROWS = tuple(f"kept_rows_{place + 1}" for place in range(MOST))  # of those behind the tokens that a track counts


def conv_fields(forward_mode):
    """What convolutions read of a step."""
    of_requests = LAST_ROWS if host.decodes(forward_mode) else (*LAST_ROWS, *KEPT_ROWS)
    fields = [Field(name, (TOKENS,), optional=True) for name in EARLIER_ROWS]
    return (*fields, *(Field(name, (REQUESTS,), optional=True) for name in of_requests))


def conv_rows(step) -> dict:
    """The arrays of `conv_fields` of a HostStep."""
    tokens, requests = step.num_tokens, np.arange(len(step.query_lens), dtype=np.int32)
    starts = np.cumsum(step.query_lens, dtype=np.int32) - step.query_lens

    def rows(numbers, of):
        """Of the tokens `numbers` of requests `of` in the step; negative ones are before it."""
        return np.where(numbers < 0, tokens - (numbers + 1) * len(requests) + of, starts[of] + numbers)

    numbers = np.arange(tokens, dtype=np.int32) - starts[step.request_ids]
    arrays = {name: rows(numbers - place, step.request_ids) for place, name in enumerate(EARLIER_ROWS, 1)}
    arrays |= {name: rows(step.query_lens - place, requests) for place, name in enumerate(LAST_ROWS, 1)}
    if not host.decodes(step.forward_mode):  # there the tokens that count are all: one
        kept = np.zeros_like(step.query_lens) if step.tracks is None else step.tracks[1]
        arrays |= {name: rows(kept - place, requests) for place, name in enumerate(KEPT_ROWS, 1)}
    return {name: array.astype(np.int32) for name, array in arrays.items()}


@constexpr
def _column(count):
    return Tensor(np.arange(count, dtype=np.int32).reshape(count, 1))


@constexpr
def _number(value):
    return Tensor(np.array([value], np.int32))


def _places(slots, window):
    """The rows of slots [B] in a table of states: the latest value of each, then the one before it, ..."""
    return kernels.add(kernels.mul(slots.reshape(1, -1), window), _column(window)).reshape(-1)


def _joined(step, names, count):
    return kernels.cat([step[name].reshape(1, -1) for name in names[:count]]).reshape(-1)


def second_slots(step):
    """The slot for the state behind some of a request's tokens; of a request without one, its own, which follows."""
    tracks = step["track_slots"]
    return kernels.select(kernels.greater(tracks, -1), tracks, step["state_slots"])


def _conv(x, weight, bias, state, step):
    """The convolution of x [T, C] -> float32 [T, C]; the state is left behind the step's tokens."""
    channels, _, width = weight.shape
    window = width - 1
    places = _places(step["state_slots"], window)
    rows = kernels.append_rows(kernels.cast(x, state.dtype), kernels.gather(state, places))
    wide, taps = kernels.cast(rows, WIDE), kernels.cast(weight.reshape(channels, width), WIDE)
    taps = kernels.contiguous(kernels.swap(taps))
    y = kernels.mul(kernels.cast(x, WIDE), kernels.gather(taps, _number(window)))
    for distance in range(1, width):
        earlier = kernels.gather(wide, step[EARLIER_ROWS[distance - 1]])
        y = kernels.add(y, kernels.mul(earlier, kernels.gather(taps, _number(window - distance))))
    y = y if bias is None else kernels.add(y, kernels.cast(bias, WIDE))
    last = kernels.gather(rows, _joined(step, LAST_ROWS, window))
    decodes = host.decodes(step["forward_mode"])
    kept = last if decodes else kernels.gather(rows, _joined(step, KEPT_ROWS, window))
    written = kernels.put_rows(state, _places(second_slots(step), window), kept)
    return kernels.depend(y, kernels.put_rows(state, kernels.depend(places, written), last))


def causal_conv(x, weight, bias, state, step, intermediate=None):
    y = _conv(x, weight, bias, state, step)
    return kernels.cast(kernels.mul(y, kernels.sigmoid(y)), x.dtype)


def short_conv(x, weight, bias, state, step, intermediate=None):
    channels = weight.shape[0]
    before, after, values = kernels.split(x, (channels, channels, channels))
    y = _conv(kernels.mul(before, values), weight, bias, state, step)
    return kernels.cast(kernels.mul(y, kernels.cast(after, WIDE)), x.dtype)
