"""vLLM's CPU build with the adapters that are in a folder `adapters` of the checkpoint; prompts have them in turn."""

from pathlib import Path

import measure
import vllm_cpu


def start(model):
    from vllm.lora.request import LoRARequest

    folders = sorted(Path(model, "adapters").iterdir())
    requests = [LoRARequest(folder.name, number, str(folder)) for number, folder in enumerate(folders, 1)]
    llm = vllm_cpu.engine(model, enable_lora=True, max_loras=len(requests), max_lora_rank=16)

    def generate(prompts, new_tokens, adapters):
        """adapters: how many of them; 0: prompts have none."""
        chosen = [requests[place % adapters] if adapters else None for place in range(len(prompts))]
        given = [{"prompt_token_ids": ids} for ids in prompts]
        llm.generate(given, vllm_cpu.greedy(new_tokens), use_tqdm=False, lora_request=chosen)

    return generate


if __name__ == "__main__":
    measure.main(start)
