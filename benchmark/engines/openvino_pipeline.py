"""OpenVINO GenAI, of a GGUF file, or of a model in its own format: its pipeline for several requests at once."""

import measure
import numpy as np

REQUESTS, TOKENS, CACHE = 32, 8192, 3  # tokens of a step; GiB of keys and values


def start(model):
    import openvino
    import openvino_genai

    limits = openvino_genai.SchedulerConfig()
    limits.max_num_seqs, limits.max_num_batched_tokens, limits.cache_size = REQUESTS, TOKENS, CACHE
    limits.enable_prefix_caching = False
    pipeline = openvino_genai.ContinuousBatchingPipeline(model, limits, "CPU")

    def generate(prompts, new_tokens):
        greedy = openvino_genai.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, do_sample=False)
        pipeline.generate([openvino.Tensor(np.array([ids])) for ids in prompts], [greedy] * len(prompts))

    return generate


if __name__ == "__main__":
    measure.main(start)
