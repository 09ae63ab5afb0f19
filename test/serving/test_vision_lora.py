"""Adapters of models that see: the decoder's layers take them, beside images, as PEFT's model does; towers do not."""

import numpy as np
import pytest
from models import vision_models
from models.adapters import adapted
from serving.test_vision import IN_CHUNKS, OF_KIND, PROMPTS, TOKENS, encoded, prompt_of

SECONDS = 1, 60
ROOM = dict(max_loras_per_batch=2, max_lora_rank=8, lora_target_modules=["all"])


def ask(engine, kind, names, adapters):
    prompts, images = zip(*(prompt_of(kind, name) for name in names), strict=True)
    asked = dict(temperature=0, max_new_tokens=TOKENS, ignore_eos=True)
    given = [[encoded(one) for one in own] for own in images]
    return engine.generate(
        prompt=list(prompts), image_data=given, lora_path=adapters, sampling_params=asked, return_logprob=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", "gemma3"])
def test_adapters_answer_about_images_as_pefts_models_do(start_engine, tmp_path, kind):
    plain, processor = vision_models.hugging_face(kind)
    of_text = dict(r=4, lora_alpha=8, target_modules=r".*language_model.*\.(q_proj|o_proj|up_proj|down_proj)")
    models = {name: adapted(plain, tmp_path / name, seed, scale=1.0, **of_text) for seed, name in enumerate("ab")}
    tower = dict(r=4, lora_alpha=8, target_modules=r".*(vision_tower|visual).*\.(q_proj|qkv)")
    adapted(plain, tmp_path / "tower", **tower)
    folder, paths = vision_models.save(kind, tmp_path / "model"), [f"a={tmp_path / 'a'}"]
    engine = start_engine(folder, lora_paths=paths, **ROOM, **(OF_KIND.get(kind) or IN_CHUNKS))
    assert engine.load_lora_adapter("b", str(tmp_path / "b")).success
    names, adapters = [*PROMPTS] * 2, ["a", "b", None, None, "a", "b"]
    answers, told = ask(engine, kind, names, adapters), {}
    for name, adapter, answer in zip(names, adapters, answers, strict=True):
        prompt, images = prompt_of(kind, name)
        given = processor(text=prompt, return_tensors="pt", **(dict(images=images) if images else {}))
        ids, logprobs = vision_models.generated(models.get(adapter, plain), dict(given), TOKENS)
        assert answer["output_ids"] == ids, (name, adapter)
        found = [logprob for logprob, *_ in answer["meta_info"]["output_token_logprobs"]]
        np.testing.assert_allclose(found, logprobs[np.arange(TOKENS), ids], atol=2e-4)
        told.setdefault(name, set()).add(tuple(ids))
    assert all(len(different) > 1 for different in told.values())
    refused = engine.load_lora_adapter("tower", str(tmp_path / "tower"))
    assert not refused.success and "modules of the adapter that the model does not have" in refused.error_message
    assert "qkv" in refused.error_message or "vision_tower" in refused.error_message
    assert ask(engine, kind, ["one"], ["b"])[0]["output_ids"]
