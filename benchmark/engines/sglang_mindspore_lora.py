"""This backend with the adapters that are in a folder `adapters` of the checkpoint; prompts have them in turn."""

from pathlib import Path

import measure
import sglang_mindspore


def start(model):
    names = {folder.name: str(folder) for folder in sorted(Path(model, "adapters").iterdir())}
    engine = sglang_mindspore.engine(model, lora_paths=names, max_loras_per_batch=len(names))

    def generate(prompts, new_tokens, adapters):
        """adapters: how many of them; 0: prompts have none."""
        chosen = [list(names)[place % adapters] if adapters else None for place in range(len(prompts))]
        engine.generate(input_ids=prompts, sampling_params=sglang_mindspore.greedy(new_tokens), lora_path=chosen)

    return generate


if __name__ == "__main__":
    measure.main(start)
