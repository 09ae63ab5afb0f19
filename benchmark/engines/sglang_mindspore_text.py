"""This backend with the decoder of a model that sees, and without its tower."""

import functools

import measure
import sglang_mindspore

ALONE = '{"language_model_only": true}'

if __name__ == "__main__":
    options = dict(json_model_override_args=ALONE, skip_tokenizer_init=False)
    measure.main(functools.partial(sglang_mindspore.start, **options))
