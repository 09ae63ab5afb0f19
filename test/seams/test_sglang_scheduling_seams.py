"""What we rely on in SGLang 0.5.23 in its scheduler, and what we work around; a test names one seam.

A workaround's test is expected to fail: where it passes, with a later SGLang, the workaround can go.
"""

import dataclasses
import inspect
import time
from types import SimpleNamespace

import torch
from seams.contract import assert_in_order, names, parameters, unhooked, works_around

from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.disaggregation.utils import DisaggregationMode
from sglang.srt.managers import schedule_policy
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.scheduler_components import batch_result_processor, output_streamer
from sglang.srt.mem_cache.allocator.base import BaseTokenToKVPoolAllocator
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.model_executor_ms.runner import step_clock
from sglang.srt.model_executor_ms.seams import batches, scheduling
from sglang.srt.observability.forward_pass_metrics import FpmTiming
from sglang.srt.utils import device_timer

SECONDS = 6
MANAGER = "srt.managers.tokenizer_manager"
SCHEDULER = "srt.managers.scheduler"
INIT_FIELDS = "ForwardBatch._maybe_init_non_generation_fields"

# ---- batches ----


def test_token_types_of_a_batch_are_those_of_its_requests_one_behind_the_other():
    """batches.fill_token_types"""
    assert_in_order(names("srt.model_executor.forward_batch_info", INIT_FIELDS), "token_type_ids", "reqs", "sum")
    pair, text = (SimpleNamespace(token_type_ids=types, origin_input_ids=[7] * 3) for types in ([0, 1, 1], None))
    batches._fill_token_types(None, SimpleNamespace(reqs=[text, pair]))
    assert (text.token_type_ids, pair.token_type_ids) == ([0, 0, 0], [0, 1, 1])
    alone = SimpleNamespace(token_type_ids=None, origin_input_ids=[7])
    batches._fill_token_types(None, SimpleNamespace(reqs=[alone]))
    assert alone.token_type_ids is None


@works_around("leaves out the tokens of requests without types: batches.fill_token_types")
def test_a_request_without_token_types_has_some_beside_one_that_has():
    reqs = [SimpleNamespace(token_type_ids=types, origin_input_ids=[7] * 2) for types in (None, [0, 1])]
    made = SimpleNamespace(is_prefill_only=False, token_type_ids=None)
    init = inspect.unwrap(ForwardBatch._maybe_init_non_generation_fields)
    init(made, SimpleNamespace(reqs=reqs, device="cpu"))
    assert len(made.token_type_ids) == 4


def test_rows_of_embeddings_of_a_batch_are_those_of_the_requests_that_bring_some():
    """batches.spread_input_embeds"""
    found = names("srt.managers.schedule_batch", "ScheduleBatch.prepare_for_extend")
    assert {"input_embeds", "extend_lens"} <= set(found)
    brings = [None, [[1.0, 2.0]], None]
    reqs = [SimpleNamespace(input_embeds=own) for own in brings]
    batch = SimpleNamespace(input_embeds=None, reqs=reqs, extend_lens=[2, 1, 1])
    forward_batch = SimpleNamespace(input_embeds=None, replace_embeds=None)
    batches._spread_input_embeds(forward_batch, batch)
    assert forward_batch.input_embeds is None
    batch.input_embeds = torch.tensor(brings[1])
    batches._spread_input_embeds(forward_batch, batch)
    assert forward_batch.input_embeds.isnan().all(1).tolist() == [True, True, False, True]
    assert forward_batch.input_embeds[2].tolist() == [1.0, 2.0]
    forward_batch.replace_embeds, forward_batch.replace_positions = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    batches._spread_input_embeds(forward_batch, batch)
    assert forward_batch.input_embeds.isnan().all(1).tolist() == [True, False, False, True]
    assert forward_batch.input_embeds[1:3].tolist() == [[3.0, 4.0], [1.0, 2.0]] and forward_batch.replace_embeds is None


