"""Arguments that name a GGUF file are pointed at its folder, and those that contradict it are refused."""

import numpy as np
import pytest
from huggingface_hub import errors
from loader import gguf_files

from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.model_executor_ms.server import gguf
from sglang.srt.server_args import ServerArgs

SECONDS = 5


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf.Path, "home", classmethod(lambda cls: tmp_path / "home"))
    return gguf_files.write(tmp_path / "tiny.Q8_0.gguf", gguf_files.weights(np.random.default_rng(0)))


def resolved(path, **arguments):
    server_args = ServerArgs(model_path=str(path), **arguments)
    gguf.read(server_args)
    return resolving_view(server_args)


def test_a_file_is_served_from_its_folder_by_its_own_name(file):
    view = resolved(file)
    assert view.model_path == view.tokenizer_path
    assert view.model_path.startswith(f"{file.parent}/home/.cache/sglang-mindspore/gguf/tiny.Q8_0-")
    assert view.served_model_name == str(file)
    assert gguf.folder(view.model_path) == view.model_path.rpartition("/")[0]


def test_what_the_user_named_stays(file):
    view = resolved(file, served_model_name="tiny", tokenizer_path="elsewhere")
    assert (view.served_model_name, view.tokenizer_path) == ("tiny", "elsewhere")


def test_the_folder_of_one_model_is_served_where_the_format_says_so(file):
    assert resolved(file.parent, load_format="gguf").model_path.endswith("/tiny.Q8_0.gguf")
    assert resolved(file.parent).model_path == str(file.parent)


def test_a_name_of_the_hub_is_sglangs(file, monkeypatch):
    asked = []

    def resolve(name, revision=None):
        asked.append((name, revision))
        return str(file)

    monkeypatch.setattr("sglang.srt.utils.hf_transformers_utils.resolve_hf_gguf_reference", resolve)
    view = resolved("owner/name:Q8_0", revision="main")
    assert view.model_path.endswith("/tiny.Q8_0.gguf")
    assert view.served_model_name == "owner/name:Q8_0"
    assert asked == [("owner/name:Q8_0", "main")]


def test_other_parts_of_a_model_of_the_hub_are_downloaded(file, monkeypatch):
    asked, first = [], file.with_name("m-00001-of-00002.gguf")

    def download(repository, name, revision=None):
        asked.append((repository, name, revision))
        raise errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr("sglang.srt.utils.hf_transformers_utils.resolve_hf_gguf_reference", lambda *_, **__: str(first))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    first.write_bytes(file.read_bytes())
    with pytest.raises(gguf.UnreadableGGUF, match="owner/name/sub/m-00001-of-00002.gguf: .*offline"):
        resolved("owner/name/sub/m-00001-of-00002.gguf")
    assert asked == [("owner/name", "sub/m-00002-of-00002.gguf", None)]


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"load_format": "safetensors"}, "--load-format safetensors: .*tiny.Q8_0.gguf is a GGUF file"),
        ({"quantization": "w8a8_int8"}, "--quantization w8a8_int8: .* is a GGUF file, quantized already"),
    ],
)
def test_arguments_that_contradict_the_file_are_refused(file, arguments, reason):
    with pytest.raises(gguf.UnreadableGGUF, match=reason):
        resolved(file, **arguments)


def test_quantization_gguf_of_something_else_is_refused(tmp_path):
    with pytest.raises(gguf.UnreadableGGUF, match="--quantization gguf: .* is no GGUF file"):
        resolved(tmp_path, quantization="gguf")


def test_damage_ends_the_start_with_its_reason(file):
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(gguf.UnreadableGGUF, match=r"tiny\.Q8_0\.gguf: .*left in the file"):
        resolved(file)


def test_where_config_json_is(tmp_path):
    assert gguf.folder(str(tmp_path)) == str(tmp_path)
    assert gguf.folder("owner/name") == "owner/name"


def drafts(view):
    names = ("model_path", "load_format", "model_quantization")
    return [getattr(view, f"speculative_draft_{name}") for name in names]


def test_a_draft_is_in_a_file_or_not_whatever_its_target_is_in(file, tmp_path):
    link = resolved(file).model_path
    assert drafts(resolved(file)) == [None, None, None]
    assert drafts(resolved(tmp_path, speculative_draft_model_path="draft")) == ["draft", None, None]
    assert drafts(resolved(file, speculative_draft_model_path="draft")) == ["draft", "auto", "unquant"]
    for target in (file, tmp_path):
        assert drafts(resolved(target, speculative_draft_model_path=str(file))) == [link, "gguf", "gguf"]
    dummy = resolved(file, speculative_draft_model_path="draft", speculative_draft_load_format="dummy")
    assert drafts(dummy) == ["draft", "dummy", "unquant"]
    with pytest.raises(gguf.UnreadableGGUF, match="--speculative-draft-model-path no.gguf: there is no such file"):
        resolved(tmp_path, speculative_draft_model_path="no.gguf")
