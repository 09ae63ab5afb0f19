"""HiCache's storages beside files: pages come back in a server that is started later, and answers stay the same."""

import json
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from models.tiny import save
from serving.conftest import TIED, free_port
from serving.test_hicache import CACHE, STORED, asked, assert_same, started
from tiers import SLOW

from sglang.srt.mem_cache.hicache_storage import HiCacheFile
from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag
from sglang.srt.model_executor_ms.server.fleet_arguments import check_package

SECONDS = 1, 160
KINDS = [("qwen3", "page_first"), ("qwen3", "layer_first"), ("gemma2", "page_first"), ("deepseek_v2", "page_first")]
KINDS += [("gemma2", "layer_first"), ("deepseek_v2", "layer_first")]


class OwnStorage(HiCacheFile):
    """What a user may bring along: files."""

    def __init__(self, config, _more):
        super().__init__(config)


def stored_by(name: str, **config) -> dict:
    config = json.dumps({"prefetch_threshold": 4, **config})
    return STORED | dict(hicache_storage_backend=name, hicache_storage_backend_extra_config=config)


def require(name: str) -> None:
    try:
        check_package("", name)
    except UnsupportedFlag as lacking:
        pytest.skip(f"no package that tests install: {lacking}")


def check(start_engine, folder, stored: dict, layout: str = "page_first") -> None:
    """What one server stores, the next one finds, in its first request; and not one whose pages are of another size."""
    wanted, _ = asked(started(start_engine, folder))
    first, _ = asked(started(start_engine, folder, hicache_mem_layout=layout, **CACHE, **stored))
    engine = started(start_engine, folder, hicache_mem_layout=layout, **CACHE, **stored)
    second, places = asked(engine)
    assert places[0].get("storage", 0) >= 90, places
    assert_same(first, wanted)
    assert_same(second, wanted)
    refused = engine.update_weights_from_disk(str(folder))
    assert not refused[0] and "stored pages are of the weights" in refused[1]
    other, places = asked(started(start_engine, folder, page_size=8, hicache_mem_layout=layout, **CACHE, **stored))
    assert places[0].get("storage", 0) == 0, places
    assert_same(other, wanted)


@SLOW
@pytest.mark.parametrize("variant, layout", KINDS)
def test_pages_come_back_through_nixl(start_engine, tmp_path, monkeypatch, variant, layout):
    require("nixl")
    monkeypatch.setenv("SGLANG_HICACHE_NIXL_BACKEND_STORAGE_DIR", str(tmp_path / "store"))
    folder = save(variant, tmp_path / "model")
    check(start_engine, folder, stored_by("nixl", l3_cleaner_enabled=False), layout)
    names = [file.name for file in (tmp_path / "store").rglob("*") if file.is_file()]
    tag = "mindspore-float32-page_first_direct-4" if layout == "page_first" else "mindspore-float32-layer_first-4"
    assert any(tag in name for name in names) and all("mindspore-float32" in name for name in names), names


@SLOW
def test_pages_come_back_through_a_storage_of_the_users_own(start_engine, tmp_path, monkeypatch):
    monkeypatch.setenv("SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR", str(tmp_path / "store"))
    own = dict(backend_name="own", module_path=__name__, class_name="OwnStorage")
    check(start_engine, save("qwen3", tmp_path / "model"), stored_by("dynamic", **own))
    assert list((tmp_path / "store").iterdir())


@pytest.fixture
def mooncake(monkeypatch):
    """Mooncake's master, and a client of it whose memory outlives servers."""
    require("mooncake")
    import mooncake as package

    folder, address, port = Path(package.__file__).parent, "127.0.0.1", free_port()
    master = ["mooncake_master", "-rpc_address", address, "-rpc_port", str(port), "-metrics_port", str(free_port())]
    client = ["mooncake_client", "-host", address, "-port", str(free_port()), "-protocol", "tcp"]
    client += ["-metadata_server", "P2PHANDSHAKE", "-master_server_address", f"{address}:{port}"]
    client += ["-global_segment_size", "64MB"]
    running = []
    try:
        for name, *flags in (master, client):
            command = [sys.executable, "-c", TIED, str(folder / name), *flags]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            _await_port(address, port)
        for name, value in dict(
            MASTER=f"{address}:{port}", PROTOCOL="tcp", GLOBAL_SEGMENT_SIZE="0", LOCAL_HOSTNAME=address
        ).items():
            monkeypatch.setenv(f"MOONCAKE_{name}", value)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _await_port(address: str, port: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection((address, port), 1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"nobody listens on port {port}")


@SLOW
@pytest.mark.parametrize("variant", ["qwen3", "gemma2", "deepseek_v2"])
def test_pages_come_back_from_mooncakes_store(start_engine, mooncake, tmp_path, variant):
    check(start_engine, save(variant, tmp_path), stored_by("mooncake"))
