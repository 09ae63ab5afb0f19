"""Tensors are listed from headers, and slices of them copied without reading the rest."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sglang.srt.model_loader_ms import checkpoint as room
from sglang.srt.model_loader_ms.checkpoint import Checkpoint, convertible, copy, selected

SECONDS = 2
KINDS = pytest.mark.parametrize("kind", ["safetensors", "bin"])
FLOATS = ["float64", "float32", "float16", "bfloat16"]
OTHERS = ["int64", "int32", "int8", "uint8", "bool"]


def numbers(*shape, dtype="float32"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(7)).mul(9).to(getattr(torch, dtype))


def host_of(shape, dtype):
    return np.zeros(shape, np.int16 if dtype == "bfloat16" else dtype)


def read(stored, part, dtype):
    """What copy() writes, as a torch tensor, and the bytes that it says it read."""
    host = host_of(selected(stored.shape, part), dtype)
    read_bytes = sum(copy(stored, part, host, dtype))
    return torch.from_numpy(host).view(getattr(torch, dtype)), read_bytes


def everything(stored):
    return (slice(None),) * len(stored.shape)


@KINDS
@pytest.mark.parametrize("dtype", FLOATS + OTHERS)
def test_names_shapes_dtypes_and_values_are_those_written(folder, kind, dtype):
    written = {"a": numbers(3, 5, dtype=dtype), "b.c": numbers(7, dtype=dtype), "empty": numbers(0, 4, dtype=dtype)}
    folder.write(written, kind)
    tensors = Checkpoint(folder.path).tensors
    assert {name: (stored.shape, stored.dtype) for name, stored in tensors.items()} == {
        name: (tuple(tensor.shape), dtype) for name, tensor in written.items()
    }
    for name, stored in tensors.items():
        assert torch.equal(read(stored, everything(stored), dtype)[0], written[name])


def test_a_file_may_be_larger_than_the_machines_memory(folder):
    size = 4 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    header = json.dumps({"x": dict(dtype="F32", shape=[size // 4], data_offsets=[0, size])}).encode()
    with (folder.path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)  # a hole, which takes no room on the disk
    checkpoint = Checkpoint(folder.path)
    assert checkpoint.problems == []
    assert read(checkpoint.tensors["x"], (slice(size // 4 - 3, None),), "float32")[0].tolist() == [0, 0, 0]


@KINDS
@pytest.mark.parametrize("wanted", FLOATS)
@pytest.mark.parametrize("stored", FLOATS)
def test_floats_are_converted_as_torch_converts_them(folder, kind, stored, wanted):
    written = numbers(33, 65, dtype=stored)
    folder.write({"x": written}, kind)
    values, _ = read(Checkpoint(folder.path).tensors["x"], (slice(1, 32), slice(None)), wanted)
    assert torch.equal(values, written[1:32].to(getattr(torch, wanted)))


@pytest.mark.parametrize("stored", FLOATS + OTHERS + ["float8_e4m3fn"])
def test_only_floats_convert_and_only_into_floats(stored):
    into = [wanted for wanted in [*FLOATS, *OTHERS, "float8_e4m3fn"] if convertible(stored, wanted)]
    assert into == (FLOATS if stored in FLOATS else [stored])


@KINDS
def test_the_tensors_of_all_shards_are_listed(folder, kind):
    written = {f"layers.{i}.weight": numbers(i + 1, 3) for i in range(4)}
    folder.write_sharded(written, kind)
    checkpoint = Checkpoint(folder.path)
    assert list(checkpoint.tensors) == list(written)
    assert checkpoint.problems == []
    for name, stored in checkpoint.tensors.items():
        assert torch.equal(read(stored, everything(stored), "float32")[0], written[name])


def test_the_index_decides_which_of_two_tensors_of_a_name_is_read(folder):
    folder.write({"x": torch.ones(2), "y": torch.ones(2)}, file="a.safetensors")
    folder.write({"x": torch.full((2,), 5.0)}, file="b.safetensors")
    folder.write_index({"x": "b.safetensors", "y": "a.safetensors"})
    checkpoint = Checkpoint(folder.path)
    assert checkpoint.problems == []
    assert read(checkpoint.tensors["x"], (slice(None),), "float32")[0].tolist() == [5, 5]


@st.composite
def tensors_and_parts(draw):
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    part = []
    for size in shape:
        start = draw(st.integers(0, size))
        part.append(draw(st.sampled_from([slice(None), slice(start, draw(st.integers(start, size)))])))
    return tuple(shape), tuple(part)


@KINDS
@given(case=tensors_and_parts(), block=st.sampled_from([1, 16, 100, 8 << 20]), wanted=st.sampled_from(FLOATS))
@settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_part_is_what_numpy_slices_whatever_the_block_size(folder, monkeypatch, kind, case, block, wanted):
    monkeypatch.setattr(room, "_BLOCK", block)
    shape, part = case
    written = numbers(*shape)
    folder.write({"x": written, "y": numbers(3)}, kind)
    values, read_bytes = read(Checkpoint(folder.path).tensors["x"], part, wanted)
    assert torch.equal(values, torch.from_numpy(written.numpy()[part]).to(getattr(torch, wanted)))
    assert read_bytes == values.numel() * 4


@KINDS
def test_a_tensor_may_be_read_again_after_its_pages_were_given_back(folder, kind):
    written = numbers(300, 1000)
    folder.write({"x": written}, kind)
    stored = Checkpoint(folder.path).tensors["x"]
    first, second = (read(stored, everything(stored), "float32")[0] for _ in range(2))
    assert torch.equal(first, written)
    assert torch.equal(second, written)


def resident_bytes(path) -> int:
    """How much of a mapped file this process has in memory."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            counts = line.endswith(str(path))
        elif counts and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@KINDS
