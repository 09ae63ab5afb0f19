"""Which files a checkpoint consists of, and where they are."""

import json
from pathlib import Path

import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects
from transformers import PretrainedConfig, modeling_utils

from sglang.srt.model_loader_ms import files
from sglang.srt.model_loader_ms.files import CheckpointError, find, locate

SECONDS = 4
REVISION = "0123456789abcdef0123456789abcdef01234567"


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


def found(folder, load_format="auto"):
    return [path.name for path in find(folder, load_format).paths]


@pytest.mark.parametrize(
    "load_format, wanted",
    [("auto", ["a.safetensors"]), ("safetensors", ["a.safetensors"]), ("pt", ["b.bin"])],
)
def test_the_load_format_says_which_files_are_read(tmp_path, load_format, wanted):
    touch(tmp_path, "a.safetensors", "b.bin", "c.pt", "config.json")
    assert found(tmp_path, load_format) == wanted


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
@pytest.mark.parametrize("load_format", ["auto", "pt"])
def test_torch_files_are_read_where_there_are_no_safetensors(tmp_path, name, load_format):
    touch(tmp_path, name)
    assert found(tmp_path, load_format) == [name]


def test_several_files_without_an_index_are_all_read(tmp_path):
    touch(tmp_path, "b.safetensors", "a.safetensors")
    assert found(tmp_path) == ["a.safetensors", "b.safetensors"]


