"""Checks the arguments for speculative decoding, and the draft model, before any process is started."""

import shutil

from sglang.srt.model_executor_ms.environment import read_environment
from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag

FLAG = "--speculative-algorithm"


def check_speculation(server_args, target, experts: bool = False) -> None:
    """UnsupportedFlag for what goes with no speculation, and for a draft that cannot draft for this target.

    server_args: resolved. target: SGLang's ModelConfig of the model that is served. experts: whether the arguments are
    about the places of its experts.
    """
    from sglang.srt.arg_groups.overrides import resolving_view

    view = resolving_view(server_args)
    algorithm = view.speculative_algorithm
    if algorithm is None:
        return
    problems = list(_problems(view))
    if experts:
        problems.append("not supported yet where experts are placed or counted, or tokens sent to them")
    if algorithm == "NGRAM":
        problems += _compiler_problems()
    elif algorithm != "EAGLE" and view.speculative_draft_model_path is None:
        problems.append("it wants a draft model: give --speculative-draft-model-path")
    elif not problems:
        problems += _draft_problems(server_args, view, target)
    if problems:
        raise UnsupportedFlag(f"{FLAG} {algorithm}: {'; '.join(problems)}")


def breadth(view) -> tuple[str, int]:
    """The flag by which drafts form a tree where it is above 1, and its value."""
    n_grams = view.speculative_algorithm == "NGRAM"
    flag = "--speculative-ngram-max-bfs-breadth" if n_grams else "--speculative-eagle-topk"
    return flag, view.speculative_eagle_topk or 1


def _problems(view):
    flag, width = breadth(view)
    if width > 1 and read_environment().as_on_npu(view.device):
        yield (
            f"{flag} {width} makes trees of drafts, and attention on an NPU verifies chains, whose tokens see all of "
            f"their request before them: give {flag} 1"
        )
    if view.speculative_adaptive and view.device != "cpu":
        yield "--speculative-adaptive: SGLang captures graphs of its own there, for each number of steps"
    if view.is_embedding:
        yield "a server with --is-embedding generates nothing"
    if view.enable_custom_logit_processor:
        yield "--enable-custom-logit-processor: SGLang calls none for tokens that are verified"
    if view.return_hidden_states_mode and view.speculative_algorithm == "STANDALONE":
        yield "--enable-return-hidden-states: SGLang keeps none where a model of its own drafts"
    if view.pp_size > 1:
        yield f"not supported yet with --pp-size {view.pp_size}"
    if view.attn_dp_size > 1:
        yield f"not supported yet with --attn-dp-size {view.attn_dp_size} (--dp-size with --enable-dp-attention)"


def _compiler_problems() -> list[str]:
    """SGLang compiles its corpus of n-grams when it is first used."""
    missing = [name for name in ("ninja", "c++") if shutil.which(name) is None]
    return [f"SGLang compiles its corpus of n-grams, and {' and '.join(missing)} is not on PATH"] if missing else []


def _draft_problems(server_args, view, target) -> list[str]:
    from sglang.srt.configs.hybrid_arch import mambaish_config
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.models_ms.registry import DRAFTS, MODELS, unknown
    from sglang.srt.utils.hf_transformers_utils import get_config

    path, revision = view.speculative_draft_model_path, view.speculative_draft_model_revision
    if own := path is None:  # what the model's checkpoint carries
        path, revision = view.model_path, view.revision
    written = get_config(path, trust_remote_code=view.trust_remote_code, revision=revision).architectures or []
    alone = view.speculative_algorithm == "STANDALONE"
    if alone and not set(written) & set(MODELS):
        return [f"the draft {path}: {unknown(written)}"]
    draft = ModelConfig.from_server_args(server_args, model_path=path, model_revision=revision, is_draft_model=True)
    read = draft.hf_config.architectures
    if alone and list(read) != list(written):
        return [f"the draft {path} is {written[0]}, of which SGLang computes the layer for EAGLE alone, {read[0]}"]
    if not alone and not set(read) & set(DRAFTS):
        if own:
            return ["it wants a draft model: give --speculative-draft-model-path"]
        return [f"the draft {path} is {', '.join(read)}; drafts that are computed: {', '.join(sorted(DRAFTS))}"]
    if not alone and getattr(draft.hf_config, "num_nextn_predict_layers", None) == 0:
        return [f"{path} has no layer behind its last one: num_nextn_predict_layers = 0"]
    if alone and mambaish_config(draft) is not None:
        return [f"the draft {path} keeps a state of each request, of which refused tokens cannot be taken back"]
    if draft.vocab_size != target.vocab_size:
        return [f"the draft {path} has {draft.vocab_size} tokens, and {target.model_path} {target.vocab_size}"]
    wanted = getattr(draft.hf_config, "target_hidden_size", None) or draft.hidden_size
    if not alone and wanted != target.hidden_size:
        return [f"the draft {path} reads {wanted} values of a token, and {target.model_path} has {target.hidden_size}"]
    return _layer_problems(draft, target) if view.speculative_algorithm == "EAGLE3" else []


def _layer_problems(draft, target) -> list[str]:
    """Of a draft of EAGLE3, which reads what enters three layers of its target."""
    from sglang.srt.models_ms.aux_layers import aux_layers

    config, layers = getattr(draft.hf_config, "eagle_config", None) or {}, target.num_hidden_layers
    given = config.get("eagle_aux_hidden_state_layer_ids")
    read = aux_layers(layers, given)
    if sorted(set(read)) == read and read[0] >= 0 and read[-1] <= layers:
        return []
    said = "eagle_aux_hidden_state_layer_ids" if given else "SGLang's default, as eagle_config names none"
    return [
        f"the draft {draft.model_path} reads what enters the layers {read} of {layers} ({said}): give ascending ones"
    ]
