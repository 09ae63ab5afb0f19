"""The operators of contract.py that are called on the host, not in graphs: what a table wants of its caller."""

from collections.abc import Callable, Sequence

from mindspore import Tensor

from .metadata import Field, HostStep


def start(processors: Sequence[int]) -> None:
    """Called once in a process, before any other: the processors to compute on, with a thread on each."""


def init_group(
    group: str,
    rank: int,
    size: int,
    all_gather_object: Callable[[object], list],
    timeout: float = 300.0,
    nodes: Sequence[int] = (),
    exchange: Callable[[int, int, int], None] | None = None,
) -> None:
    """Join the communication group `group`, as `rank` of `size`, before a graph that uses it is built.

    all_gather_object: gives every rank the objects that all of them call it with, in the order of the ranks. timeout:
    seconds for which a rank waits for the others in a collective. nodes: the host of each rank, as many ranks on each;
    (): there is one. exchange(address, stride, bytes): called by the first rank of each host with rows of bytes at
    `address`, one a rank and each `stride` bytes behind the one before, of which those of its host are filled: fills
    the others.

    Raises RuntimeError, on every rank, if the group cannot be made; NotImplementedError where a table has no groups.
    """


def column_gather(group: str) -> Callable[[Tensor], Tensor] | None:
    """What puts the columns of a group's ranks side by side: x [T, n], as wide on all ranks -> [T, ranks * n].

    Called outside graphs, on all ranks, with as many rows, and raises RuntimeError where one is missing. None where a
    table leaves that to SGLang's communicators.
    """


def capture(
    run: Callable[[], tuple[Tensor, ...]], lasting: Sequence[Tensor]
) -> Callable[[], tuple[Tensor, ...]] | None:
    """Call `run` once, which runs a static graph, and record what it does -> a replay of that, or None.

    `lasting`: the inputs, weights and caches of the graph; a replay reads and writes them where they are. Its results
    lie in memory that the next replay overwrites. None where a table does not capture. The caller compares results: a
    replay knows nothing of what operators did that are not the table's.
    """


def record(on: bool) -> None:
    """Keep the times of operators from now on, or no longer."""


def recorded() -> list[tuple[str, int, int]]:
    """Name, start and duration (nanoseconds of time.perf_counter_ns) of each operator that ran since the last call.

    Empty where a table's operators do not say.
    """


def compute_dtype(dtype: str) -> str:
    """The dtype in which this table wants weights and activations when a user asks for `dtype`.

    Both are names: float32, float16, bfloat16. Results are never less exact than `dtype` would be.
    """


def check_attention(
    heads: int, kv_heads: int, head_dim: int, rotary_dim: int, window: int, soft_cap: float, sinks: bool, slopes: bool
) -> None:
    """Raise NotImplementedError, with what is lacking and what to do, if `paged_attention` cannot compute a layer's.

    rotary_dim: of head_dim, how many values are rotated; window: 0 also where no context that is served outgrows it;
    sinks, slopes: whether there are any.
    """


def blockwise(window: int, soft_cap: float, sinks: bool, slopes: bool, mla: bool) -> bool:
    """Whether attention of such a layer is a loop, of as many rounds as the contexts of a step are long.

    Such a graph cannot be captured: the number of its kernels changes. See `single_block_limits`.
    """


def single_block_limits() -> tuple[str, int, int]:
    """The kind of graphs that decode with one round in the place of all: its name, longest context, most requests.

    What it gathers is as large whatever the contexts are, and it can be captured. ("", 0, 0): there is none.
    """


def check_mla_attention(rank: int, rope: int, nope: int, value: int) -> None:
    """As check_attention, of `mla_attention`: cached rows have rank + rope values, a head's keys nope + rope."""


def check_quant_linear() -> None:
    """As check_attention, of `quant_linear`."""


def plain_experts(stack: Tensor) -> Tensor:
    """A stack of experts' matrices, as `prepack_experts` leaves it, in a layout in which an expert is a piece of
    memory.

    It, whose experts may then be overwritten in place; or, on chips that keep it in another layout, a copy.
    """


def put_experts(stack: Tensor, plain: Tensor) -> None:
    """Hold what `plain_experts` gave, in which experts were overwritten."""


