"""An Engine on int8 weights, by the flag that says so, on a CPU."""

import json

import numpy as np
import torch
from models.int8 import reference, to_int8
from models.tiny import COMMON, save
from serving.conftest import Engine
from tiers import SLOW

SECONDS = 1, 15


@SLOW
def test_answers_are_those_of_rounded_rows_and_weights(tmp_path):
    source, folder = save("qwen2", tmp_path / "source"), tmp_path / "int8"
    to_int8(source, folder, "w8a8_int8", skipped="no layer")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    engine = Engine(folder, skip_tokenizer_init=True, max_running_requests=4, quantization="w8a8_int8")
    prompts = [np.random.default_rng(length).integers(0, COMMON["vocab_size"], length).tolist() for length in (3, 40)]
    greedy = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
    try:
        found = engine.generate(input_ids=prompts, sampling_params=greedy)
    finally:
        engine.shutdown()
    model = reference(source, folder)
    for prompt, answer in zip(prompts, found, strict=True):
        ids = answer["output_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0]
        for place, token in enumerate(ids, len(prompt) - 1):  # rounding may choose between two that are as likely
            assert logits[place, token] > logits[place].max() - 1e-2 * logits.abs().max()
