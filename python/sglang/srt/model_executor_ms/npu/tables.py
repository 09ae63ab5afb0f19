"""Block tables on the device: gathered when the batch changes, then updated when a request starts a new page."""

import torch

from sglang.srt.model_executor_ms.npu.link import DeviceLink


class BlockTables:
    """int32 [most requests, most pages of a request], of the decoding batch, always at the same address.

    SGLang's table of token slots stays on the device, and page numbers never pass through the host. Only the first slot
    of each page is read. Sliding-window layers with a pool of their own have a second table. In that table, pages
    outside every window may have any value.
    """

    def __init__(
        self,
        link: DeviceLink,
        req_to_token: torch.Tensor,
        page_size: int,
        requests: int,
        blocks: int,
        full_to_swa: torch.Tensor | None = None,
    ):
        """req_to_token: SGLang's, [rows, slots] int32. full_to_swa: as KVCaches has them, int64 [slots], or None."""
        self.link, self.page_size = link, page_size
        self.first_slots = req_to_token[:, ::page_size]
        self.blocks = min(blocks, self.first_slots.shape[1])
        self.full_to_swa = full_to_swa
        self.tables = tuple(link.device_buffer(requests, self.blocks) for _ in range(1 if full_to_swa is None else 2))
        self.batch = None  # the ids of the requests in the table, in order
        self.decodes = 0  # decode steps since the last step of another mode

    def slots_of(self, slots: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """SGLang's slots [T], and the corresponding slots of the second pool, if there is one."""
        if self.full_to_swa is None:
            return (slots,)
        return slots, self.link.launch(torch.index_select, self.full_to_swa, 0, slots)

    def update_decode(self, rids: list | None, rows: torch.Tensor, columns: torch.Tensor, slots: tuple, begins: bool):
        """Bring the tables up to date for a decode step.

        rids: the requests' ids. rows [B]: their rows in SGLang's table. columns [B], slots [B] of each pool: page of
        the request in which the new token lies, and its slot. begins: whether a page begins in this step.
        """
        self.decodes += 1
        # SGLang processes the result of a prompt's step when it prepares the next step. Its radix cache may then
        # replace pages in a row by another request's pages with the same tokens, and free the row's own.
        if rids is None or rids != self.batch or self.decodes <= 2:
            self._gather(rows)
            self.batch = list(rids) if rids is not None else None
        elif begins:
            # All requests' current pages are written: cheaper than sending which requests start one.
            self.link.launch(_write_pages, self.tables, columns, slots, self.page_size)

    def invalidate(self) -> None:
        """A step of another mode has run: the requests or their pages may have changed."""
        self.batch, self.decodes = None, 0

    def gather(self, rows: torch.Tensor, blocks: int) -> tuple[torch.Tensor, ...]:
        """New tables, one for each pool, of the first `blocks` pages of requests that do not decode."""
        return self.link.launch(self._read_pages, rows, blocks)

    def _gather(self, rows):
        targets = self.view(rows.shape[0])
        self.link.launch(lambda: _copy_all(targets, self._read_pages(rows, self.blocks)))

    def view(self, requests: int) -> tuple[torch.Tensor, ...]:
        """The rows of the first `requests` requests in the table of each pool."""
        return tuple(table[:requests] for table in self.tables)

    def _read_pages(self, rows, blocks):
        slots = self.first_slots[rows, :blocks]
        own = [slots] if self.full_to_swa is None else [slots, self.full_to_swa[slots.long()]]
        return tuple(_pages(slots, self.page_size) for slots in own)


def _pages(slots, page_size):
    return torch.div(slots, page_size, rounding_mode="floor").to(torch.int32)


def _copy_all(targets, sources):
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def _write_pages(tables, columns, slots, page_size):
    places = columns.long().unsqueeze(1)
    for table, own in zip(tables, slots, strict=True):
        table[: own.shape[0]].scatter_(1, places, _pages(own, page_size).unsqueeze(1))
