"""Every parameter of a model is filled from the right part of the right tensor, or nothing is."""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import nn

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.model_loader_ms import files
from sglang.srt.model_loader_ms.files import CheckpointError
from sglang.srt.model_loader_ms.loader import load, tensors_of
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

SECONDS = 1
ALL = slice(None)
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 6, 4, 2, 3, 11
ROWS = {"q_proj": HEADS * HEAD_DIM, "k_proj": KV_HEADS * HEAD_DIM, "v_proj": KV_HEADS * HEAD_DIM}


class Fused(nn.Cell):
    """The rows of three matrices, of which a rank holds a part each."""

    def __init__(self, shard, dtype):
        super().__init__()
        slices, start = [], 0
        for name, rows in ROWS.items():
            read = shard.slice(rows, name)
            into = slice(start, start := start + read.stop - read.start)
            slices.append(WeightSlice(f"../{name}.weight", (read, ALL), into, (rows, HIDDEN)))
        self.weight = parameter((start, HIDDEN), dtype, *slices)


class Attention(nn.Cell):
    def __init__(self, shard, dtype):
        super().__init__()
        self.qkv_proj = Fused(shard, dtype)
        self.o_proj = nn.Cell()
        columns = shard.slice(HEADS * HEAD_DIM, "columns")
        weight_slice = WeightSlice("weight", (ALL, columns), whole=(HIDDEN, HEADS * HEAD_DIM))
        self.o_proj.weight = parameter((HIDDEN, columns.stop - columns.start), dtype, weight_slice)


class Model(nn.Cell):
    """A table with padding, a fused matrix, a matrix split by columns, and a head that may be the table again."""

    def __init__(self, dtype=ms.float32, shard=None, tied=False):
        super().__init__()
        shard = shard or Shard()
        rows = 16 // shard.size
        read = slice(min(rows * shard.rank, VOCAB), min(rows * (shard.rank + 1), VOCAB))
        self.embed = nn.Cell()
        weight_slice = WeightSlice("weight", (read, ALL), slice(0, read.stop - read.start), (VOCAB, HIDDEN))
        self.embed.weight = parameter((rows, HIDDEN), dtype, weight_slice)
        self.layers = nn.CellList([Attention(shard, dtype)])
        self.head = nn.Cell()
        self.head.weight = (
            self.embed.weight if tied else parameter((2, HIDDEN), dtype, WeightSlice("weight", (ALL, ALL)))
        )


SHAPES = {
    "embed.weight": (VOCAB, HIDDEN),
    **{f"layers.0.{name}.weight": (rows, HIDDEN) for name, rows in ROWS.items()},
    "layers.0.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
    "head.weight": (2, HIDDEN),
}


def weights(dtype=torch.float32, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def values(model) -> dict:
    """The parameters as MindSpore sees them."""
    return {name: param.astype(ms.float32).asnumpy().copy() for name, param in model.parameters_and_names()}


def expected(tensors) -> dict:
    """What a whole model of these tensors holds."""
    qkv = np.concatenate([tensors[f"layers.0.{name}.weight"] for name in ROWS])
    return {
        "embed.weight": np.concatenate([tensors["embed.weight"], np.zeros((16 - VOCAB, HIDDEN))]),
        "layers.0.qkv_proj.weight": qkv,
        "layers.0.o_proj.weight": tensors["layers.0.o_proj.weight"],
        "head.weight": tensors["head.weight"],
    }


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], name)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
def test_every_parameter_is_filled_and_padding_stays_zero(folder, kind, sharded):
    tensors = weights()
    (folder.write_sharded if sharded else folder.write)(tensors, kind)
    load(model := Model(), folder.path)
    assert_same(values(model), expected({name: tensor.numpy() for name, tensor in tensors.items()}))


@pytest.mark.parametrize("wanted", [ms.float32, ms.float16, ms.bfloat16], ids=str)
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_checkpoint_of_any_float_type_becomes_the_type_of_the_parameters(folder, stored, wanted):
    folder.write(weights(stored))
    load(model := Model(wanted), folder.path)
    as_wanted = getattr(torch, str(wanted).lower())
    rounded = {name: tensor.to(as_wanted).float().numpy() for name, tensor in weights(stored).items()}
    assert {param.dtype for param in model.get_parameters()} == {wanted}
    assert_same(values(model), expected(rounded))


