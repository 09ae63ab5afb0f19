"""Arguments and environment variables that cannot be served are refused by name, before anything is loaded."""

import json
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from tiers import offenders

from sglang.srt.arg_groups import overrides
from sglang.srt.configs import hybrid_arch
from sglang.srt.model_executor_ms import environment
from sglang.srt.model_executor_ms.parallel import expert_parallel
from sglang.srt.model_executor_ms.server import flags, framework, model_config, parallel_arguments
from sglang.srt.model_executor_ms.server.flag_support import LIMITED, REFUSED, SUPPORTED
from sglang.srt.server_args import ServerArgs

SECONDS = 9
ROOT = Path(__file__).parents[2]
OTHER = object()  # equal to no default

REASONS = [(name, reason) for reason, names in REFUSED for name in sorted(names)]


def server_args(**fields) -> ServerArgs:
    made = ServerArgs(model_path="no/such/model")
    for name, value in fields.items():
        msgspec.Struct.__setattr__(made, name, value)
    return made


def refusal(**fields) -> list[str]:
    """The lines of the error, one an argument."""
    with pytest.raises(flags.UnsupportedFlag) as caught:
        flags.refuse_unsupported(server_args(**fields))
    first, *lines = str(caught.value).splitlines()
    assert "--framework mindspore" in first
    return lines


def test_every_argument_of_sglang_is_in_exactly_one_list():
    listed = Counter([*SUPPORTED, *LIMITED, *(name for name, _ in REASONS)])
    known = Counter(field.name for field in msgspec.structs.fields(ServerArgs))
    assert listed == known


def test_defaults_are_never_refused():
    flags.refuse_unsupported(server_args())


def check_all(check, cases):
    wrong = offenders(lambda case: check(*case), cases)
    assert not wrong, "\n".join(wrong)


def test_refused_arguments_are_named_with_the_reason():
    def check(name, reason):
        (line,) = refusal(**{name: OTHER})
        assert "--" + name.strip("_").replace("_", "-") in line
        assert line.endswith(reason)

    check_all(check, REASONS)


def test_limited_arguments_are_named_with_the_values_that_are_supported():
    def check(name, values):
        (line,) = refusal(**{name: "something else"})
        assert f"--{name.replace('_', '-')} something else" in line
        assert all(str(value) in line for value in values if value is not None)

    check_all(check, LIMITED.items())


def test_the_supported_values_of_limited_arguments_pass():
    given = [(name, value) for name, values in LIMITED.items() for value in values]
    check_all(lambda name, value: flags.refuse_unsupported(server_args(**{name: value})), given)


def test_supported_arguments_may_have_any_value():
    given = [(name, OTHER) for name in sorted(SUPPORTED)]
    check_all(lambda name, value: flags.refuse_unsupported(server_args(**{name: value})), given)


def test_all_refused_arguments_are_in_one_error():
    lines = refusal(dcp_size=2, quantization="mxfp8", device="cuda")
    assert [line.split()[0] for line in sorted(lines)] == ["--dcp-size", "--device", "--quantization"]


@pytest.mark.parametrize(
    "sizes, wanted",
    [
        (dict(), []),
        (dict(tp_size=2, pp_size=2), [4]),
        (dict(tp_size=4, nnodes=2), [2]),
        (dict(tp_size=2, dp_size=3), [6]),
        (dict(tp_size=4, dp_size=2, enable_dp_attention=True), [4]),
    ],
)
def test_the_ranks_of_this_host_divide_its_processors(sizes, wanted, monkeypatch):
    bound, numa = [], [0, 1]
    monkeypatch.setattr(parallel_arguments, "bind_ranks", bound.append)
    monkeypatch.setattr(
        parallel_arguments, "split_cpus", lambda count, nodes: [count] if nodes is numa else "of no node"
    )
    one = dict(tp_size=1, pp_size=1, dp_size=1, nnodes=1, enable_dp_attention=False, numa_node=numa)
    parallel_arguments.bind_processes(SimpleNamespace(**one | sizes))
    assert bound == [wanted]


@pytest.mark.parametrize("ep_size", [0, 3, 4])
def test_experts_that_the_ranks_cannot_share_are_refused(ep_size):
    with pytest.raises(flags.UnsupportedFlag, match=f"--ep-size {ep_size} does not divide --tp-size 2"):
        sizes = dict(tp_size=2, ep_size=ep_size, attn_dp_size=1, pp_size=1)
        parallel_arguments.check_parallelism(SimpleNamespace(**sizes, device="cpu"))


