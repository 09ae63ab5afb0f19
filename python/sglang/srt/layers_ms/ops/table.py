"""An operator table: what a device computes the operators of contract.py with, and what it wants of its caller.

A table is a class. Its operators are functions of the modules that it is declared with, as MindSpore compiles what
layers call; its methods are called on the host. What a table does not have it inherits: of a parent table only what it
says that it takes as it is, so that nothing falls back unseen.
"""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import NamedTuple

import numpy as np
from mindspore import Tensor

from sglang.srt.layers_ms.ops import contract
from sglang.srt.layers_ms.ops.host_rows import RowCopy, copy_rows_of_host
from sglang.srt.layers_ms.ops.metadata import Field, HostStep

OPERATORS = tuple(name for name, value in vars(contract).items() if inspect.isfunction(value))


class OperatorTableError(Exception):
    """A table is incomplete, or one of its operators has another signature than the contract."""


class SingleBlock(NamedTuple):
    """Graphs in which decode attends to one block of keys in the place of a loop over blocks."""

    forward_mode: str
    max_context: int  # tokens
    max_requests: int


@dataclass(frozen=True)
class Capabilities:
    """What a table can do, as far as its callers decide by it."""

    device: str = "cpu"  # in messages
    compute_dtypes: Mapping[str, str] = field(default_factory=dict)  # asked for -> computed in; none is less exact
    kv_cache_dtypes: tuple[str, ...] = ("auto",)  # SGLang's names, that attention reads; "auto": as queries
    compiled: bool = True  # whether graphs are compiled; else operators run one by one, and can look at values
    static_graphs: bool = False  # whether graphs have one shape; the step says how much of it counts
    captures: bool = True  # whether the device can capture decode graphs
    # Numbers of ranks, of one host, for which `linear_add_rms_norm` is better than the three by themselves.
    all_reduce_norm_fusion: tuple[int, ...] = ()
    single_block: SingleBlock | None = None  # what captures attention that is a loop; None: nothing
    fractal_weights: bool = False  # whether matrices are kept in a layout of the device's own
    multi_host: bool = True  # whether ranks on several hosts reach each other
    triton: bool = False  # whether SGLang's kernels that hand out pages run
    experts_lora: bool = False  # whether fused_experts and quant_experts take adapters
    latent_lora: bool = False  # whether mla_attention does
    intermediate_states: bool = False  # whether operators with a state keep that behind each draft


