"""What a prefill server and a decode server must have alike: the pages of one become those of the other."""


def layout(scheduler) -> str:
    """Of a scheduler's pool, in one line: the model's kind and sizes, of all ranks, and the dtype of the values."""
    model = scheduler.model_config
    (architecture, *_) = model.hf_config.architectures
    sizes = f"{model.num_hidden_layers} layers of {model.get_total_num_kv_heads()} heads of {model.head_dim}"
    dtype = str(scheduler.tp_worker.model_runner.kv_cache_dtype).removeprefix("torch.")
    return f"{architecture}: {sizes}, {dtype}, of {model.vocab_size} tokens"