@pytest.mark.parametrize(
    "device, nodes",
    [("cpu", 1), ("npu", 1), ("npu", 2)],
)
def test_replicas_of_attention_are_a_part_of_the_ranks(device, nodes):
    sizes = dict(tp_size=4, ep_size=1, pp_size=1, nnodes=nodes, return_hidden_states_mode=None, device=device)
    for possible in (1, 2, 4):
        parallel_arguments.check_parallelism(SimpleNamespace(**sizes, attn_dp_size=possible))
    with pytest.raises(flags.UnsupportedFlag, match="--attn-dp-size 3 .* does not divide --tp-size 4"):
        parallel_arguments.check_parallelism(SimpleNamespace(**sizes, attn_dp_size=3))


@pytest.mark.parametrize("changed", [dict(tp_size=4), dict(pp_size=2)])
def test_experts_that_cannot_move_between_ranks_are_refused(changed):
    environment = SimpleNamespace(enable_eplb=True, tp_size=2, ep_size=2, pp_size=1)
    parallel_arguments.check_expert_location(environment)
    vars(environment).update(changed)
    with pytest.raises(flags.UnsupportedFlag, match=f"--enable-eplb .* give --ep-size {environment.tp_size}, as"):
        parallel_arguments.check_expert_location(environment)


@pytest.mark.parametrize("algorithm, adjusted", [(None, {}), ("static", dict(ep_dispatch_algorithm="dynamic"))])
def test_where_tokens_are_sent_to_experts_their_places_are_taken_in_turn_and_can_be_counted(algorithm, adjusted):
    environment = SimpleNamespace(moe_a2a_backend="deepep", ep_dispatch_algorithm=algorithm, device="cpu")
    assert expert_parallel.dispatches(environment)
    assert parallel_arguments.adjusted_to_dispatch(environment) == dict(deepep_mode="normal") | adjusted


def test_tokens_are_not_sent_to_experts_on_an_npu():
    environment = SimpleNamespace(moe_a2a_backend="deepep", ep_dispatch_algorithm=None, device="npu")
    with pytest.raises(flags.UnsupportedFlag, match="--moe-a2a-backend deepep with --device npu"):
        parallel_arguments.adjusted_to_dispatch(environment)


def test_places_are_for_models_that_have_experts():
    config = SimpleNamespace(model_path="here", is_generation=True, quantization=None, is_multimodal=False)
    config.hf_config = SimpleNamespace(architectures=["Qwen3MoeForCausalLM"])
    framework.check_model(config, experts=True)
    config.hf_config.architectures = ["Qwen3ForCausalLM"]
    framework.check_model(config)
    with pytest.raises(framework.UnsupportedModel, match="no experts that arguments could place"):
        framework.check_model(config, experts=True)


@pytest.mark.parametrize(
    "device, given, resolved, wanted",
    [("cpu", None, -0.046, 0.5), ("cpu", None, 0.85, 0.85), ("cpu", 0.1, 0.1, 0.1), ("npu", None, -0.046, -0.046)],
)
def test_half_of_a_small_machines_memory_is_for_weights_and_caches(device, given, resolved, wanted):
    view = SimpleNamespace(device=device, mem_fraction_static=resolved)
    assert framework.share_of_memory(SimpleNamespace(mem_fraction_static=given), view) == wanted


def test_hidden_states_are_refused_in_stages():
    sizes = dict(tp_size=1, ep_size=1, attn_dp_size=1, pp_size=2)
    environment = SimpleNamespace(**sizes, return_hidden_states_mode="full", device="cpu")
    with pytest.raises(flags.UnsupportedFlag, match="--enable-return-hidden-states with --pp-size 2"):
        parallel_arguments.check_parallelism(environment)
    parallel_arguments.check_parallelism(SimpleNamespace(**{**vars(environment), "pp_size": 1}))


def test_pooled_models_are_refused_in_stages_and_in_replicas_of_attention(tmp_path):
    config = SimpleNamespace(
        model_path=str(tmp_path),
        revision=None,
        hf_config=SimpleNamespace(architectures=["Qwen3Model"]),
        is_generation=False,
        quantization=None,
        is_multimodal=False,
    )
    framework.check_model(config)
    with pytest.raises(framework.UnsupportedModel, match="it is pooled, and --pp-size 2 is for models that"):
        framework.check_model(config, 2)
    with pytest.raises(framework.UnsupportedModel, match="it is pooled, and --attn-dp-size 2 is for"):
        framework.check_model(config, attn_dp_size=2)


