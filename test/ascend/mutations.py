"""Faults that a first card would have shown, each as a change of the sources and the tests that fail with it.

    python test/ascend/mutations.py            # makes each change in turn, runs its tests, and undoes it
    python test/ascend/mutations.py frozen     # those whose names have this in them

Exits with 1 where tests pass although the fault is back. Nothing else may change the sources meanwhile.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # test/, as pytest has it
from mutating import Mutation, run

EXECUTOR = "python/sglang/srt/model_executor_ms"
ASCEND = "python/sglang/srt/layers_ms/ops/ascend"

MUTATIONS = (
    Mutation(
        "drafts that see the drafts after them",
        f"{EXECUTOR}/npu/verify_rows.py",
        "torch.arange(1, n + 1)",
        "n + 0 * torch.arange(1, n + 1)",
        "test/ascend/test_speculation.py -k row_with_its_own",
    ),
    Mutation(
        "drafts that do not see themselves",
        f"{EXECUTOR}/npu/verify_rows.py",
        "torch.arange(1, n + 1)",
        "torch.arange(n)",
        "test/ascend/test_speculation.py -k row_with_its_own",
    ),
    Mutation(
        "drafts of a request in the rows of another",
        f"{EXECUTOR}/npu/verify_rows.py",
        "rows[:, None].expand(-1, times).reshape(-1)",
        "rows.repeat(times)",
        "test/ascend/test_speculation.py -k row_with_its_own",
    ),
    Mutation(
        "adapters of requests in the rows of others",
        f"{EXECUTOR}/npu/verify_rows.py",
        "np.repeat(slots, n)",
        "np.tile(slots, n)",
        "test/ascend/test_speculation.py -k row_with_its_own",
    ),
    Mutation(
        "trees verified as chains",
        f"{EXECUTOR}/npu/verify_rows.py",
        "if trees is not None and not",
        "if False and not",
        "test/ascend/test_speculation.py -k trees_are_refused",
    ),
    Mutation(
        "captured sizes that count requests",
        f"{EXECUTOR}/npu/start.py",
        "[size * drafts for size",
        "[size for size",
        "test/ascend/test_speculation.py -k count_rows",
    ),
    Mutation(
        "states of the warm-up that are there when serving begins",
        f"{EXECUTOR}/npu/graph_runner.py",
        "                break\n        if self.states is not None:\n            self.states.forget()\n",
        "                break\n",
        "test/ascend/test_states.py -k kind",
    ),
    Mutation(
        "captured graphs compared with states of nothing",
        f"{EXECUTOR}/npu/graph_runner.py",
        "            if other:  # from here on each request's is another one\n"
        "                self._warm_up_once(None, requests, vocab_size, False)\n",
        "",
        "test/ascend/test_states.py -k other_slots",
    ),
    Mutation(
        "second slots for states behind no token",
        f"{EXECUTOR}/npu/states.py",
        "mask & (slots >= 0) & (lens > 0)",
        "mask & (slots >= 0)",
        "test/ascend/test_states.py -k kind",
    ),
    Mutation(
        "pieces that go on where a state is kept",
        f"{ASCEND}/recurrent.py",
        "np.unique([*range(0, tokens, PIECE), tracked, tokens])",
        "np.unique([*range(0, tokens, PIECE), tokens])",
        "test/ascend/test_recurrent.py -k pieces",
    ),
    Mutation(
        "states of one request that come from the one before",
        f"{ASCEND}/recurrent.py",
        '"piece_continues": own,',
        '"piece_continues": np.ones_like(own),',
        "test/ascend/test_recurrent.py -k in_pieces",
    ),
    Mutation(
        "earlier tokens of a piece that a later one does not see",
        f"{ASCEND}/delta_rules.py",
        "for half in HALVES:",
        "for half in HALVES[:-1]:",
        "test/ascend/test_recurrent.py -k 'in_pieces and kimi'",
    ),
    Mutation(
        "what is left of a state, counted from one token too far",
        f"{ASCEND}/delta_rules.py",
        "(firsts < places[:, None]) & (places[:, None] <= lasts)",
        "(firsts <= places[:, None]) & (places[:, None] <= lasts)",
        "test/ascend/test_recurrent.py -k 'in_pieces and kimi'",
    ),
    Mutation(
        "earlier values of a convolution that are another request's",
        f"{ASCEND}/states.py",
        "np.where(numbers < 0, tokens - (numbers + 1) * len(requests) + of, starts[of] + numbers)",
        "np.maximum(starts[of] + numbers, 0)",
        "test/ascend/test_states.py -k goes_on",
    ),
    Mutation(
        "adapters of all slots added to each row",
        f"{ASCEND}/lora.py",
        "kernels.select(own, kernels.contiguous(of_part), _zero(x.dtype))",
        "kernels.contiguous(of_part)",
        "test/ascend/test_lora.py",
    ),
    Mutation(
        "adapters of all slots added to each expert's rows",
        f"{ASCEND}/lora_experts.py",
        "kernels.select(kept, hidden, _zero(rows.dtype))",
        "hidden",
        "test/ascend/test_lora.py",
    ),
    Mutation(
        "adapters lost when weights come anew",
        "python/sglang/srt/layers_ms/lora.py",
        "leaves the adapters as they are.\n    process_weights_after_loading = renew\n",
        "\n",
        "test/ascend/test_lora.py",
    ),
    Mutation(
        "padding of captured graphs with the first slot's adapter",
        f"{EXECUTOR}/npu/inputs.py",
        "slots = None if self.lora_slots is None else _padded(self.lora_slots, self.padded, -1)",
        "slots = None if self.lora_slots is None else _padded(self.lora_slots, None, -1)",
        "test/ascend/test_lora.py",
    ),
    Mutation(
        "frozen inputs of captured graphs",
        f"{EXECUTOR}/npu/mode_graph.py",
        "self.graph.call(map(bridge.to_mindspore, inputs), lengths)",
        "self.graph.call([vars(self).setdefault((t.data_ptr(), t.shape), bridge.to_mindspore(t)) for t in inputs], "
        "lengths)",
        "test/ascend/test_imports.py",
    ),
    Mutation(
        "a tuple of inputs in captured graphs",
        f"{EXECUTOR}/runner/graphs.py",
        "graphs = (CapturedGraph, UncompiledCapturedGraph) if captured else (DynamicGraph, UncompiledGraph)",
        "graphs = (DynamicGraph, UncompiledGraph)",
        "test/ascend/test_imports.py",
    ),
    Mutation(
        "each input of uncaptured graphs a parameter, which is copied",
        f"{EXECUTOR}/runner/graphs.py",
        "graphs = (CapturedGraph, UncompiledCapturedGraph) if captured else (DynamicGraph, UncompiledGraph)",
        "graphs = (CapturedGraph, UncompiledCapturedGraph)",
        "test/ascend/test_imports.py -k no_input_copied",
    ),
    Mutation(
        "a cap that gives each replica of attention a part of it",
        f"{EXECUTOR}/npu/memory.py",
        "(sum(held.values()) - experts) * attn_dp_size)",
        "(sum(held.values()) - experts))",
        "test/ascend/test_start.py -k belongs_to_no_expert",
    ),
    Mutation(
        "a copy of the cache of a stage with one layer",
        f"{EXECUTOR}/runner/graphs.py",
        "return caches * 2 if len(caches) == 1 else caches",
        "return caches",
        "test/ascend/test_imports.py",
    ),
    Mutation(
        "captured graphs compared with equal inputs only",
        f"{EXECUTOR}/npu/graph_runner.py",
        "other = dict(vocab_size=vocab_size, other=True)",
        "return True",
        "test/ascend/test_imports.py -k goes_on_reading",
    ),
    Mutation(
        "weights that SGLang does not see on the card",
        f"{ASCEND}/host.py",
        "weight.assign_value(kernels.to_device(weight))",
        "weight.assign_value(weight.value().copy())",
        "test/ascend/test_weights.py -k card_has",
    ),
    Mutation(
        "weights as they were before they were loaded",
        f"{ASCEND}/host.py",
        "        weight.assign_value(value)  # what was made",
        "        pass  # what was made",
        "test/ascend/test_weights.py -k before_they_are_filled",
    ),
    Mutation(
        "weights that stay on the host too",
        f"{ASCEND}/host.py",
        "        del weight.host\n",
        "        pass\n",
        "test/ascend/test_weights.py -k free",
    ),
    Mutation(
        "a head that keeps its memory on the host",
        f"{EXECUTOR}/runner/lm_head.py",
        "        self.weight = bridge.to_torch(self.parameter)\n",
        "        self.weight = self.weight if self.weight is not None else bridge.to_torch(self.parameter).clone()\n",
        "test/ascend/test_weights.py -k free",
    ),
    Mutation(
        "weights that are computed of others not computed anew",
        f"{EXECUTOR}/runner/weights.py",
        "if not parameter.slices:",
        "if False:",
        "test/ascend/test_weights.py -k before_they_are_filled",
    ),
    Mutation(
        "a cap by the bytes of files",
        f"{EXECUTOR}/npu/memory.py",
        'return values * (1 if stored.dtype == "int8" else itemsize)',
        "return math.prod(stored.shape) * getattr(torch, stored.dtype).itemsize",
        "test/ascend/test_weights.py -k card_has",
    ),
    Mutation(
        "no memory kept for captured graphs",
        f"{EXECUTOR}/server/framework.py",
        "return reserved + GRAPH_MB * view.cuda_graph_config.decode.max_bs",
        "return reserved",
        "test/ascend/test_environment.py",
    ),
    Mutation(
        "LCCL on",
        f"{EXECUTOR}/environment.py",
        '    "MS_ENABLE_LCCL": "off",\n',
        "",
        "test/ascend/test_environment.py",
    ),
    Mutation(
        "MindSpore's own PagedAttention",
        f"{EXECUTOR}/environment.py",
        '    "MS_INTERNAL_DISABLE_CUSTOM_KERNEL_LIST": "FlashAttentionScore,PagedAttention",\n',
        "",
        "test/ascend/test_environment.py",
    ),
    Mutation(
        "the environment set when arguments are resolved already",
        f"{EXECUTOR}/server/framework.py",
        "        prepare_npu(server_args.nnodes)\n",
        "",
        "test/ascend/test_environment.py",
    ),
    Mutation(
        "AIV on several hosts",
        f"{EXECUTOR}/environment.py",
        "export(NPU_SETTINGS if hosts > 1 else NPU_SETTINGS | ONE_HOST_SETTINGS)",
        "export(NPU_SETTINGS | ONE_HOST_SETTINGS)",
        "test/ascend/test_environment.py",
    ),
    Mutation(
        "as many graphs as segments fit, whatever they communicate",
        f"{EXECUTOR}/npu/buckets.py",
        "STREAMS, STREAMS_OF_GROUP, STREAMS_OF_SEGMENT_IN_GROUP = 1800, 40, 2",
        "STREAMS, STREAMS_OF_GROUP, STREAMS_OF_SEGMENT_IN_GROUP = 2000, 0, 0",
        "test/ascend/test_capture.py -k 'plans or segments'",
    ),
    Mutation(
        "a failed capture ends the start",
        f"{EXECUTOR}/npu/graph_runner.py",
        "        except RuntimeError as error:\n",
        "        except ZeroDivisionError as error:\n",
        "test/ascend/test_capture.py -k captured_before",
    ),
    Mutation(
        "a rank alone without a captured graph",
        f"{EXECUTOR}/npu/graph_runner.py",
        "if not self.agree(problem is None):",
        "if problem is not None:",
        "test/ascend/test_capture.py -k another_rank",
    ),
    Mutation(
        "exchanges of replicas captured",
        f"{EXECUTOR}/npu/start.py",
        "mindspore_device.allow_capture(EXCHANGES if exchanges else ())",
        "mindspore_device.allow_capture(())",
        "test/ascend/test_device_calls.py -k replicas",
    ),
    Mutation(
        "MindSpore asked for the chip before it has a card",
        f"{EXECUTOR}/npu/start.py",
        "    mindspore_device.start(card)  # first: asking for the chip may start the default one\n",
        "    host.capabilities(), mindspore_device.start(card)\n",
        "test/ascend/test_caches_310p.py -k a_card_is_taken",
    ),
    Mutation(
        "masks by rotary positions in decode",
        f"{ASCEND}/metadata.py",
        "arrays = {LAST_PLACES.name: step.places}",
        "arrays = {LAST_PLACES.name: step.places if step.rotary_positions is None else step.rotary_positions}",
        "test/ascend/test_semantics_gathered.py -k rotary_position",
    ),
)

if __name__ == "__main__":
    run(MUTATIONS)
