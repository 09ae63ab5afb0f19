"""The faults of each list of mutations can still be made: what one changes is there, once, and so are its tests."""

from ascend import mutations, mutations_chips
from executor import mutations_drafts, mutations_fleet, mutations_speculation, mutations_states, mutations_vision
from models import mutations_quant, mutations_towers
from mutating import Mutation
from tiers import offenders

SECONDS = 1


def test_each_fault_can_be_made():
    executor = (mutations_drafts, mutations_fleet, mutations_speculation, mutations_states, mutations_vision)
    lists = (mutations, mutations_chips, mutations_quant, mutations_towers, *executor)
    assert offenders(Mutation.check, [one for each in lists for one in each.MUTATIONS]) == []