def test_an_index_says_which_files_are_read(tmp_path):
    touch(tmp_path, "a.safetensors", "stale.safetensors")
    index = {"x": "b.safetensors", "y": "a.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert found(tmp_path) == ["a.safetensors", "b.safetensors"]
    assert find(tmp_path, "auto").index == index


def test_consolidated_files_are_read_only_where_there_are_no_others(tmp_path):
    touch(tmp_path, "consolidated.safetensors")
    assert found(tmp_path) == ["consolidated.safetensors"]
    touch(tmp_path, "model.safetensors")
    assert found(tmp_path) == ["model.safetensors"]


def test_a_training_state_is_not_a_checkpoint(tmp_path):
    touch(tmp_path, "training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
    with pytest.raises(CheckpointError, match=r"holds no weights: load_format = 'auto' wants \*.safetensors or"):
        find(tmp_path, "auto")


def test_a_folder_without_weights_of_the_format_is_refused(tmp_path):
    touch(tmp_path, "model.bin")
    with pytest.raises(CheckpointError, match=r"load_format = 'safetensors' wants \*.safetensors$"):
        find(tmp_path, "safetensors")


@pytest.mark.parametrize("action", [lambda path: find(path, "npz"), lambda path: locate(path, "npz")])
def test_an_unknown_load_format_names_the_known_ones(tmp_path, action):
    with pytest.raises(
        CheckpointError, match="'npz' is not supported; use one of auto, safetensors, pt, .*mistral, dummy"
    ):
        action(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"x": 1}}'])
def test_an_index_that_is_none_is_refused_by_name(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="model.safetensors.index.json.*weight_map"):
        find(tmp_path, "auto")


def test_a_folder_is_its_own_place(tmp_path):
    assert locate(tmp_path) == tmp_path
    assert locate(str(tmp_path)) == tmp_path


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    touch(tmp_path, "model.safetensors")
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        locate(tmp_path / "model.safetensors")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hugging Face cache with one model of one revision, and no network."""
    snapshot = tmp_path / "models--maker--model" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (refs := tmp_path / "models--maker--model" / "refs").mkdir()
    (refs / "main").write_text(REVISION)
    monkeypatch.setattr(files, "snapshot_download", Hub(files.snapshot_download))
    return snapshot


class Hub:
    """snapshot_download of a hub that nobody can reach, or that has the files `uploads`."""

    def __init__(self, real):
        self.real, self.uploads, self.asked = real, None, []

    def __call__(self, repo, local_files_only, **options):
        folder = self.real(repo, local_files_only=True, **options)
        if not local_files_only:
            self.asked.append(options["allow_patterns"][0])
            if self.uploads is None:
                raise errors.OfflineModeIsEnabled("no network here")
            patterns = {key: options[key] for key in ("allow_patterns", "ignore_patterns")}
            for name in filter_repo_objects(self.uploads, **patterns):
                (Path(folder) / name).parent.mkdir(exist_ok=True)
                (Path(folder) / name).touch()
        return folder


def test_a_hub_id_is_found_in_the_cache_without_asking_the_hub(hub, tmp_path):
    touch(hub, "model.safetensors")
    assert locate("maker/model", cache_dir=tmp_path) == hub
    assert files.snapshot_download.asked == []


def test_a_revision_is_looked_up_in_the_cache(hub, tmp_path):
    touch(hub, "model.safetensors")
    assert locate("maker/model", revision=REVISION, cache_dir=tmp_path) == hub
    with pytest.raises(CheckpointError, match="no weights .* for maker/model"):
        locate("maker/model", revision="other", cache_dir=tmp_path)


def test_weights_that_the_cache_lacks_are_fetched_from_the_hub(hub, tmp_path):
    touch(hub, "config.json")
    files.snapshot_download.uploads = ["pytorch_model.bin"]
    assert locate("maker/model", cache_dir=tmp_path) == hub
    assert files.snapshot_download.asked == ["*.safetensors", "*.bin"]


def test_shards_that_the_cache_lacks_are_fetched_from_the_hub(hub, tmp_path):
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (hub / "model.safetensors.index.json").write_text(json.dumps(index))
    touch(hub, "a.safetensors")
    files.snapshot_download.uploads = ["b.safetensors"]
    assert locate("maker/model", cache_dir=tmp_path) == hub
    assert files.snapshot_download.asked == ["*.safetensors"]


def test_only_weights_and_their_index_are_fetched_and_none_of_subfolders(hub, tmp_path):
    weights = ["model.safetensors", "model.safetensors.index.json"]
    files.snapshot_download.uploads = [*weights, "pytorch_model.bin", "original/x.safetensors", "onnx/model.bin"]
    assert locate("maker/model", cache_dir=tmp_path) == hub  # the empty index is not read beside the one file
    assert sorted(path.name for path in hub.iterdir()) == weights


def test_weights_that_are_nowhere_are_refused_with_the_hubs_reason(hub, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"no weights \(\*.safetensors, .*\) for maker/model: .*: no network here"
    ):
        locate("maker/model", cache_dir=tmp_path)


@pytest.mark.parametrize("source", ["/no/such/folder", "no such model"])
def test_a_place_that_is_neither_a_folder_nor_a_hub_id_is_refused(source):
    with pytest.raises(CheckpointError, match=f"for {source}: not a folder"):
        locate(source)


@pytest.fixture
def both_find(tmp_path):
    """Function: the files that we find, once it is sure that transformers finds the same."""

    def check(load_format="auto"):
        options = dict(variant=None, gguf_file=None, is_remote_code=False, user_agent={})
        options |= dict(use_safetensors={"auto": None, "safetensors": True, "pt": False}[load_format])
        config = PretrainedConfig.from_pretrained(tmp_path) if (tmp_path / "config.json").exists() else None
        named = getattr(config, "transformers_weights", None)
        theirs, _ = modeling_utils._get_resolved_checkpoint_files(
            tmp_path, transformers_explicit_filename=named, **options
        )
        ours = find(tmp_path, load_format).files
        assert [Path(path) for path in theirs] == list(ours.values())
        return list(ours)

    return check


def write_index(path, *names):
    index = {f"tensor{number}": name for number, name in enumerate(names)}
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))


BESIDE = (  # what training, other programs and other systems leave in a folder
    "._model.safetensors",
    ".hidden.safetensors",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "optimizer.bin",
    "optimizer.pt",
    "optimizer.safetensors",
    "scheduler.pt",
    "training_args.bin",
    "rng_state_0.pth",
    "consolidated.safetensors",
    "consolidated.00.pth",
    "model.fp16.safetensors",
    "mp_rank_00_model_states.pt",
    "original/model.safetensors",
    "checkpoint-500/model.safetensors",
    "onnx/model.bin",
)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_what_lies_beside_the_weights_is_not_read(tmp_path, both_find, weights):
    for name in BESIDE:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    touch(tmp_path, weights)
    assert both_find() == [weights]


@pytest.mark.parametrize("shards", ["model-{}.safetensors", "weights/part{}.safetensors", "a/b/{}.safetensors"])
def test_shards_are_where_the_index_says(tmp_path, both_find, shards):
    names = [shards.format(number) for number in (1, 2)]
    write_index(tmp_path / "model.safetensors.index.json", *names)
    for name in (*names, shards.format("stale"), *BESIDE):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert both_find() == sorted(names)


def test_safetensors_come_before_torch_files_and_one_file_before_an_index(tmp_path, both_find):
    write_index(tmp_path / "pytorch_model.bin.index.json", "pytorch_model-1.bin")
    touch(tmp_path, "pytorch_model-1.bin")
    assert both_find() == both_find("pt") == ["pytorch_model-1.bin"]
    touch(tmp_path, "pytorch_model.bin")
    assert both_find() == both_find("pt") == ["pytorch_model.bin"]
    write_index(tmp_path / "model.safetensors.index.json", "model-1.safetensors")
    touch(tmp_path, "model-1.safetensors")
    assert both_find() == ["model-1.safetensors"]
    touch(tmp_path, "model.safetensors")
    assert both_find() == both_find("safetensors") == ["model.safetensors"]
    assert both_find("pt") == ["pytorch_model.bin"]


def test_config_json_may_name_the_weights(tmp_path, both_find):
    touch(tmp_path, "model.safetensors", "merged.safetensors", "part.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "transformers_weights": "merged.safetensors"}')
    assert both_find() == ["merged.safetensors"]
    write_index(tmp_path / "merged.safetensors.index.json", "part.safetensors")
    named = '{"model_type": "llama", "transformers_weights": "merged.safetensors.index.json"}'
    (tmp_path / "config.json").write_text(named)
    assert both_find() == ["part.safetensors"]
    (tmp_path / "config.json").write_text('{"transformers_weights": "../x.safetensors"}')
    with pytest.raises(CheckpointError, match="outside of the folder"):
        find(tmp_path, "auto")


def test_one_file_is_part_of_the_checkpoint_where_the_index_names_it(tmp_path):
    touch(tmp_path, "model.safetensors", "more.safetensors")
    write_index(tmp_path / "model.safetensors.index.json", "model.safetensors", "more.safetensors")
    assert found(tmp_path) == ["model.safetensors", "more.safetensors"]


def test_a_damaged_index_beside_the_one_file_is_not_read(tmp_path, both_find):
    touch(tmp_path, "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{")
    assert both_find() == ["model.safetensors"]


def test_shards_without_an_index_are_told_from_what_lies_beside_them(tmp_path):
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    touch(tmp_path, *shards, *(name for name in BESIDE if "/" not in name and "fp16" not in name), "extra.safetensors")
    assert found(tmp_path) == shards


def test_hidden_files_are_no_weights_whatever_others_are_called(tmp_path):
    touch(tmp_path, "mine.safetensors", "._mine.safetensors", ".mine.safetensors")
    assert found(tmp_path) == ["mine.safetensors"]


def test_a_folder_of_an_adapter_alone_is_called_so(tmp_path):
    touch(tmp_path, "adapter_model.safetensors", "optimizer.pt")
    with pytest.raises(CheckpointError, match="holds no weights: .*weights of an adapter only, and a model is needed"):
        find(tmp_path, "auto")


def test_shards_in_folders_are_fetched_from_the_hub(hub, tmp_path):
    index = {"weight_map": {"x": "parts/a.safetensors"}}
    (hub / "model.safetensors.index.json").write_text(json.dumps(index))
    files.snapshot_download.uploads = ["parts/a.safetensors", "parts/other.safetensors", "b.safetensors"]
    assert locate("maker/model", cache_dir=tmp_path) == hub
    assert [path.name for path in (hub / "parts").iterdir()] == ["a.safetensors"]
