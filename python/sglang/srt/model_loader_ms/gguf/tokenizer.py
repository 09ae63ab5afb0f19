"""tokenizer.json and tokenizer_config.json of a model, from the header of its GGUF file."""

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers.integrations.gguf import convert_gguf_tokenizer

from sglang.srt.model_loader_ms.gguf.header import GGUFError
from sglang.srt.model_loader_ms.gguf.pre_tokenizers import ADDS_BOS, NORMALIZERS, PRE_TOKENIZERS

_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens
_INSTEAD = "put the model's tokenizer.json and tokenizer_config.json beside the file"
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def tokenizer_files(metadata: dict, architecture: str) -> dict[str, str]:
    """Name -> text of both files. GGUFError where the vocabulary is of a kind that is not known."""
    vocabulary = _Vocabulary(metadata)
    if vocabulary.kind == "gpt2":
        tokenizer = _byte_level(vocabulary)
    elif vocabulary.kind == "llama":
        tokenizer = _sentencepiece(vocabulary, architecture)
    else:
        raise GGUFError(
            f"tokenizer.ggml.model is {vocabulary.kind!r}; read are 'gpt2' (byte-level) and 'llama' (SentencePiece): "
            f"{_INSTEAD}"
        )
    _add_tokens(tokenizer, vocabulary)
    config = _config(vocabulary)
    if config["add_bos_token"]:
        _put_first(tokenizer, vocabulary)
    return {"tokenizer.json": tokenizer.to_str(), "tokenizer_config.json": json.dumps(config, ensure_ascii=False)}


class _Vocabulary:
    def __init__(self, metadata: dict):
        self.metadata = metadata
        self.kind, self.pre = self.get("model"), self.get("pre", "default")
        self.tokens = self.get("tokens")
        if not isinstance(self.tokens, list) or not self.tokens:
            raise GGUFError(f"metadata has no tokenizer.ggml.tokens: {_INSTEAD}")
        self.kinds, self.scores = self.list_of("token_type", 1), self.list_of("scores", 0.0)

    def get(self, name: str, default=None):
        return self.metadata.get(f"tokenizer.ggml.{name}", default)

    def list_of(self, name: str, default) -> list:
        """One number a token."""
        given = self.get(name)
        if given is None:
            return [default] * len(self.tokens)
        if isinstance(given, str | int | float) or len(given) != len(self.tokens):
            raise GGUFError(f"tokenizer.ggml.{name} has not as many entries as there are tokens, {len(self.tokens)}")
        return given.tolist() if hasattr(given, "tolist") else given

    def token(self, name: str) -> str | None:
        """The token of tokenizer.ggml.NAME_token_id; None: there is none."""
        place = self.get(f"{name}_token_id")
        if place is None:
            return None
        if not isinstance(place, int) or not 0 <= place < len(self.tokens):
            raise GGUFError(f"tokenizer.ggml.{name}_token_id is {place!r}, of {len(self.tokens)} tokens")
        return self.tokens[place]

    def adds(self, name: str, default: bool) -> bool:
        return bool(self.get(f"add_{name}", default))


def _byte_level(vocabulary: _Vocabulary) -> Tokenizer:
    if vocabulary.pre not in PRE_TOKENIZERS:
        raise GGUFError(
            f"tokenizer.ggml.pre is {vocabulary.pre!r}, which says how text is cut; known are "
            f"{', '.join(PRE_TOKENIZERS)}: {_INSTEAD}"
        )
    merges = vocabulary.get("merges")
    pairs = [tuple(merge.split(" ")) for merge in merges] if isinstance(merges, list) else []
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise GGUFError(f"tokenizer.ggml.merges has to be a list of pairs of tokens: {_INSTEAD}")
    places = {token: place for place, token in enumerate(vocabulary.tokens)}
    if len(places) != len(vocabulary.tokens):
        raise GGUFError(f"{len(vocabulary.tokens) - len(places)} of tokenizer.ggml.tokens are there twice: {_INSTEAD}")
    try:
        tokenizer = Tokenizer(models.BPE(places, pairs, ignore_merges=vocabulary.pre in ("llama-bpe", "tekken")))
    except Exception as error:  # tokenizers raises nothing more special
        raise GGUFError(f"tokenizer.ggml.merges do not fit the tokens: {error}") from error
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[vocabulary.pre]
    if vocabulary.pre in NORMALIZERS:
        tokenizer.normalizer = NORMALIZERS[vocabulary.pre]
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(vocabulary: _Vocabulary, architecture: str) -> Tokenizer:
    """What transformers makes of it; which merges a vocabulary of scores stands for is its knowledge.

    But a space comes before every text, also before one that begins with spaces, as SentencePiece and llama.cpp do it.
    """
    given = {"tokenizer_type": "llama", "tokens": vocabulary.tokens, "scores": vocabulary.scores}
    if vocabulary.get("merges") is not None:
        given["merges"] = vocabulary.get("merges")
    try:
        tokenizer, _ = convert_gguf_tokenizer(architecture, given)
    except Exception as error:  # tokenizers and transformers raise nothing more special
        raise GGUFError(f"no tokenizer can be made of tokenizer.ggml.tokens ({error}): {_INSTEAD}") from error
    if not architecture.startswith("gemma"):
        prefixed = vocabulary.adds("space_prefix", True)
        first = [normalizers.Prepend("\u2581")] if prefixed else []
        last = [decoders.Strip(content=" ", left=1)] if prefixed else []
        tokenizer.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", "\u2581")])
        tokenizer.pre_tokenizer = None
        pieces = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence([*pieces, *last])
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, vocabulary: _Vocabulary) -> None:
    """Tokens that are never cut. Their numbers are those that they have.

    Spaces that Gemma's vocabulary has as tokens are put together of one: under that name the tokenizer has none.
    """
    kinds = list(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
    kinds = [(token, kind) for token, kind in kinds if tokenizer.token_to_id(token) is not None]
    control = [AddedToken(token, normalized=False, special=True) for token, kind in kinds if kind == _CONTROL]
    user = [AddedToken(token, normalized=False, special=False) for token, kind in kinds if kind == _USER_DEFINED]
    tokenizer.add_special_tokens(control)
    tokenizer.add_tokens(user)


def _config(vocabulary: _Vocabulary) -> dict:
    default = vocabulary.kind == "llama" or vocabulary.pre in ADDS_BOS
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": vocabulary.adds("bos_token", default) and vocabulary.token("bos") is not None,
        "add_eos_token": False,
    }
    special = {name: vocabulary.token(key) for name, key in _SPECIAL.items()}
    config |= {name: token for name, token in special.items() if token is not None}
    template = vocabulary.metadata.get("tokenizer.chat_template")
    return config | ({"chat_template": template} if isinstance(template, str) else {})


def _put_first(tokenizer: Tokenizer, vocabulary: _Vocabulary) -> None:
    token = vocabulary.token("bos")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, vocabulary.get("bos_token_id"))]
    )
