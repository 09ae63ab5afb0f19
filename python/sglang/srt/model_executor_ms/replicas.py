"""SGLang's controller of data-parallel replicas, which would not see one killed and would poll without a pause."""

import logging
import os
import signal
import threading
import time

from sglang.srt.managers.io_struct import sock_recv

logger = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between looks at the replicas
IDLE = 1000  # milliseconds to wait for a request before the controller's own watchdog is fed


def watch(controller, *_arguments) -> None:
    """Before the replicas of `controller` are launched: end its process, and so the server, when one of them ends."""
    threading.Thread(target=_watch, args=(controller,), daemon=True, name="replicas").start()


def _watch(controller) -> None:
    while not (ended := [process for process in list(controller.scheduler_procs) if process.exitcode]):
        time.sleep(INTERVAL)
    logger.error("replica's process %d ended with exit code %s: the server ends", ended[0].pid, ended[0].exitcode)
    os.kill(os.getpid(), signal.SIGQUIT)  # which SGLang's launcher sees, as where a rank tells of its end itself


def event_loop(controller) -> None:
    """Hand each request to a replica; between them the process sleeps, on a core that a replica computes with."""
    while True:
        controller.soft_watchdog.feed()
        if controller.recv_from_tokenizer.poll(IDLE):
            controller._request_dispatcher(sock_recv(controller.recv_from_tokenizer))
