"""Block tables on the device: gathered when the batch changes, and then only told of the pages that begin."""

import torch

from sglang.srt.model_executor_ms.npu.link import DeviceLink


class BlockTables:
    """[most requests, most pages of a request] int32, of the batch that decodes, always at the same address.

    SGLang's table of token slots stays on the device: page numbers never pass through the host, and of the table only
    the first slot of each page is read.
    """

    def __init__(self, link: DeviceLink, req_to_token: torch.Tensor, page_size: int, requests: int, blocks: int):
        """req_to_token: SGLang's, [rows, slots] int32."""
        self.link, self.page_size = link, page_size
        self.first_slots = req_to_token[:, ::page_size]
        self.blocks = min(blocks, self.first_slots.shape[1])
        self.table = link.device_buffer(requests, self.blocks)
        self.batch = None  # requests whose pages the table has, in order
        self.decodes = 0  # steps since one of another kind

    def follow(self, rids: list | None, rows: torch.Tensor, columns: torch.Tensor, slots: torch.Tensor, begins: bool):
        """Bring the table up to date for a decode step.

        rids: the requests' ids. rows [B]: their rows in SGLang's table. columns [B], slots [B]: page of the request in
        which the new token lies, and its slot. begins: whether a page begins in this step.
        """
        self.decodes += 1
        # SGLang learns what a prompt's step computed when the step after it is prepared: then its radix cache may put
        # another request's pages into a row, where they hold the same tokens, and free the row's own.
        if rids is None or rids != self.batch or self.decodes <= 2:
            self._gather(rows)
            self.batch = list(rids) if rids is not None else None
        elif begins:
            # Other requests' pages are written again as they are: cheaper than to send which ones begin one.
            self.link.launch(_write_pages, self.table, columns, slots, self.page_size)

    def forget(self) -> None:
        """Another kind of step has run: requests may have left and come back with other pages."""
        self.batch, self.decodes = None, 0

    def of(self, rows: torch.Tensor, blocks: int) -> torch.Tensor:
        """The first `blocks` pages of requests that do not decode, as a table of its own."""
        return self.link.launch(_read_pages, self.first_slots, rows, blocks, self.page_size)

    def _gather(self, rows):
        target = self.table[: rows.shape[0]]
        self.link.launch(lambda: target.copy_(_read_pages(self.first_slots, rows, self.blocks, self.page_size)))


def _read_pages(first_slots, rows, blocks, page_size):
    return torch.div(first_slots[rows, :blocks], page_size, rounding_mode="floor").to(torch.int32)


def _write_pages(table, columns, slots, page_size):
    pages = torch.div(slots, page_size, rounding_mode="floor").to(table.dtype)
    table[: slots.shape[0]].scatter_(1, columns.long().unsqueeze(1), pages.unsqueeze(1))