def test_integers_are_loaded_as_they_are(folder):
    model = nn.Cell()
    model.scale = parameter((3,), ms.int8, WeightSlice("scale", (ALL,)))
    folder.write({"scale": torch.tensor([-128, 0, 127], dtype=torch.int8)})
    load(model, folder.path)
    assert model.scale.asnumpy().tolist() == [-128, 0, 127]


def test_the_ranks_together_hold_the_whole_model(folder):
    folder.write(weights())
    load(whole := Model(), folder.path)
    ranks = [Model(shard=Shard(rank, 2)) for rank in range(2)]
    for model in ranks:
        load(model, folder.path)
    whole, (first, second) = values(whole), map(values, ranks)
    stacked = np.concatenate([first["embed.weight"], second["embed.weight"]])
    np.testing.assert_array_equal(stacked, whole["embed.weight"])
    columns = np.concatenate([first["layers.0.o_proj.weight"], second["layers.0.o_proj.weight"]], axis=1)
    np.testing.assert_array_equal(columns, whole["layers.0.o_proj.weight"])
    q, k, v = np.split(whole["layers.0.qkv_proj.weight"], [12, 18])
    for rank, held in enumerate((first, second)):
        parts = np.concatenate([np.split(matrix, 2)[rank] for matrix in (q, k, v)])
        np.testing.assert_array_equal(held["layers.0.qkv_proj.weight"], parts)


def test_a_rank_that_holds_nothing_but_padding_loads(folder):
    folder.write({"weight": torch.ones(5, 3)})
    model = nn.Cell()
    model.weight = parameter((8, 3), ms.float32, WeightSlice("weight", (slice(5, 5), ALL), slice(0, 0), (5, 3)))
    assert load(model, folder.path).bytes == 0
    assert not model.weight.asnumpy().any()


def test_a_parameter_of_two_cells_is_loaded_once(folder):
    tensors = weights()
    del tensors["head.weight"]
    folder.write(tensors)
    load(model := Model(tied=True), folder.path)
    assert model.head.weight is model.embed.weight
    np.testing.assert_array_equal(model.head.weight.asnumpy()[:VOCAB], tensors["embed.weight"])


def test_the_report_counts_what_was_read(folder):
    folder.write({**weights(torch.bfloat16), "old.inv_freq": torch.ones(3)})
    report = load(Model(), folder.path, ignore=["inv_freq"])
    assert report.tensors == len(SHAPES)
    assert report.bytes == 2 * sum(rows * columns for rows, columns in SHAPES.values())
    assert report.ignored == ("old.inv_freq",)
    assert str(report).startswith("6 tensors, 0.00 GB in")


def test_the_tensors_of_a_model_are_listed_for_its_rank():
    items = {item.source: (item.read, item.parameter) for item in tensors_of(Model(shard=Shard(1, 2)))}
    assert items == {
        "embed.weight": ((slice(8, 11), ALL), "embed.weight"),
        "layers.0.q_proj.weight": ((slice(6, 12), ALL), "layers.0.qkv_proj.weight"),
        "layers.0.k_proj.weight": ((slice(3, 6), ALL), "layers.0.qkv_proj.weight"),
        "layers.0.v_proj.weight": ((slice(3, 6), ALL), "layers.0.qkv_proj.weight"),
        "layers.0.o_proj.weight": ((ALL, slice(6, 12)), "layers.0.o_proj.weight"),
        "head.weight": ((ALL, ALL), "head.weight"),
    }


def refusal(folder, model=None, **options) -> str:
    """The message of a load that must fail, and must leave the model as it was."""
    model = model or Model()
    before = values(model)
    with pytest.raises(CheckpointError) as error:
        load(model, folder.path, **options)
    assert_same(values(model), before)
    return str(error.value)


def test_a_checkpoint_that_does_not_fit_names_every_tensor_and_fills_none(folder):
    tensors = weights()
    tensors["layers.0.extra"] = tensors.pop("layers.0.k_proj.weight")
    tensors["layers.1.extra"] = torch.ones(3)
    tensors["embed.weight"] = torch.ones(VOCAB + 1, HIDDEN)
    tensors["head.weight"] = torch.ones(2, HIDDEN, dtype=torch.int32)
    *_, path = folder.write_sharded(tensors)
    path.write_bytes(path.read_bytes()[:-1])
    message = refusal(folder)
    lines = message.splitlines()
    assert f"the checkpoint in {folder.path} does not fit Model (problems: 5)" in lines[0]
    assert sorted(lines[1:]) == [
        "  missing: layers.0.k_proj.weight",
        f"  truncated file: {path.name} ends before the end of layers.1.extra",
        "  unexpected: layers.0.extra",
        "  wrong dtype: head.weight is int32 [2, 6], which cannot become float32 for head.weight",
        f"  wrong shape: embed.weight is float32 [{VOCAB + 1}, 6], the model needs [{VOCAB}, 6]",
    ]


