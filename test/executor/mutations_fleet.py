"""Faults of servers among others: pages that are copied, sent and stored, a trainer's weights, and refusals.

python test/executor/mutations_fleet.py          # makes each change in turn, runs its tests, and undoes it
python test/executor/mutations_fleet.py rooms    # those whose names have this in them
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # test/, as pytest has it
from mutating import Mutation, run

EXECUTOR, OPS = "python/sglang/srt/model_executor_ms", "python/sglang/srt/layers_ms/ops"
TRANSFERS, OF_TRANSFERS = f"{EXECUTOR}/seams/transfers.py", "test/seams/test_nixl_seams.py -k"
COPIES, OF_COPIES = f"{EXECUTOR}/runner/host_pools.py", "test/serving/test_hicache.py -k copied_where"
ROWS, OF_ROWS = f"{OPS}/cpu/src/rows.cpp", "test/ops/test_contract.py -k rows_of_memory"
ARGUMENTS, OF_ARGUMENTS = f"{EXECUTOR}/server/fleet_arguments.py", "test/executor/test_fleet_arguments.py -k"
REQUESTS, OF_REQUESTS = f"{EXECUTOR}/server/request_validation.py", "test/executor/test_request_validation.py -k meet"
CONTROL, OF_CONTROL = f"{EXECUTOR}/seams/control.py", "test/seams/test_sglang_control_seams.py -k trainers_group"
ASKED, SLEEP = f"{EXECUTOR}/server/control_requests.py", f"{EXECUTOR}/runner/host_memory_saver.py"
TWO_SERVERS = "test/serving/test_disaggregation_misuse.py -m '' -k"

MUTATIONS = (
    # ---- pages that are copied ----
    Mutation(
        "pages at the places of their tokens", COPIES, ".astype(np.int64) // page_size", ".astype(np.int64)", OF_COPIES
    ),
    Mutation("pages of keys for those of values", COPIES, "dst_ptrs[place // each]", "dst_ptrs[0]", OF_COPIES),
    Mutation("pages of the first layer for all", COPIES, "[:, place % each]", "[:, 0]", OF_COPIES),
    Mutation(
        "pages of another shape",
        COPIES,
        "if (page.shape, page.dtype) != (other.shape, other.dtype) or",
        "if",
        OF_COPIES,
    ),
    Mutation("rows without their ends", ROWS, "std::memcpy(to + i, from + i, size - i);", "", OF_ROWS),
    Mutation("rows without their beginnings", ROWS, "std::memcpy(to, from, head);", "", OF_ROWS),
    Mutation("rows of the first tensor for all", ROWS, "copies[task / tasks]", "copies[0]", OF_ROWS),
    # ---- pages that are sent ----
    Mutation(
        "memory of a GPU", TRANSFERS, '"DRAM" if mem_type == "VRAM" else mem_type', "mem_type", f"{OF_TRANSFERS} memory"
    ),
    Mutation("pages that never arrive", TRANSFERS, "self.thread.lost = True", "pass", f"{OF_TRANSFERS} their_time"),
    Mutation(
        "layouts that are not compared",
        TRANSFERS,
        "original(pool) or known[0]",
        "original(pool)",
        f"{OF_TRANSFERS} line",
    ),
    Mutation(
        "layouts without a dtype",
        f"{EXECUTOR}/runner/sent_pages.py",
        "{sizes}, {dtype}, of",
        "{sizes}, of",
        f"{TWO_SERVERS} 'not_fit and dtype'",
    ),
    Mutation("rooms that are shared", TRANSFERS, "one.bootstrap_room == room", "False", f"{OF_TRANSFERS} one_room"),
    Mutation(
        "rooms of requests that are computed",
        TRANSFERS,
        "return computing + unfinished(scheduler)",
        "return unfinished(scheduler)",
        f"{OF_TRANSFERS} one_room",
    ),
    Mutation("rooms of those who come back", TRANSFERS, "old = is_retracted or", "old =", f"{OF_TRANSFERS} one_room"),
    Mutation(
        "rooms beyond int64", REQUESTS, '"bootstrap_room"), 1, 2**63 - 1', '"bootstrap_room"), 1, 2**64', OF_REQUESTS
    ),
    Mutation(
        "rooms that say that nothing has come", REQUESTS, '"bootstrap_room"), 1,', '"bootstrap_room"), 0,', OF_REQUESTS
    ),
    Mutation(
        "a prefill server that is nowhere", REQUESTS, 'if mode == "decode" and not host:', "if False:", OF_REQUESTS
    ),
    Mutation(
        "a prefill server that ends a decode server",
        TRANSFERS,
        "except (RuntimeError, AssertionError) as error:",
        "except AssertionError as error:",
        f"{OF_TRANSFERS} does_not_fit",
    ),
    # ---- pages that are stored ----
    Mutation(
        "storages without their packages",
        ARGUMENTS,
        "if view.hicache_storage_backend in PACKAGES:",
        "if False:",
        f"{OF_ARGUMENTS} storage_that_is_not_installed",
    ),
    Mutation(
        "storages of the user's own that nobody names",
        ARGUMENTS,
        "and not view.hicache_storage_backend_extra_config:",
        "and False:",
        f"{OF_ARGUMENTS} users_own",
    ),
    Mutation(
        "storages of pages of other weights",
        ASKED,
        "isinstance(request, UPDATES) and scheduler.enable_hicache_storage",
        "False",
        "test/serving/test_hicache.py -k server_before",
    ),
    Mutation(
        "storages of pages of any dtype",
        COPIES,
        "mindspore-{str(pool.dtype).removeprefix('torch.')}-",
        "mindspore-float32-",
        "test/serving/test_hicache.py -m '' -k float8",
    ),
    # ---- weights of a trainer, and memory ----
    Mutation(
        "a trainer that is waited for",
        CONTROL,
        '{"timeout": timedelta(seconds=seconds())} | named',
        "named",
        OF_CONTROL,
    ),
    Mutation(
        "memory that was not released",
        ASKED,
        "ResumeMemoryOccupationReqInput) and asked - released:",
        "ResumeMemoryOccupationReqInput) and False:",
        "test/serving/test_sleep.py -k named",
    ),
)

if __name__ == "__main__":
    run(MUTATIONS)
