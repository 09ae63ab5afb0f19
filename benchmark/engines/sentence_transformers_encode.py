"""sentence-transformers in bfloat16, of checkpoints that embed texts."""

import measure


def start(model):
    import torch
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model, device="cpu", model_kwargs={"dtype": torch.bfloat16})
    encoder.to(torch.bfloat16)  # the products behind the pooling too

    def generate(prompts, new_tokens):
        encoder.encode(measure.texts_of(prompts), batch_size=len(prompts), convert_to_tensor=True)

    return generate


if __name__ == "__main__":
    measure.main(start)
