"""The tower of a model that sees, by Hugging Face transformers in bfloat16."""

import measure
from towers import pixels


def start(model):
    import torch
    from transformers import AutoModelForImageTextToText

    network = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def generate(_prompts, _new_tokens, side):
        patches, grid = pixels(side)
        return network.get_image_features(patches.bfloat16(), grid, return_dict=True).pooler_output

    return generate


if __name__ == "__main__":
    measure.main(start)
