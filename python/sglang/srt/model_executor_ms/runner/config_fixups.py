"""Restores keys of config.json that SGLang's config classes drop."""

from transformers import PretrainedConfig


def restored(config: dict, model_path: str, revision: str | None = None) -> dict:
    """SGLang's config of a checkpoint -> the same config with the keys that SGLang dropped.

    Today that is rope_parameters of OLMo 3, as transformers 5 writes it. SGLang 0.5.23 has a config class of its own
    for that model, which reads only rope_theta and rope_scaling.
    """
    if config.get("model_type") != "olmo3" or config.get("rope_parameters"):
        return config
    written, _ = PretrainedConfig.get_config_dict(model_path, revision=revision)
    return config | {"rope_parameters": written.get("rope_parameters")}