@pytest.mark.parametrize("name", SHAPES)
def test_any_missing_tensor_is_named(folder, name):
    tensors = weights()
    del tensors[name]
    folder.write(tensors)
    assert refusal(folder).splitlines()[1:] == [f"  missing: {name}"]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    "change", [lambda t: t[:-1], lambda t: t.repeat(2, 1), lambda t: t.repeat(1, 2), lambda t: t[0]]
)
def test_any_wrongly_shaped_tensor_is_named_with_both_shapes(folder, name, change):
    tensors = weights()
    tensors[name] = change(tensors[name]).contiguous()
    folder.write(tensors)
    (problem,) = refusal(folder).splitlines()[1:]
    assert problem.startswith(f"  wrong shape: {name} is float32 {list(tensors[name].shape)}, ")


def test_a_part_that_does_not_fill_its_rows_is_described(folder):
    model = nn.Cell()
    model.weight = parameter((4, 3), ms.float32, WeightSlice("weight", (slice(2, 6), ALL), slice(0, 4)))
    folder.write({"weight": torch.ones(5, 3)})
    assert refusal(folder, model).endswith(
        "wrong shape: weight is float32 [5, 3], its part [2:6, ...] must fill [4, 3] of weight"
    )


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.bool], ids=str)
def test_a_dtype_that_cannot_be_converted_is_named(folder, dtype):
    tensors = weights()
    tensors["embed.weight"] = tensors["embed.weight"].to(dtype)
    folder.write(tensors)
    name = str(dtype).removeprefix("torch.")
    assert f"wrong dtype: embed.weight is {name} [11, 6], which cannot become float32" in refusal(folder)


def test_tensors_of_damaged_files_are_not_also_called_missing(folder):
    first, second, *_ = folder.write_sharded(weights())
    first.unlink()
    second.write_bytes(b"")
    assert refusal(folder).splitlines()[1:] == [
        f"  missing file: {first.name}: the download is not complete; it holds embed.weight",
        f"  unreadable file: {second.name}: it is empty; it holds layers.0.q_proj.weight",
    ]


def test_a_tensor_that_the_index_promises_and_its_file_lacks_is_named_with_both(folder):
    tensors = weights()
    del tensors["head.weight"]
    folder.write(tensors)
    folder.write_index(dict.fromkeys(SHAPES, "model.safetensors"))
    assert refusal(folder).endswith("missing: head.weight, which the index puts into model.safetensors")


def test_tensors_to_ignore_are_given_by_the_ends_of_their_names(folder):
    extra = ["a.table.inverse", "a.table.inverse.scale", "b.inverse"]
    folder.write({**weights(), **{name: torch.ones(2) for name in extra}})
    lines = refusal(folder, ignore=[r"table\.inverse", r"nothing\.like\.it"]).splitlines()
    assert lines[1:] == ["  unexpected: a.table.inverse.scale", "  unexpected: b.inverse"]
    assert load(Model(), folder.path, ignore=[r"^b\..*", r"inverse(\.scale)?"]).ignored == tuple(extra)


def test_a_parameter_made_otherwise_is_named():
    model = Model()
    model.head.scale = ms.Parameter(ms.Tensor([1.0]))
    with pytest.raises(CheckpointError, match=r"do not state their slices .*head\.scale"):
        tensors_of(model)


def test_a_source_outside_the_model_is_refused():
    model = nn.Cell()
    model.weight = parameter((2,), ms.float32, WeightSlice("../other.weight", (ALL,)))
    with pytest.raises(CheckpointError, match=r"weight: its source steps out of the model, to \.\./other.weight"):
        tensors_of(model)


def test_a_model_is_loaded_by_its_hub_id_from_the_cache(folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        files, "snapshot_download", lambda *repo, **options: asked.append((repo, options)) or folder.path
    )
    folder.write(weights())
    load(model := Model(), "maker/model", revision="v2", cache_dir=tmp_path)
    assert_same(values(model), expected({name: tensor.numpy() for name, tensor in weights().items()}))
    (((repo,), options),) = asked
    assert (repo, options["revision"], options["cache_dir"]) == ("maker/model", "v2", tmp_path)


