"""Damaged checkpoints are reported file by file, with the tensors that are lost."""

import json
import os
import re
import zipfile

import pytest
import torch

from sglang.srt.model_loader_ms.checkpoint import Checkpoint

SECONDS = 1


def problems_of(folder) -> str:
    return "\n".join(Checkpoint(folder.path).problems)


def cut(path, byte_count):
    path.write_bytes(path.read_bytes()[:-byte_count])


def test_a_truncated_safetensors_file_names_the_tensors_that_are_cut_off(folder):
    cut(folder.write({"a": torch.ones(100), "b": torch.ones(100), "c": torch.ones(100)}), 401)
    checkpoint = Checkpoint(folder.path)
    assert checkpoint.problems == ["truncated file: model.safetensors ends before the end of b, c"]
    assert checkpoint.lost == {"b", "c"}
    assert list(checkpoint.tensors) == ["a"]


def test_a_truncated_torch_file_is_reported(folder):
    cut(folder.write({"a": torch.ones(1000)}, "bin"), 700)
    assert problems_of(folder).startswith("unreadable file: pytorch_model.bin: it is cut off")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_missing_shard_is_reported_with_the_tensors_that_the_index_puts_there(folder, kind):
    paths = folder.write_sharded({"a": torch.ones(3), "b": torch.ones(3)}, kind)
    paths[1].unlink()
    checkpoint = Checkpoint(folder.path)
    assert checkpoint.problems == [f"missing file: {paths[1].name}: the download is not complete; it holds b"]
    assert checkpoint.lost == {"b"}
    assert list(checkpoint.tensors) == ["a"]


def test_a_link_to_nowhere_is_a_missing_file(folder):
    (folder.path / "model.safetensors").symlink_to("../blobs/gone")
    assert problems_of(folder) == "missing file: model.safetensors: the download is not complete"


def test_a_damaged_shard_is_reported_with_its_tensors_and_the_others_are_listed(folder):
    paths = folder.write_sharded({"a": torch.ones(3), "b": torch.ones(3), "c": torch.ones(3)})
    paths[0].write_bytes(b"")
    cut(paths[2], 5)
    checkpoint = Checkpoint(folder.path)
    assert checkpoint.problems == [
        f"unreadable file: {paths[0].name}: it is empty; it holds a",
        f"truncated file: {paths[2].name} ends before the end of c",
    ]
    assert checkpoint.lost == {"a", "c"}


def test_a_name_in_two_files_that_no_index_decides_between_is_reported(folder):
    for file in ("a.safetensors", "b.safetensors"):
        folder.write({"x": torch.ones(3)}, file=file)
    assert problems_of(folder) == "duplicate: x is in a.safetensors and in b.safetensors, and no index says which"


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "it is empty"),
        (b"abc", "it begins with a header of 6513249 bytes, of 3 in the file"),
        (b"\xff" * 100, "it begins with a header of 18446744073709551615 bytes, of 100 in the file"),
        (b"\x04\0\0\0\0\0\0\0{]}}", "its header is not JSON"),
        (b"\x02\0\0\0\0\0\0\0\xff\xfe", "its header is not JSON"),
        (b"\x02\0\0\0\0\0\0\0[]", "its header is not a JSON object"),
        ((200_000).to_bytes(8, "little") + b"[" * 200_000, "its header is not JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1234", "it begins with a header of"),
    ],
)
def test_a_file_that_is_no_safetensors_file_is_reported(folder, content, reason):
    (folder.path / "model.safetensors").write_bytes(content)
    assert problems_of(folder).startswith(f"unreadable file: model.safetensors: {reason}")


def test_a_huge_header_is_not_even_read(folder):
    path = folder.path / "model.safetensors"
    path.write_bytes((150 << 20).to_bytes(8, "little"))
    os.truncate(path, 200 << 20)
    assert "it begins with a header of 157286400 bytes" in problems_of(folder)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {},
        {"dtype": "F32", "shape": [3], "data_offsets": [0]},
        {"dtype": ["F32"], "shape": [3], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": 3, "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": ["3"], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [3.0], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [-3], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]},
        {"dtype": "F16", "shape": [3], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [3], "data_offsets": [-4, 8]},
        {"dtype": "F32", "shape": [3], "data_offsets": [None, 12]},
    ],
    ids=str,
)
def test_a_header_that_contradicts_itself_names_the_tensor(folder, header_of, entry):
    header_of(folder.write({"x": torch.ones(3), "y": torch.ones(3)}), lambda header: {**header, "x": entry})
    assert problems_of(folder).startswith("unreadable file: model.safetensors: its header ")
    assert " x" in problems_of(folder)


def test_bytes_that_no_header_entry_describes_are_reported(folder):
    path = folder.write({"x": torch.ones(3)})
    path.write_bytes(path.read_bytes() + b"more")
    assert "its header describes" in problems_of(folder)


def test_a_dtype_that_torch_does_not_have_is_listed_by_its_name(folder, header_of):
    header_of(
        folder.write({"x": torch.ones(3)}), lambda header: {"x": {**header["x"], "dtype": "F6_E2M3", "shape": [16]}}
    )
    checkpoint = Checkpoint(folder.path)
    assert checkpoint.problems == []
    assert checkpoint.tensors["x"][:2] == ((16,), "F6_E2M3")


class Surprise:
    def __reduce__(self):
        return print, ("this must not be printed",)


def test_a_torch_file_that_would_run_code_is_refused_and_runs_none(folder, capsys):
    folder.write({"x": Surprise()}, "bin")
    assert "pytorch_model.bin: it holds more than tensors" in problems_of(folder)
    assert "this must not" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content, reason",
    [
        ([torch.ones(3)], "it holds a list, not a dict of tensors"),
        (
            {"x": torch.ones(3), "epoch": 3, "s": torch.eye(3).to_sparse()},
            "only dense .* these are not: epoch, s",
        ),
        ({"x": torch.ones(3, device="meta")}, "these are not: x"),
    ],
    ids=["a list", "a number and a sparse tensor", "a tensor without values"],
)
def test_a_torch_file_of_something_else_is_reported(folder, content, reason):
    folder.write(content, "bin")
    assert re.search(f"unreadable file: pytorch_model.bin: .*{reason}", problems_of(folder))


def test_a_torch_file_whose_tensors_reach_beyond_its_end_is_reported(folder):
    path = folder.write({"x": torch.ones(3)}, "bin")
    with zipfile.ZipFile(path) as file:
        records = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in records.items():
            pickled_shapes = b"K\x03\x85", b"M\xff\xff\x85"  # (3,) and (65535,)
            file.writestr(name, content.replace(*pickled_shapes) if name.endswith("data.pkl") else content)
    assert problems_of(folder).startswith("unreadable file: pytorch_model.bin: ")


def test_a_torch_file_from_before_version_1_6_is_reported(folder):
    torch.save({"x": torch.ones(3)}, folder.path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert "not written by torch.save of torch 1.6 or later" in problems_of(folder)


def test_a_zip_file_that_is_no_torch_file_is_reported(folder):
    with zipfile.ZipFile(folder.path / "pytorch_model.bin", "w") as file:
        file.writestr("readme", json.dumps("hello"))
    assert "unreadable file: pytorch_model.bin: " in problems_of(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_in_place_of_a_file_is_reported(folder, name):
    (folder.path / name).mkdir()
    assert problems_of(folder) == f"unreadable file: {name}: Is a directory"