class OperatorTable:
    """What every table has. Methods that return here suit a table that takes any model, weight and cache as it is."""

    capabilities = Capabilities()

    def __init_subclass__(
        cls, operators: Sequence[ModuleType] = (), inherits: Sequence[str] | None = None, **options
    ) -> None:
        """operators: modules; their functions with a name of a table's are the table's, the last module's of several.

        inherits: the operators and methods that it takes from its parent table; None: all, as a variant of it does. An
        operator that is neither its own nor among these raises OperatorTableError where it is called. A method that is
        not, or that has no default, raises it here, as does another signature than the contract's.
        """
        super().__init_subclass__(**options)
        for name in (*OPERATORS, *METHODS):
            for module in operators:
                if inspect.isfunction(function := getattr(module, name, None)):
                    setattr(cls, name, staticmethod(function))
            if not _has(cls, name, inherits):
                setattr(cls, name, staticmethod(_lacking(cls, name)))
            _check_signature(cls, name)

    @classmethod
    def inherited(cls) -> list[str]:
        """The operators that are a parent table's."""
        return [name for name in OPERATORS if name not in vars(cls)]

    @classmethod
    def lacking(cls) -> list[str]:
        """The operators that it has not."""
        return [name for name in OPERATORS if getattr(getattr(cls, name), "lacking", False)]

    # ---- the process, its groups of ranks, and what can be seen of it ----

    @abstractmethod
    def start(self, processors: Sequence[int]) -> None:
        """Called once in a process, before any other: the processors to compute on, with a thread on each."""

    @abstractmethod
    def init_group(
        self,
        group: str,
        rank: int,
        size: int,
        all_gather_object: Callable[[object], list],
        timeout: float = 300.0,
        nodes: Sequence[int] = (),
        exchange: Callable[[int, int, int], None] | None = None,
    ) -> None:
        """Join the communication group `group`, as `rank` of `size`, before a graph that uses it is built.

        all_gather_object: gives every rank the objects that all of them call it with, in the order of the ranks.
        timeout: seconds for which a rank waits for the others in a collective. nodes: the host of each rank, as many
        ranks on each; (): there is one. exchange(address, stride, bytes): called by the first rank of each host with
        rows of bytes at `address`, one a rank and each `stride` bytes behind the one before, of which those of its host
        are filled: fills the others.

        Raises RuntimeError, on every rank, if the group cannot be made; NotImplementedError where a table has no
        groups.
        """

    def column_gather(self, group: str) -> Callable[[Tensor], Tensor] | None:
        """What puts the columns of a group's ranks side by side: x [T, n], as wide on all ranks -> [T, ranks * n].

        Called outside graphs, on all ranks, with as many rows, and raises RuntimeError where one is missing. None where
        a table leaves that to SGLang's communicators.
        """
        return None

    def host_logits(self, weight: Tensor) -> Callable[[int, int, int], None] | None:
        """What computes `logits` of rows in the host's memory: f(address of x [T, k], T, address of the result [T, n]).

        Rows have the weight's dtype; the weight stays where it is. None where a table computes with tensors only, or
        not with this weight.
        """
        return None

    def host_quant_logits(
        self, dtype, weight: Tensor, scale: Tensor, offset: Tensor | None, kind: str, group: int, activations: str
    ) -> Callable[[int, int, int], None] | None:
        """As host_logits, what computes `quant_logits` of rows of this dtype."""
        return None

    def capture(
        self, run: Callable[[], tuple[Tensor, ...]], lasting: Sequence[Tensor]
    ) -> Callable[[], tuple[Tensor, ...]] | None:
        """Call `run` once, which runs a static graph, and record what it does -> a replay of that, or None.

        `lasting`: the inputs, weights and caches of the graph; a replay reads and writes them where they are. All
        replays leave their results in the same memory. None where a table does not capture. The caller compares
        results: a replay knows nothing of what operators did that are not the table's.
        """
        return None

    def record(self, on: bool) -> None:
        """Keep the times of operators from now on, or no longer. Others than ours are MindSpore's profiler's."""

    def recorded(self) -> list[tuple[str, int, int]]:
        """Name, start and duration (ns of time.perf_counter_ns) of each operator that ran since the last call.

        Empty where a table's operators do not say.
        """
        return []

    # ---- what it computes, and of which sizes ----

    def compute_dtype(self, dtype: str) -> str:
        """The dtype in which this table wants weights and activations when a user asks for `dtype`.

        Both are names: float32, float16, bfloat16. NotImplementedError where it has none that is as exact.
        """
        possible = self.capabilities.compute_dtypes
        if dtype not in possible:
            device, dtypes = self.capabilities.device, " or ".join(possible)
            raise NotImplementedError(f"dtype {dtype}: {device} computes in {dtypes}; give --dtype")
        return possible[dtype]

    def check_kv_cache_dtype(self, dtype: str) -> None:
        """NotImplementedError where attention does not read a cache of this dtype, SGLang's name."""
        possible = self.capabilities.kv_cache_dtypes
        if dtype not in possible:
            raise NotImplementedError(
                f"--kv-cache-dtype {dtype}: the operators for {self.capabilities.device} read keys and values of "
                f"{' or '.join(possible)} only"
            )

    def supports_all_reduce_norm_fusion(self, ranks: int) -> bool:
        """Whether a sum over so many ranks of one host, and the norm behind it, are left to `linear_add_rms_norm`.

        Asked when a layer is built: weights are packed for the one or the other.
        """
        return ranks in self.capabilities.all_reduce_norm_fusion

    def check_attention(
        self,
        heads: int,
        kv_heads: int,
        head_dim: int,
        rotary_dim: int,
        window: int,
        soft_cap: float,
        sinks: bool,
        slopes: bool,
        bidirectional: bool,
        last_seen: bool = False,
    ) -> None:
        """Raise NotImplementedError, with what is lacking and what to do, if `paged_attention` cannot compute it.

        rotary_dim: how many of head_dim are rotated; window: 0 also where no context that is served outgrows it; sinks,
        slopes: whether there are any; bidirectional: as `paged_attention`'s; last_seen: whether tokens have one.
        """

    def check_mla_attention(self, rank: int, rope: int, nope: int, value: int) -> None:
        """As check_attention, of `mla_attention`: cached rows have rank + rope values, a head's keys nope + rope."""

    def check_sparse_attention(self, top_k: int) -> None:
        """As check_attention, of the operators that choose top_k keys, and attend to them."""

    def check_states(self, window: int) -> None:
        """As check_attention, of a layer with a state, whose convolution reads `window` earlier values."""

    def check_quant(self, kind: str, group: int, offset: str, activations: str, use: str, shape: tuple, dtype) -> None:
        """As check_attention, of operators by `use`: quant_linear ("linear"), quant_logits ("head"), these and
        quant_embedding ("lookup"), quant_experts ("moe").

        offset: "", "zero_point" (uint8) or "minimum" (floating point). shape: [..., out, in]. dtype: of x.
        """

    def blockwise(self, window: int, soft_cap: float, sinks: bool, slopes: bool, mla: bool) -> bool:
        """Whether attention of such a layer is a loop over blocks of keys, more of them where contexts are longer.

        Such a graph cannot be captured: the number of its kernels changes. See `Capabilities.single_block`."""
        return False

    # ---- a step ----

    @abstractmethod
    def metadata_fields(self, forward_mode: str = "", dp_size: int = 1, dp_padded: bool = False) -> tuple[Field, ...]:
        """What else this table's operators read of a step: inputs of the graphs of one forward mode, int32.

        forward_mode: of `split_by_forward_mode`; "": all that any mode has. dp_size: ranks of attention data
        parallelism. dp_padded: whether all of them have as many rows, padding included. Where graphs are static, axes
        are those of ops/metadata.py, or numbers; other axes are no longer than the tokens of all DP ranks.
        """

    @abstractmethod
    def build_metadata(self, step: HostStep) -> dict:
        """The arrays of `metadata_fields` by name, int32 numpy, for the step's forward mode and DP ranks."""

    def split_by_forward_mode(self, query_lens, seq_lens, together: bool = False) -> list:
        """In which runs of which graphs a step is computed: [(forward mode, rows of its requests)], numpy [n] each.

        Takes those arrays of a HostStep. Forward modes are names; a graph serves the steps of one, and
        its operators find it in `step`. Most tables have one, and every step is one part. together: it must be one,
        since other attention replicas, with requests of whatever modes, run a graph of theirs at the same time.
        """
        return [("", np.arange(len(query_lens)))]

    # ---- caches and tables ----

    def rotary_tables(self, cos, sin, dtype) -> tuple[Tensor, Tensor]:
        """float32 numpy arrays [P, R / 2] of P positions -> what operators read of them, of weights of `dtype`."""
        return Tensor(cos), Tensor(sin)

    @abstractmethod
    def cache_view(self, cache: Tensor, name: str, page_size: int) -> Tensor:
        """Make what the graph receives of one layer's key or value cache, sharing its memory.

        The cache is [slots, K, D], or as SGLang keeps it for an NPU [pages, page_size, K, D]. `name` is unique to it.
        Dtypes: float32, float16, bfloat16. Raises NotImplementedError for a size of pages that the table cannot read.
        """

    def state_view(self, state: Tensor, name: str) -> Tensor:
        """As cache_view, of the states of one layer, [slots, ...]: convolutions', or recurrent ones."""
        return state

    def device_layout_cache(self, shape: tuple, dtype, blockwise: bool, page_size: int) -> Callable[[], Tensor] | None:
        """What makes a layer's key or value cache, [slots, K, D] of dtype, filled with zeros, in the place of SGLang.

        None where SGLang makes it, and `cache_view` shows it. blockwise: of the layer, as the method of that name has
        it. What makes it raises NotImplementedError for sizes that it cannot lay out.
        """
        return None

    def copy_rows(self, copies: Sequence[RowCopy], targets: np.ndarray, sources: np.ndarray) -> None:
        """Copy rows of the host: row sources[i] of each to row targets[i], int64 [N]. ValueError: they do not fit."""
        copy_rows_of_host(copies, targets, sources)

    # ---- weights; those of a table that reads them as they are loaded stay so ----

    def renew(self, weight) -> None:
        """Let operators read what the loader has put into `weight.host`; before it is packed.

        A parameter that has moved to the device stays where it is: captured graphs know its address.
        """

    def move_to_device(self, weight) -> None:
        """Give a parameter that was loaded and packed the memory in which operators read it, on a device that has some.

        Where it has moved, nobody reads `weight.host` any more, until the loader fills it anew. At a later load the
        parameter is where it was: `renew` and packing have written there.
        """

    def fetch(self, weight) -> None:
        """Let `weight.host` have what operators read, in their layout, if it has not: move_to_device the other way."""

    def prepack_linear(self, weight) -> None:
        """Rearrange, in place, a matrix that only `linear`, `linear_fp32` and `logits` read, into their layout.

        Or a stack of matrices, for operators that say so: those of the last two axes. Called once, when it is loaded.
        """

    def prepack_row_linear(self, weight) -> None:
        """As prepack_linear, of a matrix that only `linear_add_rms_norm` reads."""

    def prepack_embedding(self, weight) -> None:
        """As prepack_linear, of a matrix that `embedding` and `logits` read."""

    def prepack_experts(self, weight) -> None:
        """As prepack_linear, of a stack that `fused_experts` reads."""

    def prepack_experts_lora(self, lora_a, lora_b, max_loras: int, parts: tuple[int, ...]) -> None:
        """Rearrange what adapters have for experts, as contract_lora.py has it, for fused_experts and quant_experts.

        Once when it is made, and whenever it was renewed: `host` is left as it is. parts: as of add_lora.
        """

    def unpack_linear(self, weight) -> None:
        """Undo prepack_linear: `weight.host`, which has been fetched, is as it was loaded."""

    def unpack_row_linear(self, weight) -> None:
        """Undo prepack_row_linear, as unpack_linear."""

    def unpack_embedding(self, weight) -> None:
        """Undo prepack_embedding, as unpack_linear."""

    def unpack_experts(self, weight) -> None:
        """Undo prepack_experts, as unpack_linear."""

    def prepack_quant(self, weight, scale, offset, kind: str, group: int, activations: str, dtype) -> None:
        """As prepack_linear, of codes, scales and offsets (or None) that `quant_linear`, `quant_logits` or
        `quant_experts` reads; kind, group, activations: theirs; dtype: of x. Of a stack each matrix by itself: an
        expert stays one block of memory. Parameters may be of other dtypes afterwards."""

    def prepack_quant_embedding(self, weight, scale, offset, kind: str, group: int, activations: str, dtype) -> None:
        """As prepack_quant, of a matrix that `quant_embedding` and `quant_logits` read."""

    def computed_offset(self, kind: str, activations: str, use: str, dtype) -> bool:
        """Whether prepack_quant fills an offset, float32 [..., out, 1], for a format that has none of its own."""
        return False

    def prepack_static_quant(self, weight, scale, input_scale, bias) -> None:
        """After prepack_quant, of what `quant_linear` reads with "int8_static" activations; bias is float32 [out]."""

    def prepack_correction_bias(self, bias) -> None:
        """Prepare, in place, a bias that only `route` reads. It can be called on the result."""

    def plain_experts(self, stack: Tensor) -> Tensor:
        """A stack of experts' matrices, as `prepack_experts` leaves it, in a layout in which each is in one piece.

        It, whose experts may then be overwritten in place; or, on chips that keep it in another layout, a copy.
        """
        return stack

    def put_experts(self, stack: Tensor, plain: Tensor) -> None:
        """Hold what `plain_experts` gave, in which experts were overwritten."""


