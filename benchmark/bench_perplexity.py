"""Perplexity on Python's documentation: this backend beside llama.cpp on one GGUF file, or beside its own bfloat16.

python benchmark/bench_perplexity.py MODEL.gguf --dtypes bfloat16 float32
python benchmark/bench_perplexity.py MODEL.gguf --quantizations fp8 w8a8_int8 bitsandbytes

The text is pydoc_data.topics, the language reference that comes with Python. Its first --tokens ids, by the model's
tokenizer, are cut into windows. Each begins anew, with the token that the tokenizer begins texts with. All tokens of a
window but the first are foretold. All engines are given the same ids, one after another.

With --quantizations the values that the file stands for are written as a bfloat16 checkpoint first. MODEL may be the
folder of such a checkpoint as well.
"""

import argparse
import json
import math
from pathlib import Path
from pydoc_data.topics import topics

import torch
from peers import CACHE, ENGINES, OURS, Engine, Session, interpreter
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang.srt.model_loader_ms.gguf.folder import folder_of

TOKENS, WINDOW = 10_000, 500
LLAMA_CPP = "llama.cpp"


def windows_of(tokenizer, tokens: int, window: int) -> list[list[int]]:
    """The first ids of the text, window by window."""
    text = "\n\n".join(topics.values())[: 10 * tokens]  # of which tokens are shorter
    ids = tokenizer.encode(text, add_special_tokens=False)[:tokens]
    begin = [token for token in tokenizer.encode("")[:1] if token == tokenizer.bos_token_id]
    return [begin + ids[start : start + window] for start in range(0, len(ids), window)]


def values_of(file: Path, tokenizer) -> Path:
    """A bfloat16 checkpoint of what a GGUF file stands for, as transformers reads it; written once."""
    folder = CACHE / "values" / file.stem
    if not (folder / "config.json").exists():
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


def perplexity(engine: Engine, python: str, model: Path, windows: list[list[int]]) -> float:
    """Of all tokens that are foretold in these windows."""
    ENGINES["perplexity"] = engine
    session = Session("perplexity", python, model)
    session.seconds(0, 0, 0, windows)
    told = session.told
    session.close()
    return math.exp(-told["logprobs"] / told["tokens"])


def ours(**arguments) -> Engine:
    return Engine("sglang_mindspore_logprobs.py", arguments=(json.dumps(arguments),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF file, or a folder with a bfloat16 checkpoint")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"], choices=["bfloat16", "float32", "float16"])
    parser.add_argument("--quantizations", nargs="+", default=[], help="made when the values are loaded")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--window", type=int, default=WINDOW)
    parser.add_argument("--environments", type=Path, default=CACHE / "peers")
    arguments = parser.parse_args()
    model, is_file = arguments.model.resolve(), arguments.model.is_file()
    tokenizer = AutoTokenizer.from_pretrained(folder_of(model, CACHE / "gguf").parent if is_file else model)
    windows = windows_of(tokenizer, arguments.tokens, arguments.window)
    own = interpreter(OURS, arguments.environments)
    runs = {}
    if arguments.quantizations:
        model = values_of(model, tokenizer) if is_file else model
        runs["bfloat16"] = (ours(dtype="bfloat16"), own)
        runs |= {name: (ours(dtype="bfloat16", quantization=name), own) for name in arguments.quantizations}
    else:
        if is_file:
            runs[LLAMA_CPP] = (Engine("llama_cpp_logprobs.py"), interpreter(LLAMA_CPP, arguments.environments))
        runs |= {dtype: (ours(dtype=dtype), own) for dtype in arguments.dtypes}
    print(f"{model.name}: {sum(map(len, windows))} tokens in windows of {arguments.window}", flush=True)
    first = None
    for name, run in runs.items():
        found = perplexity(*run, model, windows)
        first = first or found
        print(f"{name:12} {found:8.4f}  {found / first:7.4f} x {next(iter(runs))}", flush=True)


if __name__ == "__main__":
    main()
