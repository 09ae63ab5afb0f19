"""Trains a served model by reinforcement: rewards what it answers, and sends it the new weights, round after round.

    python ms_example/rl_loop.py [MODEL] [--rounds N] [--word WORD]

Each token of an answer that has the word in it is rewarded. Torch trains in this process; the weights go to SGLang's
scheduler as tensors, under the names that they have in the checkpoint, and no step is compiled anew.
"""

import argparse
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import sglang

DEMO_MODEL = Path(__file__).parent / "demo_model"
PROMPTS = ("Return True if", "If the optional argument", 'A "for" loop', 'The "with" statement')


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(DEMO_MODEL), help="a Hugging Face model; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--samples", type=int, default=8, help="answers to each prompt in a round")
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--word", default="the", help="what answers are rewarded for; default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    return parser.parse_args()


def sample(engine: sglang.Engine, arguments: argparse.Namespace) -> list[tuple[list, list]]:
    """Answers of the served model -> for each the ids of its prompt, and those of the answer."""
    sampling = {"max_new_tokens": arguments.max_new_tokens, "temperature": 1.0, "ignore_eos": True}
    prompts = [prompt for prompt in PROMPTS for _ in range(arguments.samples)]
    answers = engine.generate(prompts, sampling)
    encode = engine.tokenizer_manager.tokenizer.encode
    return [(encode(prompt), answer["output_ids"]) for prompt, answer in zip(prompts, answers, strict=True)]


def train(model, optimizer, answers: list, rewards: list) -> None:
    """One step of policy gradient: tokens that were rewarded more than most become likelier."""
    mean = torch.cat(rewards).mean()
    loss = 0
    for (prompt, answer), reward in zip(answers, rewards, strict=True):
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
        loss = loss - ((reward - mean) * chosen).mean() / len(answers)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def send(engine: sglang.Engine, model) -> float:
    """Serve the model's weights from now on -> the seconds that it took."""
    started = time.perf_counter()
    tensors = [(name, tensor.detach()) for name, tensor in model.state_dict().items()]
    for success, message in (
        engine.begin_weight_update(),
        engine.update_weights_from_tensor(tensors),
        engine.end_weight_update(),
    ):
        if not success:
            raise RuntimeError(message)
    return time.perf_counter() - started


def greedy(engine: sglang.Engine) -> str:
    return engine.generate(PROMPTS[0], {"max_new_tokens": 16, "temperature": 0})["text"]


def main() -> None:
    arguments = parse_arguments()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate)
    with sglang.Engine(
        model_path=arguments.model,
        framework="mindspore",
        device="cpu",
        dtype="float32",
        max_total_tokens=16384,
        log_level="warning",
    ) as engine:
        decode = engine.tokenizer_manager.tokenizer.decode
        print(f"before: {PROMPTS[0]!r} -> {greedy(engine)!r}")
        for number in range(arguments.rounds):
            answers = sample(engine, arguments)
            rewards = [
                torch.tensor([float(arguments.word in decode([one])) for one in answer]) for _, answer in answers
            ]
            train(model, optimizer, answers, rewards)
            seconds = send(engine, model)
            mean = torch.cat(rewards).mean()
            print(f"round {number + 1}: reward {mean:.3f}, weights sent in {seconds * 1000:.0f} ms", flush=True)
        print(f"after: {PROMPTS[0]!r} -> {greedy(engine)!r}")


if __name__ == "__main__":  # SGLang starts its processes by importing this file again
    main()
