"""A key of config.json that nobody knows ends the start of a server, which says how to remove it."""

import json
import re

from models.tiny import reference_logits, save
from serving.warm import WarmServer, warm_up

SECONDS = 15
GREEDY = dict(temperature=0, max_new_tokens=1, ignore_eos=True)


def test_the_overrides_of_the_message_let_the_checkpoint_be_served(start_engine, tmp_path):
    config = save("llama", tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"frobnication": 2.0, "mystery": {"a": [1]}}))
    warm_up()
    tokenless = ("--skip-tokenizer-init", "--max-total-tokens", "2048")
    text = WarmServer(tmp_path / "log", *tokenless, model=tmp_path).await_end(120)
    problem = "LlamaForCausalLM: config.json has keys that this architecture does not know: frobnication = 2.0, mystery"
    assert problem in text
    overrides = re.search("--json-model-override-args '(.*)'", text)[1]
    engine = start_engine(tmp_path, skip_tokenizer_init=True, json_model_override_args=overrides)
    answer = engine.generate(input_ids=[5, 6, 7], sampling_params=GREEDY)
    assert answer["output_ids"] == [reference_logits("llama", [5, 6, 7])[-1].argmax()]
