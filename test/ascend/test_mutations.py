"""The faults of mutations.py can still be made: what each changes is there, once."""

from ascend.mutations import MUTATIONS, ROOT
from tiers import offenders

SECONDS = 1


def check(mutation):
    source = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert source.count(mutation.old) == 1, f"{source.count(mutation.old)} times in {mutation.file}"
    assert (ROOT / mutation.tests.split()[0]).is_file()


def test_each_fault_can_be_made():
    assert offenders(check, MUTATIONS) == []
