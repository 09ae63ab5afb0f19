"""The framework mindspore: whether it can serve here, and what it makes of a server's arguments."""

import importlib.metadata
import importlib.util
import logging
import platform
import socket

from sglang.srt.model_executor_ms.environment import (
    add_up_in_one_order,
    hide_threads_of_mindspore,
    let_idle_torch_threads_sleep,
    prepare_npu,
    read_environment,
    select_cpu_platform,
    select_image_processors,
    use_huge_pages,
    wait_for_no_cuda_dumps,
)
from sglang.srt.model_executor_ms.parallel.expert_parallel import dispatches, uses_eplb
from sglang.srt.model_executor_ms.server import gguf, model_config, states
from sglang.srt.model_executor_ms.server.accelerators import DEVICES, accelerator
from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag, refuse_unsupported
from sglang.srt.model_executor_ms.server.fleet_arguments import check_fleet
from sglang.srt.model_executor_ms.server.lora_arguments import check_lora
from sglang.srt.model_executor_ms.server.model_config import UnsupportedModel
from sglang.srt.model_executor_ms.server.parallel_arguments import (
    adjusted_to_dispatch,
    bind_processes,
    check_expert_location,
    check_hosts,
    check_parallelism,
)
from sglang.srt.model_executor_ms.server.speculation import check_speculation

logger = logging.getLogger(__name__)

SOURCE = "--framework mindspore"  # of our decisions, in SGLang's log of them
LEAST_MEMORY = 0.5  # for weights and caches, of a CPU's memory


def unavailable() -> str | None:
    """Why MindSpore cannot serve on this machine and what to do, or None."""
    if importlib.util.find_spec("mindspore") is None:
        return f"MindSpore is not installed: {_mindspore_wheel(platform.machine())}"
    numpy = importlib.metadata.version("numpy")
    if int(numpy.split(".")[0]) >= 2:
        return f"numpy {numpy} is installed, and MindSpore 2.10 is built against numpy 1: pip install 'numpy<2'"
    return None


def _mindspore_wheel(machine: str) -> str:
    if machine == "x86_64":
        return "pip install mindspore==2.10.0"
    # pip's only wheel of it for Linux is x86-64 inside, and says that it is for any machine.
    return f"pip's wheel is for x86-64, and this is {machine}: take the one of https://www.mindspore.cn/install"


def configure(server_args) -> None:
    """Check environment and arguments, then decide what this backend decides, before SGLang resolves the rest."""
    from sglang.srt.arg_groups.overrides import declare_resolution, resolving_view

    read_environment()
    refuse_unsupported(server_args)
    if names_a_model(server_args):
        gguf.read(server_args)
        overrides = model_config.overrides(resolving_view(server_args))
        if overrides is not None:
            declare_resolution(server_args, SOURCE, json_model_override_args=overrides)
    device = server_args.device or _device_of_this_machine()
    if device == "npu":
        refuse_without_npu()
        prepare_npu(server_args.nnodes)
    select_cpu_platform(device == "cpu" and accelerator() is None)
    select_image_processors(True)
    let_idle_torch_threads_sleep()
    use_huge_pages()
    wait_for_no_cuda_dumps()
    declare_resolution(
        server_args,
        SOURCE,
        model_impl="mindspore",
        device=device,
        attention_backend="mindspore",
        disable_hybrid_swa_memory=True,  # swa_pool.py decides, when it knows the model's layers
        **_NO_CUDA_GRAPHS,
    )
    if server_args.enable_mis:
        # One prompt with a mask between its items, in FlashInfer's kernels. Prompts of their own have the same scores,
        # and share the query in the radix cache.
        declare_resolution(server_args, SOURCE, enable_mis=False)
        logger.info("--enable-mis: each item is scored as a prompt of its own, after the query")
    check_hosts(server_args)
    # A pool of the host starts only where 10 GiB of the machine are free, and on NPUs wants SGLang's kernels.
    declare_resolution(server_args, SOURCE, disaggregation_decode_retraction_backup="cpu_tensor")
    if device == "cpu":
        bind_processes(server_args)
        # An idle scheduler polls without a pause otherwise, on a core that others could compute with.
        # What copies to pools of the host is ours (host_pools.py), and has the names of what is not a GPU's kernel.
        declare_resolution(server_args, SOURCE, sleep_on_idle=True, hicache_io_backend="direct")


