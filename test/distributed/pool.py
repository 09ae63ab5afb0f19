"""A standing pool of processes that are the ranks of one small model after another, as SGLang's groups divide it.

They load, compute and add up with what a server's ranks use, but for SGLang around it: the loader, Shard and Stage, the
C++ operators and their collectives over shared memory. Operators run one by one; a graph would take seconds a model.
"""

import functools
import multiprocessing
import os
from collections import Counter
from typing import NamedTuple

import numpy as np

PATIENCE = 60.0  # seconds for which ranks wait for each other
PROMPT_CHUNK, NEW_TOKENS, PAGE_SIZE = 33, 6, 4


class Layout(NamedTuple):
    """How many ranks divide a model: tp in each of pp stages; of experts, ep parts; of attention, replicas."""

    tp: int = 1
    pp: int = 1
    ep: int = 1
    places: tuple = ()  # of experts, as Shard's
    attn_dp_size: int = 1  # each of which has a head of its own
    dispatch: bool = False  # whether rows go to the ranks of their experts only

    def shard(self, rank: int):
        """The share of rank `rank`."""
        from sglang.srt.distributed_ms.shard import Shard

        if self.tp == 1:
            return Shard()
        divided = (self.ep, self.places, self.attn_dp_size, self.attn_dp_size > 1, self.dispatch)
        return Shard(rank % self.tp, self.tp, str(self.tp), *divided)

    def replica(self, rank: int) -> int:
        """Which replica rank `rank` is of."""
        return rank % self.tp // (self.tp // self.attn_dp_size)

    def owners(self, steps: list) -> list:
        """Of each step the replica of each request [B]: 0 for those of the first step, the last for later ones."""
        first = set(_tables(steps[0][1])[:, 0].tolist())  # a request is known by its first page
        later = [[page not in first for page in _tables(step)[:, 0].tolist()] for _, step in steps]
        return [np.array(each) * (self.attn_dp_size - 1) for each in later]

    def steps(self, steps: list, rank: int, page_size: int = PAGE_SIZE) -> list:
        """What rank `rank` is given of steps [(ids, step)]."""
        if self.attn_dp_size == 1:
            return steps
        shares = zip(steps, self.owners(steps), strict=True)
        return [_part(*step, owners, self.replica(rank), self.attn_dp_size, page_size) for step, owners in shares]

    def rows(self, steps: list, found: dict) -> list:
        """What ranks said of each step, {rank: [rows, and a part of the vocabulary]} -> [all rows and columns]."""
        joined = []
        for number, ((_, step), owners) in enumerate(zip(steps, self.owners(steps), strict=True)):
            parts = [[] for _ in range(self.attn_dp_size)]
            for rank, said in sorted(found.items()):
                parts[self.replica(rank)].append(said[number])
            rows = np.concatenate([np.concatenate(part, -1) for part in parts])
            order = np.argsort(owners[step.host.request_ids], kind="stable")  # which a replica's tokens keep
            joined.append(rows[np.argsort(order)])
        return joined


def _part(ids, step, owners, replica, attn_dp_size, page_size):
    """The part of a step that is one replica's."""
    from sglang.srt.model_executor_ms.runner.step_inputs import step_inputs

    mine, slots = owners == replica, step.arrays["attn"]["full"]["out_cache_loc"]
    tokens = mine[step.host.request_ids]
    counts = tuple(int(step.host.query_lens[owners == each].sum()) for each in range(attn_dp_size))
    table = np.repeat(_tables(step)[mine] * page_size, page_size, axis=1)
    sizes = (step.host.query_lens[mine], step.host.seq_lens[mine], slots[tokens], table, page_size)
    adapters, dp_adapters = step.host.lora_slots, None
    if adapters is not None:
        of_tokens = adapters[step.host.request_ids]
        dp_adapters = np.concatenate([of_tokens[owners[step.host.request_ids] == each] for each in range(attn_dp_size)])
        adapters = adapters[mine]
    more = dict(dp_tokens=counts, lora_slots=adapters, dp_lora_slots=dp_adapters)
    return ids[tokens], step_inputs(*sizes, **more)


def _tables(step) -> np.ndarray:
    return step.arrays["attn"]["full"]["block_tables"]