def test_a_slice_of_rows_reads_its_own_pages_only(folder, monkeypatch, kind):
    monkeypatch.setattr(room, "_release", lambda block, file: None)
    path = folder.write({"x": numbers(1024, 8192)}, kind)  # 32 MiB
    stored = Checkpoint(folder.path).tensors["x"]
    before = resident_bytes(path)
    read(stored, (slice(256, 384), slice(None)), "float32")
    # The system reads in larger pieces than pages, hence the margin.
    assert 4 << 20 <= resident_bytes(path) - before <= 8 << 20


@KINDS
def test_no_pages_of_the_file_stay_in_memory_after_a_copy(folder, kind):
    path = folder.write({"x": numbers(1024, 8192)}, kind)
    stored = Checkpoint(folder.path).tensors["x"]
    for part in ((slice(None), slice(None)), (slice(None), slice(100, 4000))):
        read(stored, part, "float32")
        assert resident_bytes(path) <= 1 << 20


def test_nothing_stays_mapped_when_a_checkpoint_is_dropped(folder):
    path = folder.write({"x": numbers(3, 3)})
    checkpoint = Checkpoint(folder.path)
    assert str(path) in Path("/proc/self/maps").read_text()
    del checkpoint
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_weights_saved_with_gradients_are_plain_values(folder):
    folder.write({"x": torch.nn.Parameter(torch.ones(3))}, "bin")
    values, _ = read(Checkpoint(folder.path).tensors["x"], (slice(None),), "float32")
    assert values.tolist() == [1, 1, 1]
    assert not values.requires_grad


def test_a_transposed_tensor_of_a_torch_file_is_read_as_it_was_meant(folder):
    written = numbers(5, 7).T
    folder.write({"x": written}, "bin")
    values, _ = read(Checkpoint(folder.path).tensors["x"], (slice(2, 6), slice(1, 4)), "float32")
    assert torch.equal(values, written[2:6, 1:4])


def test_tensors_of_a_torch_file_that_share_their_storage_are_read(folder):
    whole = numbers(5, 7)
    folder.write({"whole": whole, "middle": whole[2:4, 3:]}, "bin")
    stored = Checkpoint(folder.path).tensors["middle"]
    assert torch.equal(read(stored, everything(stored), "float32")[0], whole[2:4, 3:])


@pytest.mark.parametrize("spaces", range(4))
def test_tensors_are_read_at_any_alignment(folder, header_of, spaces):
    header_of(folder.write({"x": numbers(3, 5)}), dict, spaces)
    stored = Checkpoint(folder.path).tensors["x"]
    assert torch.equal(read(stored, everything(stored), "float32")[0], numbers(3, 5))
