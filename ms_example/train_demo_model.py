"""Train the embedded demo model on the documentation that comes with Python, and write it as a Hugging Face checkpoint.

    python ms_example/train_demo_model.py --minutes 40 --out ms_example/demo_model

Needs nothing but this repository's environment: the text is the standard library's docstrings and the language
reference in pydoc_data.topics (PSF licence). The result is a Qwen3 model of about three million parameters with a
tokenizer of its own. Text, tokenizer and order of training are the same each time; the number of steps is what fits.
"""

import argparse
import ast
import math
import random
import sysconfig
import time
from pathlib import Path
from pydoc_data.topics import topics

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

END, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCAB_SIZE, LENGTH, BATCH = 2048, 256, 16
HELD_OUT = 60  # every 60th document is kept for evaluation
SKIPPED = ("test", "idlelib", "lib2to3", "site-packages", "__pycache__", "tkinter", "turtledemo")


def library_files() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in root.rglob("*.py") if not set(path.relative_to(root).parts) & set(SKIPPED))


def docstrings(path: Path):
    """(dotted name, docstring) of the module, and of its public classes and functions."""
    root = Path(sysconfig.get_path("stdlib"))
    module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # the library ships a few files that are meant not to parse
        return
    stack = [(module, tree)]
    while stack:
        name, node = stack.pop()
        text = ast.get_docstring(node)
        if text:
            yield name, text
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)) and not child.name.startswith("_"):
                stack.append((f"{name}.{child.name}", child))


def turn(role: str, text: str) -> str:
    return f"{START_OF_TURN}{role}\n{text}{END_OF_TURN}\n"


def conversation(name: str, text: str) -> str:
    answer = " ".join(text.split("\n\n")[0].split())
    return turn("user", f"What does {name} do?") + turn("assistant", answer)


def documents() -> list[str]:
    """Every text once, in a fixed shuffled order: topics, docstrings, and questions about the shorter ones."""
    found, seen = list(topics.values()), set()
    for path in library_files():
        for name, text in docstrings(path):
            if len(text) < 30 or text in seen:
                continue
            seen.add(text)
            found.append(text)
            if len(text) < 1500:
                found.append(conversation(name, text))
    random.Random(0).shuffle(found)
    return found


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END, START_OF_TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    wrapped.add_special_tokens({"additional_special_tokens": [START_OF_TURN, END_OF_TURN]})
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def build_model(tokenizer) -> Qwen3ForCausalLM:
    end = tokenizer.convert_tokens_to_ids(END)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=48,
        max_position_embeddings=2048,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    return Qwen3ForCausalLM(config)


def encode(tokenizer, texts: list[str]) -> torch.Tensor:
    end = tokenizer.convert_tokens_to_ids(END)
    ids = [id for text in tokenizer(texts)["input_ids"] for id in (*text, end)]
    return torch.tensor(ids)


def learning_rate(progress: float) -> float:
    peak, last = 2e-3, 1e-4
    if progress < 0.02:
        return peak * progress / 0.02
    return last + (peak - last) * 0.5 * (1 + math.cos(math.pi * progress))


def train(model, ids: torch.Tensor, minutes: float, threads: int) -> int:
    """Train on random windows of ids until the time is over -> number of steps."""
    torch.set_num_threads(threads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.05)
    generator = torch.Generator().manual_seed(0)
    started, step = time.monotonic(), 0
    while (progress := (time.monotonic() - started) / (minutes * 60)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress)
        starts = torch.randint(len(ids) - LENGTH, (BATCH,), generator=generator)
        batch = torch.stack([ids[start : start + LENGTH] for start in starts])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 100 == 0:
            print(f"{progress:6.1%}  step {step}  loss {loss.item():.3f}", flush=True)
    return step


@torch.no_grad()
def perplexity(model, tokenizer, text: str) -> float:
    """Per token, over windows of LENGTH tokens without overlap."""
    ids = torch.tensor(tokenizer(text)["input_ids"])
    losses = [
        model(input_ids=window[None], labels=window[None]).loss * (len(window) - 1)
        for window in ids.split(LENGTH)
        if len(window) > 1
    ]
    count = sum(len(window) - 1 for window in ids.split(LENGTH))
    return math.exp(sum(losses).item() / count)


@torch.no_grad()
def show(model, tokenizer) -> None:
    prompts = [
        "The list type",
        "Return a string",
        "class ",
        turn("user", "What does textwrap.dedent do?") + f"{START_OF_TURN}assistant\n",
    ]
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        found = model.generate(ids, max_new_tokens=48, do_sample=False)
        print(f"--- {prompt!r}: {tokenizer.decode(found[0][ids.shape[1] :])!r}")


def save(model, tokenizer, out: Path, held_out: str, card: str) -> None:
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    ends = [tokenizer.convert_tokens_to_ids(token) for token in (END, END_OF_TURN)]
    GenerationConfig(eos_token_id=ends, pad_token_id=ends[0]).save_pretrained(out)
    (out / "heldout.txt").write_text(held_out, encoding="utf-8")
    (out / "README.md").write_text(card, encoding="utf-8")


CARD = """# Demo model

A Qwen3 model of {parameters:,} parameters, for trying and testing the MindSpore backend without a download. It knows
nothing; it writes text that looks like Python's documentation.

* Text: the docstrings of Python {python}'s standard library and `pydoc_data.topics`, the language reference. Copyright
  (c) Python Software Foundation; used and redistributed under the PSF License Agreement
  (https://docs.python.org/license.html).
* Made by `ms_example/train_demo_model.py`: {steps:,} steps of {batch} x {length} tokens, AdamW.
* `heldout.txt` is text that was kept out of the training documents (the first paragraphs of its docstrings occur there
  as chat answers, which changes the figure little); its perplexity there, with these bfloat16 weights computed in
  float32, is {perplexity:.2f} per token (windows of {length} tokens).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=40, help="how long to train")
    parser.add_argument("--threads", type=int, default=1, help="processor cores to train on")
    parser.add_argument("--out", type=Path, default=Path("ms_example/demo_model"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    texts = documents()
    kept = [text for i, text in enumerate(texts) if i % HELD_OUT]
    held_out = "\n\n".join(text for text in texts[::HELD_OUT] if START_OF_TURN not in text and len(text) < 1500)[:8000]
    tokenizer = train_tokenizer(kept)
    model, ids = build_model(tokenizer), encode(tokenizer, kept)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(kept)} documents, {len(ids)} tokens, {parameters} parameters", flush=True)
    steps = train(model, ids, arguments.minutes, arguments.threads)
    model.to(torch.bfloat16).float().eval()
    found = perplexity(model, tokenizer, held_out)
    show(model, tokenizer)
    python = sysconfig.get_python_version()
    card = CARD.format(parameters=parameters, python=python, steps=steps, batch=BATCH, length=LENGTH, perplexity=found)
    save(model, tokenizer, arguments.out, held_out, card)
    print(f"perplexity {found:.2f} after {steps} steps; written to {arguments.out}")


if __name__ == "__main__":
    main()
