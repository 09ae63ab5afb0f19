"""A graph that refuses what MindSpore's would, on a device that is watched, and a server that schedules requests."""

from types import SimpleNamespace

import numpy as np
import torch
from ascend.watched import LEDGER, DeviceTensor, RecordingLink, on_device, on_host

from sglang.srt.layers_ms.ops.ascend import metadata
from sglang.srt.layers_ms.ops.metadata import FULL, INPUT_IDS, REQUESTS, SWA, TOKENS
from sglang.srt.model_executor_ms.npu.graph_runner import NPUGraphRunner, RunnerConfig
from sglang.srt.model_executor_ms.npu.states import StateSlots
from sglang.srt.model_executor_ms.npu.tables import BlockTables
from sglang.srt.model_executor_ms.npu.upload import UploadBuffer
from sglang.srt.model_executor_ms.runner.step import FIELDS, Entry, GraphOutputs, StepLayout

PAGE = 4
WINDOW = 6  # tokens that a layer with a window sees


class Refused(AssertionError):
    """The graph is called with what MindSpore's runtime would refuse, or silently do wrong or slowly."""


class FakeGraph:
    """Stands for a compiled graph: checks its inputs, caches tokens in slots, and sums up each token's context.

    Of two pools also what a window sees of the second one, and with states what a request's slot holds of all its
    tokens. A captured one has seen its shapes before it is sealed:
    tracing, capturing, then replaying at the same addresses. aux: whether it gives hidden states plus one too.
    """

    def __init__(self, cache: dict, layout: StepLayout, captured: bool = False, aux: bool = False):
        self.cache, self.layout, self.captured, self.aux = cache, layout, captured, aux
        self.sealed, self.seen, self.calls = False, {}, 0
        self.window_cache = cache.setdefault("windows", {})
        self.states = cache.get("states")

    def __call__(self, arrays):
        self.calls += 1
        inputs, lengths = self.layout.rows(arrays)
        self._check(inputs, lengths)
        if self.captured:
            self._check_capture(inputs)
        with LEDGER.unwatched():
            found = on_device(self._compute(arrays), torch.float32)
            return GraphOutputs(found, (found + 1,) if self.aux else ())

    def _check(self, inputs, lengths):
        for array in lengths:
            if not isinstance(array, np.ndarray) or array.dtype != np.int32:
                raise Refused("lengths that kernels read on the host are not an int32 array there")
        sizes = {TOKENS: int(lengths[0].sum()), REQUESTS: len(lengths[1])}
        for entry, tensor in zip(self.layout.inputs, inputs, strict=True):
            name, dtype = entry.field.name, getattr(torch, entry.field.dtype)
            if not isinstance(tensor, DeviceTensor):
                raise Refused(f"{name} is on the host: MindSpore copies it by itself, and not asynchronously")
            if tensor.dtype != dtype or not tensor.is_contiguous():
                raise Refused(f"{name} is {tensor.dtype}, contiguous: {tensor.is_contiguous()}")
            if tensor.ndim != len(entry.field.axes):
                raise Refused(f"{name} has {tensor.ndim} axes")
            for axis, size in zip(entry.field.axes, tensor.shape, strict=True):
                if sizes.setdefault(axis, size) != size:
                    raise Refused(f"{name}: {size} {axis}, elsewhere {sizes[axis]}")
        if (on_host(dict(zip(self.layout.inputs, inputs, strict=True))[POSITIONS]) < 0).any():
            raise Refused("a position is in no rotary table")

    def _check_capture(self, tensors):
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        addresses = [tensor.data_ptr() for tensor in tensors]
        runs, known = self.seen.get(shapes, (0, addresses))
        if self.sealed and runs < 3:
            raise Refused(f"shapes {shapes} were not captured before the server was ready")
        if runs and addresses != known:
            raise Refused("an input has moved since it was captured")
        self.seen[shapes] = (runs + 1, addresses)

    def _compute(self, arrays):
        (field,) = self.layout.model_inputs
        ids, query_lens, seq_lens = on_host(arrays[field.name]), arrays["query_lens"], arrays["seq_lens"]
        ids = ids[:, 0] if ids.ndim == 2 else ids
        caches, windows = (self.cache, self.window_cache), (10**6, WINDOW)
        found = [
            self._contexts(cache, arrays["attn"][pool], window, ids, query_lens, seq_lens)
            for pool, cache, window in zip(self.layout.pools, caches, windows, strict=False)
        ]
        if self.states is not None:
            found.append(self._states(arrays, ids, query_lens, seq_lens))
        return torch.tensor([*found, on_host(arrays["positions"]).tolist()], dtype=torch.float32).T

    def _states(self, arrays, ids, query_lens, seq_lens):
        """Of each token, the fingerprint of its request's tokens, of which the slot has that of the earlier ones."""
        found, starts = [], np.cumsum(query_lens) - query_lens
        slots, tracks, lens = (on_host(arrays[name]) for name in ("state_slots", "track_slots", "track_lens"))
        of_requests = zip(starts, query_lens, seq_lens, slots, tracks, lens, strict=True)
        for start, queries, length, slot, track, kept in of_requests:
            if length == 0 and (slot, track) != (0, -1):
                raise Refused("a padding row has a slot of states")
            states = [self.states.get(int(slot), 0)]
            for token in ids[start : start + queries]:
                states.append(after(states[-1], token))
            if track >= 0:
                self.states[int(track)] = states[kept]
            self.states[int(slot)] = states[-1]
            found += states[1:]
        return found

    @staticmethod
    def _contexts(cache, pool, window, ids, query_lens, seq_lens):
        """Of each token, the fingerprint of those that it sees in a pool."""
        for token, slot in zip(ids, on_host(pool["out_cache_loc"]), strict=True):
            if slot >= 0:
                cache[int(slot)] = int(token)
        found = []
        for table, queries, length in zip(on_host(pool["block_tables"]), query_lens, seq_lens, strict=True):
            for end in range(int(length - queries) + 1, int(length) + 1):
                seen = range(max(0, end - window), max(0, end))
                found.append(fingerprint(cache[int(table[place // PAGE]) * PAGE + place % PAGE] for place in seen))
        return found


def fingerprint(tokens) -> float:
    """Of tokens in order, exact in float32."""
    found = 0
    for token in tokens:
        found = after(found, token)
    return float(found)


def after(found: int, token) -> int:
    """The fingerprint of tokens with one more."""
    return (found * 31 + int(token) + 1) % 65521


DECODE, FRESH, CHUNK = "decode", "fresh", "chunk"


def parts(query_lens, seq_lens, together=False):
    """As ops.split_by_forward_mode of the Ascend table: steps that only decode, and others by whether requests have
    cached tokens."""
    rows, fresh = np.arange(len(query_lens)), (query_lens == seq_lens) & (query_lens > 1)
    if (query_lens == 1).all():
        return [(DECODE, rows)]
    single = (query_lens == 1)[~fresh].all()
    found = [(FRESH, rows[fresh]), (DECODE if single else CHUNK, rows[~fresh])]
    found = [(kind, chosen) for kind, chosen in found if len(chosen)]
    return [(CHUNK, rows)] if together and len(found) > 1 else found


POOLS = {False: ((FULL, FULL), (SWA, FULL)), True: ((FULL, FULL), (SWA, SWA))}  # whether windows have one
POSITIONS = Entry(FIELDS[0])


def layout_of(kind, windows=False, model_input=INPUT_IDS, attn_dp_size=1, padded=False, optional=()) -> StepLayout:
    """Of steps of the Ascend table."""
    possible = (*FIELDS, *metadata.metadata_fields(kind, attn_dp_size, padded))
    fields = tuple(field for field in possible if not field.optional or field.name in optional)
    return StepLayout((model_input,), fields, POOLS[windows], kind, padded)


def host_arrays(host) -> dict:
    """As runner.step's, of the Ascend table."""
    return {field.name: field.build(host) for field in FIELDS if field.build} | metadata.build_metadata(host)


class Scheduler:
    """Requests as SGLang schedules them: pages from a pool that knows no order, rows that are given again.

    windows: pages of a second pool, in which what windows have left behind is freed; 0: there is none. states: whether
    requests have slots of states, which begin with nothing.
    """

    def __init__(self, seed=0, rows=12, context=40, pages=400, windows=0, states=False):
        self.random = np.random.default_rng(seed)
        self.req_to_token = on_device(np.zeros((rows, context)))
        self.free_rows = list(range(1, rows))
        self.free_pages = list(self.random.permutation(np.arange(1, pages)))
        self.tokens, self.rows, self.slots = {}, {}, {}  # by request id
        self.states = {} if states else None  # by slot
        self.slots_of_requests = on_device(np.zeros(rows))
        self.free_states = list(self.random.permutation(np.arange(1, 2 * rows)))
        self.columns = 2 + bool(windows) + states  # of hidden states
        self.full_to_swa = on_device(np.zeros(pages * PAGE), torch.int64) if windows else None
        self.free_window_pages = list(self.random.permutation(np.arange(1, windows)))
        self.left = {}  # by request id: how many of its pages its window has left behind

    def start(self, rid, prompt):
        self.tokens[rid], self.rows[rid], self.slots[rid] = list(prompt), self.free_rows.pop(), []
        if self.states is not None:
            slot = self.free_states.pop(0)
            on_host(self.slots_of_requests)[self.rows[rid]], self.states[slot] = slot, 0

    def finish(self, rid):
        if self.states is not None:
            self.free_states.append(int(on_host(self.slots_of_requests)[self.rows[rid]]))
        self._leave(rid, len(self.slots[rid]) + WINDOW + PAGE)
        self.left.pop(rid, None)
        self.free_rows.append(self.rows.pop(rid))
        pages = {slot // PAGE for slot in self.slots.pop(rid)}
        self.free_pages += pages  # to be taken last: what is wrongly read there is still the old request's
        del self.tokens[rid]

    def batch(self, lengths: dict, decode=None):
        """lengths: by request, tokens in this step -> (ForwardBatch, ids, the hidden states that are right)."""
        ids, out, wanted, seq_lens = [], [], [], []
        for rid, count in lengths.items():
            slots, tokens = self.slots[rid], self.tokens[rid]
            first = len(slots)
            self._leave(rid, first)
            for place in range(first, first + count):
                slots.append(slots[-1] + 1 if place % PAGE else self.free_pages.pop(0) * PAGE)
                windows = self._give(slots[-1], tokens[max(0, place + 1 - WINDOW) : place + 1])
                seen = fingerprint(tokens[: place + 1])
                wanted.append([seen, *windows, *([] if self.states is None else [seen]), place])
            on_host(self.req_to_token)[self.rows[rid], : len(slots)] = slots
            ids += tokens[first : first + count]
            out += slots[first:]
            seq_lens.append(len(slots))
        decodes = all(count == 1 for count in lengths.values()) if decode is None else decode
        batch = SimpleNamespace(
            forward_mode=SimpleNamespace(is_decode_or_idle=lambda: decodes, is_target_verify=lambda: False),
            seq_lens_cpu=torch.tensor(seq_lens, dtype=torch.int64),
            extend_seq_lens_cpu=None if decodes else list(lengths.values()),
            out_cache_loc=on_device(out),
            req_pool_indices=on_device([self.rows[rid] for rid in lengths], torch.int64),
            rids=list(lengths),
            is_extend_in_batch=not decodes,
            mamba_track_mask=None,
        )
        return batch, on_device(ids, torch.int64), np.array(wanted, np.float32).reshape(-1, self.columns)

    def _give(self, slot, seen):
        """A slot in the second pool -> the fingerprint of what a window sees, if there is one."""
        if self.full_to_swa is None:
            return []
        mapping = on_host(self.full_to_swa)
        mapping[slot] = mapping[slot - 1] + 1 if slot % PAGE else self.free_window_pages.pop(0) * PAGE
        return [fingerprint(seen)]

    def _leave(self, rid, length):
        """Free the pages of which no window of a token after the first `length` sees anything."""
        behind = (length + 1 - WINDOW) // PAGE
        if self.full_to_swa is None:
            return
        mapping = on_host(self.full_to_swa)
        for slot in self.slots[rid][self.left.get(rid, 0) * PAGE : max(behind, 0) * PAGE]:
            if slot % PAGE == 0:
                self.free_window_pages.insert(0, int(mapping[slot]) // PAGE)  # to be taken next
            mapping[slot] = 0
        self.left[rid] = max(behind, 0)

    def decode(self, rids):
        for rid in rids:
            self.tokens[rid].append(int(self.random.integers(0, 99)))
        return self.batch(dict.fromkeys(rids, 1), decode=True)


def runner(
    scheduler,
    buckets=(2, 4, 8),
    requests=10,
    model_input=INPUT_IDS,
    longest=None,
    attn_dp_size=1,
    aux=False,
    made_of=lambda fake, captured: fake,
):
    """A runner over fake graphs, captured and sealed. Of hidden states that it begins with, the first is the id.

    made_of(fake, captured): the graph that it calls.
    """
    cache, link, windows = {}, RecordingLink(), scheduler.full_to_swa is not None
    states = None if scheduler.states is None else state_slots(link, scheduler)
    if states:
        cache["states"] = scheduler.states
    made = (field.name for field in metadata.metadata_fields() if field.optional)
    optional = ("state_slots", "track_slots", "track_lens", *made) if states else ()

    def graph(kind, captured=False):
        layout = layout_of(kind, windows, model_input, attn_dp_size, captured, optional)
        return FakeGraph(cache, layout, captured, aux)

    fake, graphs = graph(DECODE, captured=True), {kind: graph(kind) for kind in (DECODE, FRESH, CHUNK)}
    tables = BlockTables(link, scheduler.req_to_token, PAGE, requests, 10, scheduler.full_to_swa)
    config = RunnerConfig(parts, host_arrays, buckets, longest, attn_dp_size)
    given = {kind: made_of(one, False) for kind, one in graphs.items()}
    made = NPUGraphRunner(given, made_of(fake, True), link, UploadBuffer(link, 8192), tables, config, states)
    with LEDGER.unwatched():
        made.capture(pages=6, vocab_size=99)
    fake.sealed, graphs[DECODE].calls = True, 0
    fake.window_cache.clear()
    cache.clear()
    return made


def state_slots(link, scheduler) -> StateSlots:
    """Those of a scheduler, as of a pool of memory."""
    own = dict(slots_of_requests=scheduler.slots_of_requests, slots=6, clear=scheduler.states.clear)
    return StateSlots(link, SimpleNamespace(**own))


def wrapped(graph, call):
    """A function in the place of a graph."""
    call.layout = graph.layout
    return call
