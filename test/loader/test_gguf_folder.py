"""A GGUF file gives SGLang a config, a tokenizer and defaults of generation, from its header or from beside it."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from loader import gguf_files
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from transformers import AutoTokenizer, tokenization_utils_tokenizers

from sglang.srt.model_loader_ms.checkpoint import Checkpoint
from sglang.srt.model_loader_ms.files import CheckpointError, find, locate
from sglang.srt.model_loader_ms.gguf.folder import folder_of
from sglang.srt.model_loader_ms.gguf.header import GGUFError
from sglang.srt.model_loader_ms.gguf.split import read_headers
from sglang.srt.model_loader_ms.gguf.tokenizer import tokenizer_files

SECONDS = 10
DEMO = Path(__file__).parents[2] / "ms_example/demo_model"
TEXTS = (
    "Hello, world! It's 12,345 o'clock.",
    "  two spaces, a\ttab\n\nand lines \n",
    "Größe, 東京, Привет, 🙂 ½ ²",
    "def f(x):\n    return x['key'] + 1  # what's that?",
    "",
    " ",
    "don't DON'T we'll I'm",
)


@pytest.fixture
def file(tmp_path):
    return gguf_files.write(tmp_path / "model.gguf", gguf_files.weights(np.random.default_rng(0)))


def test_the_folder_has_what_sglang_reads_and_is_made_once(file, tmp_path):
    link = folder_of(file, tmp_path / "cache")
    assert link.resolve() == file
    assert {one.name for one in link.parent.iterdir()} == {
        "model.gguf",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    config = json.loads((link.parent / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["hidden_size"], config["head_dim"], config["num_key_value_heads"]) == (64, 16, 2)
    assert not config["tie_word_embeddings"]
    assert json.loads((link.parent / "generation_config.json").read_text())["eos_token_id"] == [2]
    (link.parent / "mark").touch()
    assert folder_of(file, tmp_path / "cache") == link
    assert (link.parent / "mark").exists()


def test_transformers_does_not_warn_of_cuts_that_another_release_had(file, tmp_path, monkeypatch):
    warned = []
    monkeypatch.setattr(tokenization_utils_tokenizers.logger, "warning", warned.append)
    AutoTokenizer.from_pretrained(folder_of(file, tmp_path / "cache").parent)
    assert warned == []


def test_the_folder_is_made_anew_where_the_file_has_changed(file, tmp_path):
    before = folder_of(file, tmp_path / "cache")
    tensors = gguf_files.weights(np.random.default_rng(1))
    del tensors["output.weight"]
    gguf_files.write(file, tensors)
    after = folder_of(file, tmp_path / "cache")
    assert after != before
    assert json.loads((after.parent / "config.json").read_text())["tie_word_embeddings"]


def test_files_beside_it_count_more_than_its_header(file, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["MistralForCausalLM"], "hidden_size": 3}))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    (tmp_path / "tokenizer.json").write_text("{}")  # alone it says too little
    found = folder_of(file, tmp_path / "cache").parent
    assert json.loads((found / "config.json").read_text())["hidden_size"] == 3
    assert json.loads((found / "generation_config.json").read_text())["eos_token_id"] == 7
    assert "model" in json.loads((found / "tokenizer.json").read_text())


def test_a_config_that_names_no_architecture_does_not_count(file, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert json.loads((folder_of(file, tmp_path / "cache").parent / "config.json").read_text())["hidden_size"] == 64


def test_a_folder_that_cannot_be_made_leaves_nothing(file, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(GGUFError, match=r"model\.gguf: "):
        folder_of(file, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.fixture
def split(tmp_path):
    tensors = gguf_files.weights(np.random.default_rng(0), layers=3)
    gguf_files.write(tmp_path / "m.gguf", tensors, layers=3, split_max_tensors=12)
    return sorted(tmp_path.glob("*.gguf")), tensors


def test_a_model_in_several_files_is_read_as_one(split, tmp_path):
    paths, tensors = split
    assert [path.name for path in paths] == [f"m-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    assert find(tmp_path, "gguf").paths == (paths[0],)
    link = folder_of(paths[0], tmp_path / "cache")
    found = Checkpoint(link, "gguf")
    assert found.problems == []
    assert len(found.tensors) == len(tensors)


def test_a_file_that_is_missing_or_another_models_is_named(split):
    paths, _ = split
    paths[1].rename(paths[1].with_suffix(".part"))
    with pytest.raises(GGUFError, match=r"one of 3 files, and beside it is no m-00002-of-00003\.gguf"):
        read_headers(paths[0])
    paths[1].write_bytes(paths[2].read_bytes())
    with pytest.raises(GGUFError, match=r"m-00002-of-00003\.gguf says that it is file 2 \(from 0\) of 3"):
        read_headers(paths[0])


def test_a_folder_of_several_models_is_refused(file, tmp_path):
    (tmp_path / "other.gguf").write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=r"several GGUF models; name the file to load: model\.gguf, other\.gguf"):
        find(tmp_path, "gguf")
    with pytest.raises(CheckpointError, match="neither a GGUF file nor a folder with one"):
        locate("owner/name", "gguf")


def test_damage_is_reported_as_that_of_other_checkpoints(file):
    file.write_bytes(file.read_bytes()[:-5])
    problem = "unreadable file: model.gguf: the file of"
    assert [one[: len(problem)] for one in Checkpoint(file).problems] == [problem]


def test_an_architecture_that_is_not_known_is_refused_by_name(file):
    file.write_bytes(file.read_bytes().replace(b"llama", b"mamba"))
    with pytest.raises(GGUFError, match=r"general\.architecture is 'mamba'; served are llama, qwen2, "):
        read_headers(file)


def byte_level(path) -> tuple[dict, Tokenizer]:
    """Metadata as llama.cpp's converter writes it of a tokenizer.json, and what it is of."""
    tokenizer = Tokenizer.from_file(str(path))
    given = json.loads(path.read_text())
    ids = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = {token["content"] for token in given["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [token for token, _ in ids],
        "tokenizer.ggml.token_type": np.array([3 if token in special else 1 for token, _ in ids]),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in given["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }, tokenizer


def sentencepiece(path) -> tuple[SentencePieceProcessor, dict]:
    """As `byte_level`, of a SentencePiece model."""
    model = SentencePieceProcessor(str(path))
    ids = range(model.vocab_size())
    kinds = [
        2
        if model.IsUnknown(i)
        else 3
        if model.IsControl(i)
        else 5
        if model.IsUnused(i)
        else 6
        if model.IsByte(i)
        else 1
        for i in ids
    ]
    return model, {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.IdToPiece(i) for i in ids],
        "tokenizer.ggml.scores": np.array([model.GetScore(i) for i in ids], np.float32),
        "tokenizer.ggml.token_type": np.array(kinds),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def loaded(metadata: dict, architecture: str, folder, model_type: str):
    """As SGLang does it, which knows the model's type too."""
    for name, text in tokenizer_files(metadata, architecture).items():
        (folder / name).write_text(text)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return AutoTokenizer.from_pretrained(folder)


def test_a_byte_level_tokenizer_is_the_one_that_it_was(tmp_path):
    metadata, original = byte_level(DEMO / "tokenizer.json")
    ours = loaded(metadata, "qwen3", tmp_path, "qwen3")
    for text in (*TEXTS, "<|im_start|>user\nHi<|im_end|>"):
        assert ours(text)["input_ids"] == original.encode(text).ids
        assert ours.decode(ours(text)["input_ids"]) == text
    assert ours.eos_token == "<|endoftext|>"
    assert ours.chat_template == metadata["tokenizer.chat_template"]


def test_a_sentencepiece_tokenizer_is_the_one_that_it_was(tmp_path):
    folder = Path(find_spec("mistral_common").origin).parent / "data"
    original, metadata = sentencepiece(folder / "mistral_instruct_tokenizer_240323.model.v3")
    ours = loaded(metadata, "llama", tmp_path, "llama")
    for text in TEXTS:
        assert ours(text)["input_ids"] == [1, *original.encode(text)]
        assert ours.decode(ours(text)["input_ids"], skip_special_tokens=True) == text


def test_spaces_that_gemma_has_as_tokens_keep_their_numbers():
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "\u2581", "a", "b", "  ", "   ", "<start_of_turn>", "<mask>"]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.arange(0.0, -len(tokens), -1.0, np.float32),
        "tokenizer.ggml.token_type": np.array([3, 3, 3, 2, 1, 1, 1, 4, 4, 4, 4]),
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.add_bos_token": False,
    }
    tokenizer = Tokenizer.from_str(tokenizer_files(metadata, "gemma3")["tokenizer.json"])
    assert tokenizer.get_vocab_size() == len(tokens)
    assert tokenizer.encode("<start_of_turn>b  b").ids == [9, 6, 7, 6]
    assert tokenizer.decode([6, 8, 6], skip_special_tokens=False) == "b   b"


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"model": "rwkv"}, "tokenizer.ggml.model is 'rwkv'; read are 'gpt2' (byte-level) and 'llama'"),
        ({"pre": "mystery"}, "tokenizer.ggml.pre is 'mystery', which says how text is cut; known are gpt-2"),
        ({"tokens": None}, "metadata has no tokenizer.ggml.tokens"),
        ({"merges": None}, "tokenizer.ggml.merges has to be a list of pairs of tokens"),
        ({"merges": ["a b"]}, "tokenizer.ggml.merges do not fit the tokens"),
        ({"eos_token_id": 2048}, "tokenizer.ggml.eos_token_id is 2048, of 2048 tokens"),
        ({"token_type": np.ones(3)}, "tokenizer.ggml.token_type has not as many entries as there are tokens, 2048"),
    ],
)
def test_a_tokenizer_that_cannot_be_made_is_refused(changes, reason):
    metadata, _ = byte_level(DEMO / "tokenizer.json")
    if changes.get("merges"):
        metadata["tokenizer.ggml.tokens"] = [f"t{i}" for i in range(2048)]
    metadata |= {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    with pytest.raises(GGUFError) as error:
        tokenizer_files({key: value for key, value in metadata.items() if value is not None}, "qwen3")
    assert reason in str(error.value)