def test_the_load_format_chooses_between_two_checkpoints_of_a_folder(folder):
    folder.write(weights(seed=4))
    folder.write(weights(seed=5), "bin")
    load(model := Model(), folder.path, load_format="pt")
    np.testing.assert_array_equal(model.head.weight.asnumpy(), weights(seed=5)["head.weight"])


def test_a_missing_tensor_that_two_parameters_need_is_named_once(folder):
    tensors = weights()
    del tensors["embed.weight"]
    folder.write(tensors)
    model = Model()
    model.head.other = parameter((VOCAB, HIDDEN), ms.float32, WeightSlice("../embed.weight", (ALL, ALL)))
    assert refusal(folder, model).splitlines()[1:] == ["  missing: embed.weight"]


def test_dummy_weights_are_small_and_padding_stays_zero():
    report = load(model := Model(ms.bfloat16), "nowhere", load_format="dummy")
    held = values(model)
    assert not held["embed.weight"][VOCAB:].any()
    numbers = np.concatenate([held[name].ravel() for name in held if name != "embed.weight"])
    assert 5e-4 < np.abs(numbers).max() <= 1e-3
    assert len(np.unique(numbers)) > numbers.size / 2
    assert (report.tensors, report.bytes) == (len(SHAPES), 0)


def test_dummy_integers_are_zero():
    model = nn.Cell()
    model.scale = parameter((3,), ms.int8, WeightSlice("scale", (ALL,)))
    load(model, None, load_format="dummy")
    assert not model.scale.asnumpy().any()


def test_dummy_weights_are_the_same_every_time_and_differ_from_tensor_to_tensor():
    first, second = Model(), Model()
    for model in (first, second):
        load(model, None, load_format="dummy")
    assert_same(values(first), values(second))
    _, key, value = np.split(values(first)["layers.0.qkv_proj.weight"], [12, 18])
    assert not np.array_equal(key, value)


def test_an_update_replaces_the_weights_that_a_compiled_graph_uses(folder):
    class Scale(nn.Cell):
        def __init__(self):
            super().__init__()
            self.weight = parameter((3,), ms.float32, WeightSlice("weight", (ALL,)))

        @ms.jit(fullgraph=True)
        def construct(self, x):
            return x * self.weight

    folder.write({"weight": torch.tensor([1.0, 2.0, 3.0])})
    load(model := Scale(), folder.path)
    x = ms.Tensor([1.0, 1.0, 1.0], ms.float32)
    before = model(x).asnumpy().tolist()
    folder.write({"weight": torch.tensor([4.0, 5.0, 6.0])})
    load(model, folder.path, progress=False)
    assert (before, model(x).asnumpy().tolist()) == ([1, 2, 3], [4, 5, 6])


def test_an_update_from_a_checkpoint_that_does_not_fit_keeps_the_old_weights(folder):
    folder.write(weights())
    load(model := Model(), folder.path)
    before = values(model)
    folder.write({**weights(seed=4), "head.weight": torch.ones(5)})
    with pytest.raises(CheckpointError, match=r"wrong shape: head\.weight"):
        load(model, folder.path, progress=False)
    assert_same(values(model), before)


@pytest.mark.parametrize("terminal, progress, shown", [(True, True, True), (True, False, False), (False, True, False)])
def test_a_bar_is_shown_on_a_terminal_when_asked_for(folder, monkeypatch, capsys, terminal, progress, shown):
    folder.write(weights())
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    load(Model(), folder.path, progress=progress)
    assert ("Loading weights" in capsys.readouterr().err) == shown


NAMES = {"layers.0": "h.zero", "layers": "h", "o_proj": "attn.out", "embed.weight": "wte"}


def test_names_are_replaced_where_whole_parts_of_them_are_the_given_ones(folder):
    tensors = weights()
    theirs = {
        "wte": "embed.weight",
        "head.weight": "head.weight",
        "h.zero.attn.out.weight": "layers.0.o_proj.weight",
        **{f"h.zero.{name}.weight": f"layers.0.{name}.weight" for name in ROWS},
    }
    folder.write({name: tensors[ours] for name, ours in theirs.items()})
    load(model := Model(), folder.path, names=NAMES)
    assert_same(values(model), expected({name: tensor.numpy() for name, tensor in tensors.items()}))


def test_a_misfit_is_reported_under_the_checkpoints_name(folder):
    folder.write(weights())
    message = refusal(folder, names={"o_proj": "out"})
    assert "missing: layers.0.out.weight" in message
    assert "unexpected: layers.0.o_proj.weight" in message
