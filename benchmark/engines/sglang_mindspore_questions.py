"""This backend, asked about images."""

import base64
import io

import measure
import sglang_mindspore
from PIL import Image
from questions import question


def encoded(image: Image.Image) -> str:
    """As requests have it, uncompressed."""
    kept = io.BytesIO()
    image.save(kept, "BMP")
    return "data:image/bmp;base64," + base64.b64encode(kept.getvalue()).decode()


def start(model):
    engine = sglang_mindspore.engine(model, skip_tokenizer_init=False)

    def generate(prompts, new_tokens, side):
        """side: of each prompt's image, in pixels."""
        texts, images = zip(*(question(ids, side) for ids in prompts), strict=True)
        greedy = sglang_mindspore.greedy(new_tokens)
        engine.generate(prompt=list(texts), image_data=[[encoded(image)] for image in images], sampling_params=greedy)

    return generate


if __name__ == "__main__":
    measure.main(start)