# SGLang makes none of its own. Ours are for the decode sizes that its flags choose (npu/start.py).
_NO_CUDA_GRAPHS = dict(cuda_graph_backend_decode="disabled", cuda_graph_backend_prefill="disabled")


def refuse_without_npu() -> None:
    """UnsupportedFlag, with what is missing, where `--device npu` cannot be used."""
    if accelerator() == "npu":
        return
    if importlib.util.find_spec("torch_npu"):  # without a card SGLang does not even start for another device then
        lacking, instead = "torch_npu sees no card", "an environment without torch_npu serves with --device cpu"
    else:
        lacking, instead = "torch_npu is not installed", "--device cpu serves without an NPU"
    raise UnsupportedFlag(
        f"--device npu: {lacking}. `python -m sglang.srt.model_executor_ms.check_env` says what is missing and how to "
        f"get it; {instead}"
    )


def refuse_taken_port(host: str, port: int) -> None:
    """UnsupportedFlag where a server cannot listen: SGLang would try once the model is loaded, and not end then."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
            probe.bind(address)
    except OSError as error:
        raise UnsupportedFlag(f"--host {host} --port {port}: cannot listen there: {error.strerror}") from error


def _device_of_this_machine() -> str:
    found = accelerator() or "cpu"
    if found not in DEVICES:
        raise UnsupportedFlag(
            f"--framework mindspore runs on the devices {', '.join(DEVICES)}; this machine has {found}: "
            "give --device cpu, or another --framework"
        )
    return found


# A page of a head, of the kernel that reads pages on an NPU, has at most so many values.
LARGEST_PAGE_OF_A_HEAD = 16384


def keep_attention_backend(server_args, previous) -> None:
    """SGLang's defaults for an NPU (`previous`), but for the attention backend where the framework is mindspore.

    And but for pages of 128 tokens, where the model's heads are too large for them.
    """
    from sglang.srt.arg_groups.overrides import declare_resolution, resolving_view

    view = resolving_view(server_args)
    own = view.model_impl == "mindspore"
    if own and view.device == "npu" and view.page_size is None and _has_large_heads(server_args):
        declare_resolution(server_args, SOURCE, page_size=64)
    previous(server_args)
    if own:
        declare_resolution(
            server_args,
            SOURCE,
            attention_backend="mindspore",
            prefill_attention_backend="mindspore",
            decode_attention_backend="mindspore",
        )


def _has_large_heads(server_args) -> bool:
    """Whether a page of 128 tokens of a head is too much for the kernel; MLA's rows are another kernel's."""
    from sglang.srt.arg_groups.overrides import model_config_of, resolving_view
    from sglang.srt.configs.model_config import AttentionArch

    if not names_a_model(resolving_view(server_args)):
        return False
    model_config = model_config_of(server_args)
    return model_config.attention_arch != AttentionArch.MLA and model_config.head_dim * 128 > LARGEST_PAGE_OF_A_HEAD


GRAPH_MB = 2  # for each request of the largest decode graph, as SGLang reserves for its own


def reserve_for_graphs(original, server_args) -> float:
    """Around SGLang's reserve_for_graph_mb: of a card what our captured decode graphs take, of which it knows none."""
    from sglang.srt.arg_groups.overrides import resolving_view

    view, reserved = resolving_view(server_args), original(server_args)
    if view.model_impl != "mindspore" or view.device != "npu":
        return reserved
    if view.disable_cuda_graph or view.disable_decode_cuda_graph:
        return reserved
    return reserved + GRAPH_MB * view.cuda_graph_config.decode.max_bs


def adjust_to_model(server_args, previous) -> None:
    """In the place of SGLang's adjustments to the model (`previous`), where the framework is mindspore.

    Those are for SGLang's own kernels: which attention backend, which runner of experts, which fusion. Models that are
    not computed are refused here, before they are adjusted to. MXFP4 is computed in bfloat16 where --dtype asks for
    nothing else, as with SGLang's kernels.
    """
    from sglang.srt.arg_groups.overrides import declare_resolution, model_config_of, resolving_view

    view = resolving_view(server_args)
    if view.model_impl != "mindspore":
        previous(server_args)
    elif names_a_model(view):
        model_config = model_config_of(server_args)
        check_architecture(model_config)
        adjusted = states.adjusted(view, model_config) | for_whole_prompts(model_config, view)
        if adjusted:
            declare_resolution(server_args, SOURCE, **adjusted)
        if view.dtype == "auto" and model_config.quantization == "mxfp4":
            declare_resolution(server_args, SOURCE, dtype="bfloat16")


