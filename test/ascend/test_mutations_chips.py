"""The faults of mutations_chips.py can still be made: what each changes is there, once, and so are its tests."""

import pytest

from .mutations_chips import MUTATIONS, ROOT

SECONDS = 1


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_fault_can_be_made(mutation):
    assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1
    assert (ROOT / mutation.tests.split()[0]).is_file()