def test_rows_in_the_place_of_single_tokens_are_with_a_batch_before_it_is_spread():
    """batches.spread_input_embeds"""
    assert {"replace_embeds", "replace_positions"} <= {field.name for field in dataclasses.fields(ForwardBatch)}
    found = names("srt.model_executor.forward_batch_info", "ForwardBatch.init_new")
    assert_in_order(found, "replace_embeds", "_maybe_init_non_generation_fields")


# ---- limits ----


def test_a_schedulers_limits_are_known_when_its_chunks_are_and_before_they_are_used():
    """scheduling.limit_requests_with"""
    found = names(SCHEDULER, "Scheduler.__init__")
    assert_in_order(found, "init_model_worker", "init_chunked_prefill", "init_batch_result_processor")
    worker = names(SCHEDULER, "Scheduler.init_model_worker")
    assert_in_order(worker, "get_worker_info", "max_req_len", "max_req_input_len")
    chunks = names(SCHEDULER, "Scheduler.init_chunked_prefill")
    assert "chunked_prefill_size" in chunks and "max_req_len" not in chunks


def test_a_scheduler_without_a_batch_that_waits_for_pages_looks_again_at_once():
    """scheduling.rest_while_waiting"""
    found = names(SCHEDULER, "Scheduler.on_idle")
    assert_in_order(found, "is_fully_idle", "enable_hicache_storage", "disaggregation_mode", "NULL", "sleep", 0)
    assert parameters(Scheduler.is_fully_idle)[0] == "self" and DisaggregationMode.NULL.value == "null"


def test_forward_pass_metrics_are_timed_from_the_first_interval_to_the_last(monkeypatch):
    """scheduling.time_steps_with and runner/step_clock.py"""
    monkeypatch.setattr(device_timer, "_TimingInterval", type("Interval", (device_timer._TimingInterval,), {}))
    scheduling.time_steps_with(step_clock.Moment)
    told, waited, timing = [], [], FpmTiming()
    timer = device_timer.DeviceTimer(lambda t, category: told.append((t, category)))
    before = time.perf_counter()
    with timer.capture(timing):
        for category in ("extend", "decode"):
            with timer.wrap({"category": category}):
                time.sleep(0.01)
    took = time.perf_counter() - before
    timing.seal()
    timing.when_ready(waited.append)
    assert [category for _, category in told] == ["extend", "decode"] and not timer.is_active()
    assert 0.01 < told[0][0] < told[0][0] + told[1][0] <= waited[0] <= took


@works_around("times steps by events, which a CPU has none of: scheduling.time_steps_with")
def test_a_step_of_a_cpu_is_timed():
    try:
        unhooked(device_timer)._TimingInterval.create()
    except TypeError as error:
        raise AssertionError(error) from error


def test_an_answer_is_clipped_to_memory_by_a_method_of_the_allocator():
    """scheduling.clip_answers_with"""
    wanted = ["self", "input_tokens", "max_new_tokens", "token_capacity", "sliding_window_size", "chunk_size"]
    assert parameters(BaseTokenToKVPoolAllocator.max_new_tokens_for_memory) == wanted
    assert "max_new_tokens_for_memory" in names(SCHEDULER, "Scheduler.init_req_max_new_tokens")


@works_around("counts the last page of a prompt twice, and leaves no token for its answer: admission.clip_answer")
def test_a_prompt_that_fits_has_an_answer():
    clip = BaseTokenToKVPoolAllocator.max_new_tokens_for_memory
    clip = getattr(clip, "__wrapped__", clip)
    room = dict(token_capacity=256, sliding_window_size=None, chunk_size=None)
    assert clip(SimpleNamespace(page_size=16), 225, 5, **room) == 5


def test_every_request_waits_in_one_queue_and_can_be_ended_before():
    """scheduling.check_waiting_with"""
    assert parameters(Req.set_finish_with_abort)[:2] == ["self", "error_msg"]
    for handler in ("_handle_embedding_request", "_handle_generate_request"):
        assert "_add_request_to_queue" in names(SCHEDULER, f"Scheduler.{handler}")