# ---- architectures ----


def folder_of(tmp_path, **config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return arguments_of(tmp_path)


def arguments_of(path, overrides="{}"):
    return SimpleNamespace(
        model_path=str(path), revision=None, trust_remote_code=False, json_model_override_args=overrides
    )


def test_an_architecture_that_nobody_here_can_read_is_refused_before_sglang_reads_it(tmp_path):
    environment = folder_of(tmp_path, model_type="something_new", architectures=["SomethingNewForCausalLM"])
    with pytest.raises(framework.UnsupportedModel, match="SomethingNewForCausalLM.* is not supported .*Llama"):
        model_config.overrides(environment)


def test_a_config_whose_class_comes_with_the_checkpoint_needs_trust(tmp_path):
    auto_map = dict(AutoConfig="configuration_internlm2.InternLM2Config")
    config = dict(model_type="internlm2", architectures=["InternLM2ForCausalLM"])
    environment = folder_of(tmp_path, **config, auto_map=auto_map)
    with pytest.raises(framework.UnsupportedModel, match="give --trust-remote-code"):
        model_config.overrides(environment)
    environment.trust_remote_code = True
    model_config.overrides(environment)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_model_type_that_nothing_reads_is_named(tmp_path, trusted):
    environment = folder_of(tmp_path, model_type="something_new", architectures=["LlamaForCausalLM"])
    environment.trust_remote_code = trusted
    with pytest.raises(framework.UnsupportedModel, match="'something_new' is neither beside it"):
        model_config.overrides(environment)


@pytest.mark.parametrize("model_type", ["qwen3", "chatglm"])  # transformers' class, and SGLang's
def test_configs_that_are_known_need_no_trust(tmp_path, model_type):
    auto_map = dict(AutoConfig="configuration_x.Config")
    model_config.overrides(
        folder_of(tmp_path, model_type=model_type, architectures=["Qwen3ForCausalLM"], auto_map=auto_map)
    )


def test_an_architecture_is_refused_before_sglang_adjusts_to_it(monkeypatch):
    model = SimpleNamespace(model_path="here", hf_config=SimpleNamespace(architectures=["DeepseekV4ForCausalLM"]))
    monkeypatch.setattr(overrides, "model_config_of", lambda server_args: model)
    with pytest.raises(framework.UnsupportedModel, match="nearest by name: DeepseekV2ForCausalLM"):
        framework.adjust_to_model(
            ServerArgs(model_path="here", model_impl="mindspore"), lambda server_args: pytest.fail("adjusted")
        )


@pytest.mark.parametrize(
    "quantization, dtype, adjusted",
    [("mxfp4", "auto", "bfloat16"), ("mxfp4", "float16", "float16"), (None, "auto", "auto")],
)
def test_nothing_but_the_dtype_of_mxfp4_is_adjusted_to_a_model(monkeypatch, quantization, dtype, adjusted):
    config = SimpleNamespace(architectures=["GptOssForCausalLM"])
    model = SimpleNamespace(model_path="here", hf_config=config, quantization=quantization, is_generation=True)
    monkeypatch.setattr(overrides, "model_config_of", lambda server_args: model)
    monkeypatch.setattr(hybrid_arch, "mambaish_config", lambda model_config: None)
    server_args = ServerArgs(model_path="here", model_impl="mindspore", dtype=dtype)
    framework.adjust_to_model(server_args, lambda server_args: pytest.fail("adjusted for SGLang's kernels"))
    assert overrides.resolving_view(server_args).dtype == adjusted


def test_the_models_of_other_frameworks_are_adjusted_to_by_sglang():
    server_args, adjusted = ServerArgs(model_path="here"), []
    framework.adjust_to_model(server_args, adjusted.append)
    assert adjusted == [server_args]


# ---- environment variables ----


def test_an_empty_environment_means_the_defaults():
    assert environment.read_environment({}) == environment.Environment()
    assert (
        environment.read_environment({environment.OPERATOR_TABLE: "", environment.PROFILE: ""})
        == environment.Environment()
    )


def test_well_formed_variables_are_taken():
    variables = {environment.OPERATOR_TABLE: "reference", environment.PROFILE: "1", environment.PLATFORM: "npu"}
    wanted = environment.Environment(ops_table="reference", profile=True, platform="npu")
    assert environment.read_environment(variables) == wanted


def test_every_malformed_variable_is_named_with_its_value():
    with pytest.raises(environment.SettingError) as caught:
        variables = {environment.OPERATOR_TABLE: "../cpu", environment.PROFILE: "yes", environment.PARTITION: "12,0"}
        variables[environment.ALLREDUCE_FUSION] = "no"
        environment.read_environment(variables)
    lines = str(caught.value).splitlines()
    named = ["SGLANG_MS_OPS='../cpu'", "SGLANG_MS_PROFILE='yes'", "SGLANG_MS_ALLREDUCE_FUSION='no'"]
    named += ["SGLANG_PP_LAYER_PARTITION='12,0'"]
    assert [line.split(":")[0] for line in lines] == named


@pytest.mark.parametrize(("value", "fused"), [(None, True), ("", True), ("1", True), ("0", False)])
def test_sums_are_left_to_norms_unless_somebody_says_no(value, fused):
    variables = {} if value is None else {environment.ALLREDUCE_FUSION: value}
    assert environment.read_environment(variables).allreduce_fusion is fused


def test_the_layers_of_pipeline_stages_are_read():
    assert environment.read_environment({environment.PARTITION: "3,10,4"}).pp_layer_partition == (3, 10, 4)


@pytest.mark.parametrize(("wanted", "before", "after"), [
    (True, None, environment.CPU_PLATFORM),
    (True, "other", "other"),
    (False, environment.CPU_PLATFORM, None),
    (False, "other", "other"),
])  # fmt: skip
def test_the_platform_is_selected_for_child_processes_unless_the_user_selected_one(monkeypatch, wanted, before, after):
    monkeypatch.delenv(environment.PLATFORM, raising=False)
    if before:
        monkeypatch.setenv(environment.PLATFORM, before)
    environment.select_cpu_platform(wanted)
    assert environment.read_environment().platform == after
    monkeypatch.delenv(environment.PLATFORM, raising=False)


def test_ranks_are_bound_anew_for_every_server_unless_the_user_bound_them(monkeypatch):
    for name in (environment.BINDING, environment.BOUND_HERE):
        monkeypatch.delenv(name, raising=False)
    for groups, wanted in (([[0, 1], [2]], "0,1|2"), ([[0], [1], [2]], "0|1|2"), ([], None), ([[3], [4]], "3|4")):
        environment.bind_ranks(groups)
        assert environment.read_environment().binding == wanted
    monkeypatch.setenv(environment.BINDING, "5|6")
    environment.bind_ranks([[0], [1]])
    assert environment.read_environment().binding == "5|6"
    for name in (environment.BINDING, environment.BOUND_HERE):
        monkeypatch.delenv(name, raising=False)


def test_actors_of_ray_have_what_other_ranks_inherit(monkeypatch):
    for name in (environment.BINDING, environment.BOUND_HERE, environment.THREADS, *environment.INHERITED):
        monkeypatch.setenv(name, "")  # so that it is afterwards as it was
        monkeypatch.delenv(name)
    environment.bind_ranks([[0], [1]])  # which each node does for its own ranks
    assert environment.for_actors() == {}
    monkeypatch.setenv(environment.BINDING, "5|6")
    monkeypatch.setenv(environment.PROFILE, "1")
    assert environment.for_actors() == {environment.BINDING: "5|6", environment.PROFILE: "1"}


def test_an_actor_computes_with_rays_one_thread_only_if_the_user_said_so(monkeypatch):
    for given, wanted in (({}, None), ({environment.THREADS: "1"}, "1")):
        monkeypatch.setenv(environment.THREADS, "1")
        environment.forget_threads_of_ray(given)
        assert environment.read_environment().threads == wanted


def test_a_port_where_a_server_cannot_listen_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(flags.UnsupportedFlag, match=f"--host 127.0.0.1 --port {port}: .*Address already in use"):
            framework.refuse_taken_port("127.0.0.1", port)
    framework.refuse_taken_port("127.0.0.1", port)


# ---- a server ----


def test_a_server_with_a_refused_argument_ends_before_the_weights_are_looked_for(tmp_path):
    (tmp_path / "config.json").write_text((ROOT / "ms_example/demo_model/config.json").read_text())
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(tmp_path), "--device", "cpu"]
    command += ["--framework", "mindspore", "--enable-lora-overlap-loading", "--quantization", "mxfp8"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode != 0
    assert "--enable-lora-overlap-loading True: " in ended.stderr
    assert "--quantization mxfp8: " in ended.stderr
    assert "\nerror: --framework mindspore does not support these arguments:\n" in ended.stderr
    assert "Traceback" not in ended.stderr
