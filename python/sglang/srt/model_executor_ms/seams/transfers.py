"""How SGLang sends keys and values from a prefill server to a decode server."""


def send_memory_of_host() -> None:
    """Have NIXL take a pool for what it is: SGLang registers its memory as a GPU's, which UCX refuses on a CPU."""
    from nixl import _api

    class HostAgent(_api.nixl_agent):
        def register_memory(self, reg_list, mem_type=None, *more, **named):
            return super().register_memory(reg_list, _host(mem_type), *more, **named)

        def get_reg_descs(self, descs, mem_type=None, *more, **named):
            return super().get_reg_descs(descs, _host(mem_type), *more, **named)

        def get_xfer_descs(self, descs, mem_type=None, *more, **named):
            return super().get_xfer_descs(descs, _host(mem_type), *more, **named)

        def prep_xfer_dlist(self, agent_name, xfer_list, mem_type=None, *more, **named):
            return super().prep_xfer_dlist(agent_name, xfer_list, _host(mem_type), *more, **named)

    _api.nixl_agent = HostAgent


def _host(mem_type: str | None) -> str | None:
    return "DRAM" if mem_type == "VRAM" else mem_type


def send_places_as_arrays() -> None:
    """Have Mooncake be told pages as arrays: SGLang copies them to pinned memory, and waits for an event of a GPU.

    What sends between NPUs inherits it.
    """
    from sglang.srt.disaggregation.mooncake import conn

    conn.MooncakeKVSender.supports_host_tensor_indices = False


def unfinished(scheduler) -> list:
    """The requests of a scheduler that wait for the other server, or whose keys and values are on their way."""
    prealloc = scheduler.disagg_decode_prealloc_queue
    owners = (scheduler.disagg_prefill_bootstrap_queue, prealloc, scheduler.disagg_decode_transfer_queue)
    waiting = [one for owner in owners if owner is not None for one in owner.queue]
    waiting += prealloc.retracted_queue if prealloc is not None else []
    waiting += scheduler.disagg_prefill_inflight_queue or []
    return [getattr(one, "req", one) for one in waiting]  # a decode server keeps what receives them with each