@works_around("lets a prompt to embed wait that memory has no room for: admission.never_let_in")
def test_a_prompt_to_embed_that_is_too_long_is_ended():
    found = names(SCHEDULER, "Scheduler._handle_embedding_request")
    assert "set_finish_with_abort" in found[found.index("validate_input_length") :]


# ---- tokens that end an answer ----


def test_a_models_end_tokens_are_a_set_that_one_method_gives():
    """scheduling.keep_end_tokens_with"""
    config = SimpleNamespace(hf_config=SimpleNamespace(eos_token_id=[5, 7]), hf_generation_config=None)
    assert ModelConfig._get_hf_eos_token_id(config) == {5, 7}
    found = names("srt.configs.model_config", "ModelConfig.__init__")
    assert_in_order(found, "_derive_model_shapes", "_get_hf_eos_token_id")
    assert "tokenizer" in names(SCHEDULER, "Scheduler.init_tokenizer")


@works_around("uses end tokens as indices of logits without a look: end_tokens.of_vocabulary")
def test_end_tokens_beyond_the_vocabulary_are_left_out_by_sglang():
    found = names("srt.sampling.penaltylib.min_new_tokens", "BatchedMinNewTokensPenalizer._prepare")
    assert "clamp" in found or found.count("vocab_size") > 3


# ---- hidden states ----


def test_hidden_states_of_a_step_of_prefill_are_kept_by_one_method():
    """scheduling.keep_hidden_states_with, scheduling.note_rows, scheduling.noted_rows"""
    keep = batch_result_processor.SchedulerBatchResultProcessor._append_prefill_hidden_states
    wanted = ["req", "logits_output", "hidden_state_offset", "capture_hidden_mode", "extend_input_len", "store"]
    assert parameters(keep) == ["self", *wanted]
    request = SimpleNamespace()
    assert scheduling.noted_rows(request) == []
    scheduling.note_rows(request, [1])
    assert scheduling.noted_rows(request) == [1]


def test_an_answer_is_put_together_by_one_method_with_its_hidden_states_last():
    """scheduling.hand_out_rows_of_prompts"""
    accept = output_streamer._GenerationStreamAccumulator.accept
    assert parameters(accept) == ["self", "req"]
    found = names("srt.managers.scheduler_components.output_streamer", "_GenerationStreamAccumulator.accept")
    assert_in_order(found, "rids", "hidden_states", "finished_len", "output_hidden_states")
    request = SimpleNamespace(finished_len=0, return_hidden_states=True, rid="b", hidden_states=[[1], [2]])
    answers = SimpleNamespace(output_hidden_states=[None, []], rids=["a", "b"])
    scheduling._with_rows(None, answers, req=request)
    assert answers.output_hidden_states == [None, [[1]]]


# ---- chunks of prompts ----


def test_three_methods_choose_where_a_chunk_of_a_prompt_ends():
    """scheduling.end_chunks_with"""
    adder = schedule_policy.PrefillAdder
    assert parameters(adder._select_prefill_admission)[:2] == ["self", "req"]
    assert parameters(adder.add_one_req_ignore_eos) == parameters(adder.add_chunked_req) == ["self", "req"]
    fields = [field.name for field in dataclasses.fields(schedule_policy._PrefillAdmission)]
    assert fields[:2] == ["prefix_len", "extend_len"] and "is_chunked" in fields
    found = names("srt.managers.schedule_policy", "PrefillAdder.add_one_req")
    assert_in_order(found, "add_one_req_ignore_eos", "_select_prefill_admission", "_commit_prefill_admission")
    found = names("srt.managers.schedule_policy", "PrefillAdder._commit_prefill_admission")
    assert_in_order(found, "extend_len", "extend_end", "can_run_list", "new_chunked_req")
    # A request of which no chunk is computed stays as it is: nothing of it is stashed.
    found = names(SCHEDULER, "Scheduler.get_next_batch_to_run")
    assert_in_order(found, "chunked_req", "extend_end", "prefix_len", "stash_chunked_request")
