"""Records what models answer, bit by bit, and compares another commit's answers with the record.

    python test/golden_outputs.py record FILE [--only PATTERN ...]
    python test/golden_outputs.py compare FILE [--only PATTERN ...]

A change that is to leave results as they are is compared with a record of the commit before it. A record holds the
SHA-256 of raw logits, and tokens as they are. It is of one machine: another instruction set gives other bits.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# One thread and waiting without spinning: as reproducible as can be. Read when torch loads OpenMP.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

TEST = Path(__file__).parent
sys.path.insert(0, str(TEST))  # as pytest does, pyproject.toml

DTYPES = ("float32", "bfloat16")
PAGE_SIZES = {"one_piece": 1, "chunks": 16, "cached_prefix": 4, "mixed_batch": 4}
NEW_TOKENS = 8
INT8 = {"qwen2": ("w8a8_int8", "compressed-tensors", "modelslim"), "minicpm3": ("w8a8_int8",)}
INT8 |= {"qwen3_moe": ("w8a8_int8",), "deepseek_v3": ("w8a8_int8",)}
FLOAT8 = "deepseek_v3"
# Of sizes that two and four ranks can divide; the layouts are those of test/models/test_ranks.py.
RANKS = {"qwen3@ranks": ("TP 2", "TP 4", "PP 2", "attention DP 2"), "qwen2@ranks": ("TP 2",), "gemma2@ranks": ("TP 2",)}
RANKS |= {"olmo2@ranks": ("TP 2",), "gpt_oss@ranks": ("EP 2",), "dbrx@ranks": ("TP 2",)}
RANKS |= {"deepseek_v3@ranks": ("TP 2", "EP 2, dispatch"), "qwen3_moe@ranks": ("EP 2", "EP 2 with replicas")}
ENGINES = {  # name -> variant, or None for the demo model, and arguments
    "demo": (None, {}),
    "demo, pages of 16": (None, dict(page_size=16, chunked_prefill_size=32, disable_overlap_schedule=True)),
    "demo, TP 2": (None, dict(tp_size=2)),
    "gpt_oss": ("gpt_oss", {}),
    "deepseek_v3": ("deepseek_v3", dict(dtype="bfloat16")),
    "gemma2": ("gemma2", dict(chunked_prefill_size=16)),
}
PROMPTS = [[5, 90, 17], list(range(5, 85, 2)), [9]]
SAMPLED = dict(temperature=1.0, max_new_tokens=24, ignore_eos=True)

Case = tuple[str, Callable[[Path], dict]]  # a name, and what answers with its results, given an empty folder


def digest(values) -> str:
    """The SHA-256 of an array's bytes, with its dtype and shape."""
    array = np.ascontiguousarray(values)
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()


def digests(logits: dict) -> str:
    """Of {request: logits}."""
    return hashlib.sha256("".join(f"{name} {digest(rows)} " for name, rows in logits.items()).encode()).hexdigest()


def greedy(requests, ids: dict) -> dict:
    """The logits of NEW_TOKENS steps that decode, and the tokens that they choose."""
    logits, rows, tokens = requests.step(ids), [], []
    for _ in range(NEW_TOKENS):
        chosen = {request: logits[request][-1:].argmax(-1) for request in ids}
        logits = requests.step(chosen)
        rows.append(np.concatenate(list(logits.values())))
        tokens.append([int(token[0]) for token in chosen.values()])
    return {"decode": digest(np.stack(rows)), "greedy tokens": np.transpose(tokens).tolist()}


def of_steps(model) -> dict:
    """What a PagedModel answers in each way in which requests come."""
    from models.harness import Requests
    from models.test_logits import WAYS, prompts

    found = {way: digests(WAYS[way](Requests(model, size), prompts())) for way, size in PAGE_SIZES.items()}
    return found | greedy(Requests(model, 4), prompts())


def of_variant(variant: str, dtype: str, folder: Path) -> dict:
    from models.harness import PagedModel
    from models.tiny import save

    return of_steps(PagedModel(save(variant, folder, dtype), dtype))


def of_int8(variant: str, method: str, folder: Path) -> dict:
    from models.harness import PagedModel
    from models.int8 import to_int8
    from models.tiny import save

    to_int8(save(variant, folder / "source"), folder / "int8", method)
    return of_steps(PagedModel(folder / "int8"))


def of_float8(variant: str, folder: Path) -> dict:
    from models.float8 import to_float8
    from models.harness import PagedModel
    from models.tiny import save

    to_float8(save(variant, folder / "source"), folder / "float8", folder / "products")
    return of_steps(PagedModel(folder / "float8", compiled=False))


def of_pooled(architecture: str, folder: Path) -> dict:
    from models import pooled
    from models.harness import Requests
    from models.test_logits import prompts
    from models.test_pooled import HiddenStates, pool

    model, ids = HiddenStates(pooled.save(architecture, folder), compiled=False), prompts()
    hidden = Requests(model, 4).step(ids)
    return {"hidden states": digests(hidden), "pooled": digest(pool(model, hidden).embeddings.numpy())}