def for_whole_prompts(model_config, view) -> dict:
    """What arguments have to be for a model of which each prompt is one step, and for one of fewer positions.

    That is where tokens see later ones, and where all of them are pooled.
    """
    from sglang.srt.models_ms.registry import MODELS

    config = model_config.hf_config
    if model_config.is_generation and all(MODELS[name].generates for name in config.architectures if name in MODELS):
        return {}  # without an import of MindSpore, which would set the threads of this process and its children
    from sglang.srt.model_executor_ms.runner import sentence_transformers
    from sglang.srt.models_ms.registry import model_class

    kind, changed = model_class(config.architectures), {}
    longest = kind.longest_context(config)
    if longest is not None and view.context_length is None:
        changed["context_length"] = longest
    whole = kind.whole_prompts or getattr(config, "use_bidirectional_attention", False)
    if not whole and not model_config.is_generation and not hasattr(kind, "scores"):
        path = (model_config.model_path, model_config.revision)
        if not sentence_transformers.problems(*path):
            whole = sentence_transformers.recipe(*path, kind.pooling).pooling != "lasttoken"
    if whole:
        logger.info("each prompt is computed in one step: no chunks of prompts, and no cached prefixes")
        changed |= dict(chunked_prefill_size=-1, disable_radix_cache=True)
    return changed


def share_of_memory(server_args, view) -> float:
    """--mem-fraction-static, where SGLang's own value is too little on a small CPU.

    SGLang keeps 1.5 MB free for each token of the largest step. GPUs may need these. Without chunks of prompts they are
    24 GB, and leave nothing for the weights of many machines.
    """
    if view.device != "cpu" or server_args.mem_fraction_static is not None or view.mem_fraction_static is None:
        return view.mem_fraction_static
    return max(view.mem_fraction_static, LEAST_MEMORY)


def verify(server_args) -> None:
    """Check what SGLang made of the arguments, and the kind of the model, before any process is started."""
    from sglang.srt.arg_groups.overrides import (
        attention_backends_of,
        declare_resolution,
        model_config_of,
        resolving_view,
    )

    view = resolving_view(server_args)
    if view.use_ray and view.device == "npu":
        raise UnsupportedFlag("--use-ray with --device npu: SGLang asks Ray for GPUs, and selects CUDA devices")
    check_fleet(view)
    check_parallelism(view)
    declare_resolution(server_args, SOURCE, mem_fraction_static=share_of_memory(server_args, view))
    check_lora(view)
    check_expert_location(view)
    if dispatches(view):
        declare_resolution(server_args, SOURCE, **adjusted_to_dispatch(view))
    if view.enable_deterministic_inference and view.device == "npu":
        add_up_in_one_order()
    if view.sampling_backend == "ascend" and view.device != "npu":
        raise UnsupportedFlag(f"--sampling-backend ascend is a kernel of torch_npu's, and --device is {view.device}")
    if view.kv_cache_dtype != "auto" and view.device == "npu":
        raise UnsupportedFlag(
            f"--kv-cache-dtype {view.kv_cache_dtype} with --device npu: MindSpore's attention kernels read keys and "
            "values there in the dtype of queries only; --device cpu reads float8"
        )
    chosen = set(attention_backends_of(view))
    if chosen != {"mindspore"}:
        raise UnsupportedFlag(f"SGLang chose the attention backends {sorted(map(str, chosen))}, not mindspore")
    if names_a_model(view):
        experts = uses_eplb(view) or dispatches(view)
        model = model_config_of(server_args)
        check_model(model, view.pp_size, experts, view.attn_dp_size)
        check_speculation(server_args, model, experts)
        states.check_drafts(view, model)
        if view.quantization_param_path is not None:
            from sglang.srt.model_executor_ms.runner import kv_scales

            cache = (view.quantization_param_path, view.kv_cache_dtype)
            kv_scales.check(*cache, model.hf_text_config, view.tp_size, view.speculative_draft_model_path)
        if model.is_multimodal and (refused := _drafts_of_text(view)):
            raise UnsupportedModel(f"{view.model_path}: it takes images, and {refused} is for models of text so far")
    hide_threads_of_mindspore()


