"""Hugging Face transformers, `generate` in bfloat16 with its own cache."""

import measure


def start(model):
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
    network.generation_config.eos_token_id = None
    network.generation_config.pad_token_id = 0

    @torch.inference_mode()
    def generate(prompts, new_tokens):
        network.generate(torch.tensor(prompts), max_new_tokens=new_tokens, do_sample=False)

    return generate


if __name__ == "__main__":
    measure.main(start)
