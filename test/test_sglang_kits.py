"""`make test-sglang` runs every kit of the installed SGLang, or says why not; no recorded outcome is a failure."""

import json

from sglang_kits import kits, run

SECONDS = 2


def test_every_kit_is_run_or_left_out():
    assert not run.unlisted()


def test_no_kit_is_both_run_and_left_out():
    assert not {kit for kit in kits.KITS if kit in kits.LEFT_OUT or kit.partition(".")[0] in kits.LEFT_OUT}
    assert {name.rpartition(".")[0] for name in kits.BEYOND_DEMO} <= kits.KITS.keys()
    assert set(kits.KITS.values()) == kits.SERVERS.keys()


def test_what_is_recorded_has_passed():
    recorded = json.loads(run.RECORDED.read_text())
    assert set(recorded.values()) == {"passed"}
    assert not recorded.keys() & kits.BEYOND_DEMO.keys()
    assert {name.rpartition(".")[0] for name in recorded} <= kits.KITS.keys()