def check_quant_experts(dtype) -> None:
    """As check_attention, of `quant_experts` of activations of `dtype`."""


def rotary_tables(cos, sin, dtype) -> tuple[Tensor, Tensor]:
    """float32 numpy arrays [P, R / 2] of P positions -> what operators read of them, of weights of `dtype`."""


def cache_view(cache: Tensor, name: str, page_size: int) -> Tensor:
    """Make what the graph receives of one layer's key or value cache, sharing its memory.

    The cache is [slots, K, D], or as SGLang keeps it for an NPU [pages, page_size, K, D]. `name` is unique to it.
    Dtypes: float32, float16, bfloat16. Raises NotImplementedError for a size of pages that the table cannot read.
    """


def device_layout_cache(shape: tuple, dtype, blockwise: bool, page_size: int) -> Callable[[], Tensor] | None:
    """What makes a layer's key or value cache, [slots, K, D] of dtype, filled with zeros, in the place of SGLang.

    None where SGLang makes it, and `cache_view` shows it. blockwise: of the layer, as the function of that name has it.
    What makes it raises NotImplementedError for sizes that it cannot lay out.
    """


def metadata_fields(forward_mode: str = "", dp_size: int = 1, dp_padded: bool = False) -> tuple[Field, ...]:
    """What else this table's operators read of a step: inputs of the graphs of one forward mode, int32.

    forward_mode: of `split_by_forward_mode`; "": all that any mode has. dp_size: ranks of attention data parallelism.
    dp_padded: whether all of them have as many rows, padding included. Where graphs are static, axes are those of
    ops/metadata.py, or numbers; other axes are no longer than the tokens of all DP ranks.
    """


def build_metadata(step: HostStep) -> dict:
    """The arrays of `metadata_fields` by name, int32 numpy, for the step's forward mode and DP ranks."""


def split_by_forward_mode(query_lens, seq_lens, together: bool = False) -> list:
    """In which runs of which graphs a step is computed: [(kind, rows of its requests, in order)], numpy [n] each.

    Takes those arrays of a HostStep. Kinds are names; a graph serves the steps of one kind, and its
    operators find the name in `step`. Most tables have one kind, and every step is one part. together: it must be one,
    since other attention replicas, with requests of whatever kinds, run a graph of theirs at the same time.
    """


def compiled() -> bool:
    """Whether graphs are compiled; else their operators run one by one, and can look at values."""


def static_graphs() -> bool:
    """Whether graphs must have fixed shapes, with room for the largest step, of which `set_valid_rows` says what
    counts."""


def set_valid_rows(tokens: int, requests: int, counts: Sequence[int] = ()) -> None:
    """How many leading rows of the [T] and [B] tensors the next run of a graph is about.

    counts: tokens of each attention replica, of which this one has `tokens`; (): there is one.
    """


def renew(weight) -> None:
    """Let operators read what the loader has put into `weight.host` anew; before it is packed again.

    For each parameter of a model that has run, where it stays in memory: captured graphs know its address.
    """


def prepack_linear(weight) -> None:
    """Rearrange, in place, a matrix that only `linear`, `linear_fp32` and `logits` read, into the layout they like.

    Or a stack of matrices, for operators that say so: those of the last two axes. Called once, when it is loaded.
    """


def supports_all_reduce_norm_fusion(ranks: int) -> bool:
    """Whether a sum over so many ranks of one host, and the norm behind it, are better left to `linear_add_rms_norm`.

    Asked when a layer is built: weights are packed for the one or the other.
    """


def prepack_row_linear(weight) -> None:
    """As prepack_linear, of a matrix that only `linear_add_rms_norm` reads."""


def prepack_embedding(weight) -> None:
    """As prepack_linear, of a matrix that `embedding` and `logits` read."""


def prepack_experts(weight) -> None:
    """As prepack_linear, of a stack that `fused_experts` reads."""


def prepack_quant_experts(weight) -> None:
    """As prepack_linear, of a stack that `quant_experts` reads."""


def prepack_correction_bias(bias) -> None:
    """Prepare, in place, a bias that only `route` reads. It can be called on the result."""
