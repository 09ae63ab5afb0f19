"""SGLang's model runner: its class, model, loader, attention backend, and what it knows of the model."""

from collections.abc import Callable, Sequence

from sglang.srt.model_executor_ms.seams import hooks

RUNNER = "sglang.srt.model_executor.model_runner"


def replace_runner(runner_class: type) -> None:
    """Put a class in the place of ModelRunner, where SGLang builds it: tp_worker.py, and one_batch.py."""
    hooks.replace(f"{RUNNER}.ModelRunner", runner_class)


def replace_loader(get_model_loader: Callable) -> None:
    """get_model_loader(load_config, model_config): what loads weights, at start and on update_weights_from_disk."""
    hooks.replace("sglang.srt.model_loader.loader.get_model_loader", get_model_loader)


def replace_cpu_padding(adjust: Callable) -> None:
    """adjust(model_config, load_config, tp_size) -> model_config: the sizes that a model has on the ranks of a CPU."""
    hooks.replace(f"{RUNNER}.adjust_config_with_unaligned_cpu_tp", adjust)


def register_attention_backend(name: str, factory: Callable) -> None:
    """factory(model_runner) makes the attention backend of this name."""
    from sglang.srt.layers.attention import attention_registry

    attention_registry.register_attention_backend(name)(factory)


def keep_attention_backend() -> None:
    """Leave the attention backend as it is for models with other layers than attention.

    SGLang puts one around it that computes those layers with its own kernels.
    """
    hooks.replace("sglang.srt.layers.attention.attention_registry.attn_backend_wrapper", lambda _runner, full: full)


def register_model(model_class: type) -> None:
    """Let SGLang's registry of models know this model, by the name to which SGLang turns every architecture.

    SGLang would import each of its some two hundred torch models, and log those that fail; it does not where an
    external package of models is named.
    """
    from sglang.srt.environ import envs

    with envs.SGLANG_EXTERNAL_MODEL_PACKAGE.override("sglang.srt.models_ms"):
        from sglang.srt.models.registry import ModelRegistry
    ModelRegistry.models = {"MindSporeForCausalLM": model_class}
    ModelRegistry._default_models_loaded = True


def leave_quantization_to_model(model_config) -> None:
    """Keep SGLang from making layers for quantized weights: the model reads config.json itself.

    What --quantization asks for stays as `requested_quantization`.
    """
    model_config.requested_quantization, model_config.quantization = model_config.quantization, None


def note_weights(model_config, folder: str, load_format: str) -> None:
    """Keep on SGLang's record of a model which folder it is loaded from at first, and in which format."""
    model_config.weights_folder, model_config.weights_format = folder, load_format


def noted_weights(model_config) -> tuple[str, str]:
    """What note_weights kept; where it was not called: the model's path, and that nothing is read."""
    folder = getattr(model_config, "weights_folder", model_config.model_path)
    return folder, getattr(model_config, "weights_format", "dummy")


def note_checkpoint(model_config, model_path: str) -> None:
    """Tell SGLang where the weights come from that the model has now."""
    model_config.model_path = model_path


def divide_pool(model_runner, swa_layers: Sequence[int], full_layers: Sequence[int], window: int) -> None:
    """Have SGLang make a pool for layers with a window, beside the one for others; none of the former: one pool.

    window: how many tokens before a token the widest window has. The model is loaded, and no pool is made yet.
    """
    model_config = model_runner.model_config
    model_runner.is_hybrid_swa = model_config.is_hybrid_swa = bool(swa_layers)
    if swa_layers:
        model_config.swa_attention_layer_ids = list(swa_layers)
        model_config.full_attention_layer_ids = list(full_layers)
        model_runner.sliding_window_size = window