def _drafts_of_text(view) -> str:
    """The flag of a draft that reads tokens, and sees no image; n-grams of tokens are looked up beside images too."""
    algorithm = view.speculative_algorithm
    return "" if algorithm in (None, "NGRAM") else f"--speculative-algorithm {algorithm}"


def names_a_model(view) -> bool:
    """Whether a server's arguments say which checkpoint it is to serve; SGLang can start with none."""
    return str(view.model_path).lower() not in ("none", "dummy")


def check_architecture(model_config) -> None:
    """UnsupportedModel, with the names of all that are, where the checkpoint's architecture is not computed."""
    from sglang.srt.models_ms.registry import MODELS, unknown

    architectures = model_config.hf_config.architectures or []
    if not set(architectures) & set(MODELS):
        raise UnsupportedModel(f"{model_config.model_path}: {unknown(architectures)}")


def _missing_packages(package: str) -> list[str]:
    """What to tell the user where a processor's package is not there; package "": it wants none."""
    if not package or importlib.util.find_spec(package):
        return []
    return [f"its processor wants the package {package}, an optional one: pip install {package}"]


def check_model(model_config, stages: int = 1, experts: bool = False, attn_dp_size: int = 1) -> None:
    """Refuse the kinds of models that SGLang treats apart; the rest of config.json is read when the model is built.

    experts: whether the arguments are about its experts; attn_dp_size: of its attention.
    """
    from sglang.srt.model_executor_ms.runner import sentence_transformers
    from sglang.srt.model_loader_ms import towers
    from sglang.srt.models_ms.registry import MODELS, model_class

    check_architecture(model_config)
    known = [name for name in model_config.hf_config.architectures if name in MODELS]
    problems = _missing_packages(MODELS[known[0]].needs)
    if not MODELS[known[0]].generates and model_config.is_generation:
        problems.append(f"{known[0]} does not generate text: give --is-embedding")
    elif not model_config.is_generation and not MODELS[known[0]].has_scores:
        problems += sentence_transformers.problems(model_config.model_path, model_config.revision)
    if model_config.quantization:
        problems += _quantization_problems(model_config)
    if stages > 1 and not model_config.is_generation:
        problems.append(f"it is pooled, and --pp-size {stages} is for models that generate text")
    if experts and not model_class(known).config_class.has_experts:
        problems.append("it has no experts that arguments could place or count, or send tokens to")
    if attn_dp_size > 1 and not model_config.is_generation:
        problems.append(f"it is pooled, and --attn-dp-size {attn_dp_size} is for models that generate text")
    if model_config.is_multimodal and not getattr(model_class(known), "modalities", ()):
        problems.append("it is multimodal")
    problems += towers.problems(vars(model_config.hf_config), model_config.model_path)
    if MODELS[known[0]].sees and not model_config.is_generation:
        problems.append("it is multimodal, and --is-embedding is for models of text")
    if problems:
        raise UnsupportedModel(f"{model_config.model_path}: not supported yet by {SOURCE}: {'; '.join(problems)}")


def index_columns(model_config) -> int:
    """How many values of an indexer's key each cached row has, behind what latent attention reads of it.

    There are none where contexts are no longer than what the indexer would choose.
    """
    from sglang.srt.models_ms.registry import MODELS

    config = model_config.hf_config
    sparse = getattr(config, "index_topk", None) and any(name in MODELS for name in config.architectures or ())
    return config.index_head_dim if sparse and model_config.context_len > config.index_topk else 0


def _quantization_problems(model_config) -> list[str]:
    """Why no method computes with the weights as the checkpoint has them."""
    from sglang.srt.layers_ms.quantization import UnsupportedQuantization, read
    from sglang.srt.model_executor_ms.runner.weights import with_quantization

    method, config = model_config.quantization, model_config.hf_config.to_dict()
    try:
        read(with_quantization(config, model_config.model_path, method)["quantization_config"])
    except UnsupportedQuantization as error:
        return [f"its weights are quantized ({method}): {error}"]
    return []