class RankFailed(Exception):
    """A rank raised an exception."""


class Pool:
    """`size` processes; rank r of a layout is member r % tp of stage r // tp."""

    def __init__(self, size: int, rank_class=None):
        """rank_class: Rank, or one that prepares its steps in another way."""
        context = multiprocessing.get_context("forkserver")  # which imports once for all of them
        context.set_forkserver_preload(["sglang.srt.model_executor_ms.runner.causal_lm"])
        boards = [context.Queue() for _ in range(size)]
        self.pipes, self.processes, self.boards = [], [], boards
        for rank in range(size):
            ours, theirs = context.Pipe()
            arguments = (rank_class or Rank, rank, boards, theirs)
            self.processes.append(context.Process(target=_serve, args=arguments, daemon=True))
            self.pipes.append(ours)
            self.processes[-1].start()

    def call(self, function, arguments: dict) -> dict:
        """{rank: arguments} -> {rank: what function(state, *arguments) returned}; RankFailed with what it said."""
        for rank, given in arguments.items():
            self.pipes[rank].send((function, given))
        failures, results = {}, {}
        for rank in arguments:
            failures[rank], results[rank] = self.pipes[rank].recv()
        said = [f"rank {rank}: {failure}" for rank, failure in failures.items() if failure]
        if said:
            raise RankFailed("; ".join(said))
        return results

    def alone(self, folder, hidden_states=False):
        """The whole model on rank 0 -> steps of some requests, and what it says after each: [(ids, step)], [rows]."""
        return self.call(_alone, {0: (folder, hidden_states)})[0]

    def together(self, folder, layout: Layout, steps: list, hidden_states=False) -> list:
        """The model on all ranks of a layout -> what it says after each of the steps."""
        self.call(_load, {rank: (folder, layout, rank) for rank in range(layout.tp * layout.pp)})
        return self.again(layout, steps, hidden_states)

    def move(self, layout: Layout, places: tuple, meeting) -> None:
        """Let SGLang's EPLB move the experts of the model that is loaded to other places; meeting: a new file."""
        ranks = range(layout.tp)
        self.call(_move, dict.fromkeys(ranks, (layout, places, meeting)))

    def again(self, layout: Layout, steps: list, hidden_states=False) -> list:
        """What the model that is loaded says after each of the steps."""
        inputs = dict.fromkeys(range(layout.tp))
        for stage in range(layout.pp):
            ranks = range(stage * layout.tp, (stage + 1) * layout.tp)
            found = self.call(_replay, {rank: (layout, steps, inputs[rank], hidden_states) for rank in ranks})
            inputs = {rank + layout.tp: result for rank, result in found.items()}
        return found[ranks[0]] if hidden_states else layout.rows(steps, found)

    def close(self):
        for process in self.processes:
            process.kill()
            process.join()


def _serve(rank_class, rank, boards, pipe):
    state = rank_class(rank, boards)
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send((None, function(state, *arguments)))
        except Exception as error:
            pipe.send((f"{type(error).__name__}: {error}", None))