METHODS = tuple(name for name, value in vars(OperatorTable).items() if inspect.isfunction(value) and name[0] != "_")


def _has(table: type[OperatorTable], name: str, inherits: Sequence[str] | None) -> bool:
    owner = next((parent for parent in table.__mro__ if name in vars(parent)), None)
    taken = owner in (table, OperatorTable) or inherits is None or name in inherits
    return owner is not None and taken and not getattr(getattr(table, name), "__isabstractmethod__", False)


def _lacking(table: type[OperatorTable], name: str):
    """What refuses to be called, in the place of an operator."""
    problem = f"{table.__name__} has no {name}: write it in one of its modules, or name it in `inherits`"
    if name in METHODS:
        raise OperatorTableError(problem)

    def refuse(*_args, **_kwargs):
        raise OperatorTableError(problem)

    refuse.lacking, refuse.__signature__ = True, inspect.signature(getattr(contract, name))
    return refuse


def _check_signature(table: type[OperatorTable], name: str) -> None:
    wanted = _parameters(contract if name in OPERATORS else OperatorTable, name)
    found = _parameters(table, name)
    if found != wanted:
        raise OperatorTableError(f"{table.__name__}.{name} takes {found}, the contract says {wanted}")


def _parameters(owner, name: str) -> list[str]:
    return [parameter for parameter in inspect.signature(getattr(owner, name)).parameters if parameter != "self"]
