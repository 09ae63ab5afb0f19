"""What SGLang's config classes lose of a checkpoint's config.json."""

from transformers import PretrainedConfig


def restored(config: dict, model_path: str, revision: str | None = None) -> dict:
    """config: what SGLang made of the config.json of model_path -> the same with what it lost of it.

    That is rope_parameters of OLMo 3, as transformers 5 writes them: SGLang 0.5.23's class of its own for that model
    reads rope_theta and rope_scaling only.
    """
    if config.get("model_type") != "olmo3" or config.get("rope_parameters"):
        return config
    written, _ = PretrainedConfig.get_config_dict(model_path, revision=revision)
    return config | {"rope_parameters": written.get("rope_parameters")}
