"""When a step of a CPU began and ended: it has ended when its call returns, so the host's clock is exact."""

import time


class Moment:
    """Now, for what times steps: SGLang asks of it what it asks of an event of a GPU."""

    def __init__(self):
        self.nanoseconds = time.perf_counter_ns()

    def query(self) -> bool:
        """Whether it has come."""
        return True

    def elapsed_time(self, later: "Moment") -> float:
        """Milliseconds until a later moment."""
        return (later.nanoseconds - self.nanoseconds) / 1e6