def of_ranks(variant: str, layouts: tuple, folder: Path) -> dict:
    from distributed.pool import Pool
    from models.test_ranks import LAYOUTS
    from models.tiny import save

    pool = Pool(4)
    try:
        steps, rows = pool.alone(save(variant, folder))
        found = {"one process": digest(np.concatenate(rows))}
        for layout in layouts:
            found[layout] = digest(np.concatenate(pool.together(folder, LAYOUTS[layout], steps)))
    finally:
        pool.close()
    return found


def of_engine(variant: str | None, arguments: dict, folder: Path) -> dict:
    """Greedy tokens with logprobs, and tokens of the server's seed."""
    from models.tiny import save
    from serving.conftest import MODEL, Engine

    wanted = dict(random_seed=7, max_running_requests=4, skip_tokenizer_init=variant is not None) | arguments
    engine = Engine(MODEL if variant is None else save(variant, folder), trust_remote_code=True, **wanted)
    try:
        sampled = engine.generate(input_ids=PROMPTS[0], sampling_params=SAMPLED)
        again = engine.generate(input_ids=PROMPTS[0], sampling_params=dict(SAMPLED, top_p=0.95, top_k=50))
        asked = dict(sampling_params=SAMPLED | dict(temperature=0), return_logprob=True, logprob_start_len=0)
        answers = engine.generate(input_ids=PROMPTS, **asked)
    finally:
        engine.shutdown()
    found = {"greedy tokens": [answer["output_ids"] for answer in answers]}
    found["sampled with the server's seed"] = [sampled["output_ids"], again["output_ids"]]
    kinds = ("input_token_logprobs", "output_token_logprobs")
    found["logprobs"] = digest(
        [entry[0] or 0.0 for one in answers for kind in kinds for entry in one["meta_info"][kind]]
    )
    return found


def of_seeded_requests(folder: Path) -> dict:
    """Tokens of requests with seeds of their own, several in a batch."""
    from serving.conftest import MODEL, Engine

    engine = Engine(MODEL, enable_deterministic_inference=True, max_running_requests=4)
    try:
        asked = [dict(SAMPLED, sampling_seed=seed) for seed in (11, 11, 12)]
        plain = engine.generate(input_ids=PROMPTS, sampling_params=asked)
        filtered = [dict(one, top_p=0.95, top_k=50) for one in asked]
        filtered = engine.generate(input_ids=PROMPTS, sampling_params=filtered)
    finally:
        engine.shutdown()
    return {
        "sampled": [answer["output_ids"] for answer in plain],
        "sampled of a part": [answer["output_ids"] for answer in filtered],
    }


def cases() -> Iterator[Case]:
    from models import pooled
    from models.tiny import TINY

    for variant in TINY:
        for dtype in DTYPES:
            yield f"{variant}, {dtype}", lambda folder, of=(variant, dtype): of_variant(*of, folder)
    for variant, methods in INT8.items():
        for method in methods:
            yield f"{variant}, {method}", lambda folder, of=(variant, method): of_int8(*of, folder)
    yield f"{FLOAT8}, float8", lambda folder: of_float8(FLOAT8, folder)
    for architecture in pooled.KINDS:
        yield f"{architecture}, pooled", lambda folder, of=architecture: of_pooled(of, folder)
    for variant, layouts in RANKS.items():
        yield f"{variant}, ranks", lambda folder, of=(variant, layouts): of_ranks(*of, folder)
    for name, of in ENGINES.items():
        yield f"engine of {name}", lambda folder, of=of: of_engine(*of, folder)
    yield "engine with seeds of requests", of_seeded_requests


def answers(patterns: list[str]) -> Iterator[tuple[str, dict]]:
    """The name of each chosen case and its results; a case that fails has its error for a result."""
    from sglang.srt.model_executor_ms.runner import device

    device.start("cpu", "cpu")
    for name, run in cases():
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found = run(Path(folder))
                except Exception as error:
                    found = {"error": f"{type(error).__name__}: {error}"}
            print(name, found.get("error", ""), flush=True)
            yield name, found


def record(file: Path, patterns: list[str]) -> int:
    """Results of earlier runs stay, but for those of the chosen cases."""
    found = json.loads(file.read_text()) if file.exists() else {}
    for name, results in answers(patterns):
        found[name] = results
        lines = [f"{json.dumps(name)}: {json.dumps(results)}" for name, results in found.items()]
        file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return sum("error" in results for results in found.values())


def compare(file: Path, patterns: list[str]) -> int:
    """Prints every difference -> how many cases differ."""
    recorded = json.loads(file.read_text())
    wanted = {name: results for name, results in recorded.items() if any(fnmatch.fnmatch(name, p) for p in patterns)}
    found = dict(answers(patterns))
    lines = []
    for name in dict.fromkeys((*wanted, *found)):
        before, now = wanted.get(name, {}), found.get(name, {})
        differing = [key for key in dict.fromkeys((*before, *now)) if before.get(key) != now.get(key)]
        lines += [f"{name}: {', '.join(differing)}"] if differing else []
    print(f"{len(lines)} of {len(wanted)} cases differ", *lines, sep="\n")
    return len(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs="+", default=["*"], help="names of cases, with * and ?")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.exit(min(1, {"record": record, "compare": compare}[arguments.command](arguments.file, arguments.only)))