class Rank:
    """MindSpore as on a rank, and the groups of two and of all ranks, with two replicas of attention in each."""

    table, page_size = "cpu", PAGE_SIZE

    def __init__(self, rank, boards):
        from sglang.srt.model_executor_ms.runner import device

        device.start("cpu", self.table, sorted(os.sched_getaffinity(0))[:1])
        self.rank, self.boards, self.part = rank, boards, None
        self.early, self.calls = {}, Counter()  # of the ranks that call together
        for size in (2, len(boards)):
            self._join(Layout(tp=size, attn_dp_size=2).shard(rank), rank // size * size)

    def _join(self, shard, first):
        from sglang.srt.layers_ms import ops

        for name, ranks in shard.groups.items():
            members = [first + rank for rank in ranks]
            gather = functools.partial(self._gather, members=members)
            ops.init_group(name, members.index(self.rank), len(members), gather, PATIENCE)

    def _gather(self, value, members):
        call = (*members, self.calls[tuple(members)])
        self.calls[tuple(members)] += 1
        for member in members:
            self.boards[member].put((call, self.rank, value))
        found = self.early.pop(call, {})
        while len(found) < len(members):
            sent, rank, value = self.boards[self.rank].get(timeout=PATIENCE)
            (found if sent == call else self.early.setdefault(sent, {}))[rank] = value
        return [found[member] for member in members]

    def part_of(self, folder, stage, shard):
        """What this rank has of the model."""
        from models.parts import Part

        return Part(folder, stage, shard=shard, compiled=False)

    def says(self, inputs, step, hidden_states, extends=None):
        """extends: whether a request of any attention replica has more than one token."""
        part = self.part
        if hidden_states or part.head is None:
            return part.run(inputs, step).numpy()
        return part.logits(inputs, step)


def _load(state, folder, layout, rank):
    from sglang.srt.distributed_ms.stage import Stage

    state.part = None  # the last one's memory
    state.part = state.part_of(folder, Stage(rank // layout.tp, layout.pp), layout.shard(rank))


def _move(state, layout, places, meeting):
    import torch

    from sglang.srt.eplb.expert_location_updater import create_temp_buffers, update_expert_weights_single_layer
    from sglang.srt.layers_ms import ops
    from sglang.srt.model_executor_ms.runner import eplb

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", f"file://{meeting}", rank=state.rank, world_size=layout.tp)
    for layer, experts in eplb.eplb_layers(state.part.network).items():
        before = list(layout.places[layer])
        sizes = dict(num_local_physical_experts=len(before) // layout.tp, num_gpu_per_node=layout.tp)
        ranks = dict(rank=state.rank, world_size=layout.tp)
        with eplb.movable_weights(experts) as tensors:
            update_expert_weights_single_layer(
                tensors, create_temp_buffers(tensors), before, list(places[layer]), **sizes, **ranks
            )
        experts.set_physical_experts(places[layer])
        ops.renew(experts.logical_to_physical_map)
        state.part.adapters.follow_experts(experts)


def _replay(state, layout, steps, inputs, hidden_states):
    """inputs: of each step what the stage before gave; None: it is the first."""
    import torch

    state.part.forget()
    found, whole = [], steps
    steps = layout.steps(whole, state.rank, state.page_size)
    for given, (_, step), (_, all_of_it) in zip(inputs or [ids for ids, _ in steps], steps, whole, strict=True):
        given = torch.from_numpy(given) if inputs else given
        found.append(state.says(given, step, hidden_states, bool((all_of_it.host.query_lens > 1).any())))
    return found


class _Recorded:
    """In the place of a PagedModel: notes steps and what the model says after them."""

    def __init__(self, state, hidden_states):
        self.state, self.hidden_states = state, hidden_states
        self.steps, self.rows = [], []

    @property
    def keeps_states(self):
        return self.state.part.caches.states is not None

    def start_state(self, slot, source=None):
        assert source is None, "ranks begin with states of nothing"

    def forget(self):
        self.state.part.forget()

    def logits(self, ids, step):
        found = self.state.says(ids, step, self.hidden_states)
        if not self.hidden_states:
            found = found[:, : self.state.part.config.vocab_size]
        self.steps.append((ids, step))
        self.rows.append(found)
        return found


def _alone(state, folder, hidden_states):
    """A chunk of a prompt, the rest of it beside other prompts, greedy tokens of all of them, and of one only."""
    from models.harness import Requests
    from models.test_logits import prompts

    _load(state, folder, Layout(), 0)
    model, ids = _Recorded(state, hidden_states), prompts()
    requests, vocab_size = Requests(model, state.page_size), state.part.config.vocab_size
    requests.lora_slots = {"long": 0, "one": 1}  # which only networks with adapters read
    requests.step({"long": ids["long"][:PROMPT_CHUNK], "short": ids["short"][:-1]})
    said = requests.step({"short": ids["short"][-1:], "one": ids["one"], "long": ids["long"][PROMPT_CHUNK:]})
    for _ in range(NEW_TOKENS):
        said = requests.step({request: rows[-1:].argmax(-1) % vocab_size for request, rows in said.items()})
    requests.step({"one": said["one"][-1:].argmax(-1) % vocab_size})  # while the others have ended
    return model.steps, model.rows
