"""The part of each tensor that a tensor-parallel rank holds."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang.srt.distributed_ms.shard import Shard, ShardError

SECONDS = 1


def every_rank(size):
    return [Shard(rank, size) for rank in range(size)]


def elements(total, part):
    return list(range(total))[part]


@given(part=st.integers(1, 50), size=st.integers(1, 16))
def test_the_slices_of_all_ranks_are_equal_and_cover_the_dimension_in_order(part, size):
    total = part * size
    slices = [elements(total, shard.slice(total, "rows")) for shard in every_rank(size)]
    assert sum(slices, []) == list(range(total))
    assert {len(held) for held in slices} == {part}
    assert Shard(0, size).part(total, "rows") == part


@pytest.mark.parametrize("method", ["part", "slice"])
def test_an_uneven_division_names_the_subject_both_values_and_the_allowed_sizes(method):
    with pytest.raises(ShardError) as error:
        getattr(Shard(1, 4), method)(14, "num_attention_heads")
    assert "num_attention_heads = 14 cannot be divided over 4 tensor-parallel ranks" in str(error.value)
    assert str(error.value).endswith("tensor-parallel size of 1, 2, 7, 14")


@given(local=st.integers(1, 8), size=st.integers(1, 8))
def test_key_value_heads_are_divided_when_there_are_enough(local, size):
    total = local * size
    held = [shard.kv_heads(total) for shard in every_rank(size)]
    assert {count for count, _ in held} == {local}
    assert sum((elements(total, heads) for _, heads in held), []) == list(range(total))


@given(total=st.integers(1, 8), copies=st.integers(1, 8))
def test_a_replicated_key_value_head_is_held_by_the_ranks_that_hold_its_query_heads(total, copies):
    size = total * copies
    for shard in every_rank(size):
        query_heads = elements(size * 3, shard.slice(size * 3, "num_attention_heads"))
        count, heads = shard.kv_heads(total)
        assert count == 1
        assert {head // (3 * copies) for head in query_heads} == set(elements(total, heads))


@pytest.mark.parametrize("total, size", [(4, 3), (4, 6), (3, 2)])
def test_key_value_heads_that_neither_divide_nor_replicate_are_refused(total, size):
    with pytest.raises(ShardError, match=f"num_key_value_heads = {total} .* {size} tensor-parallel ranks"):
        Shard(0, size).kv_heads(total)


def test_the_refusal_of_key_value_heads_offers_replication():
    with pytest.raises(ShardError, match="1, 2, 4, or a multiple of 4$"):
        Shard(0, 6).kv_heads(4)


@given(held=st.integers(1, 5), expert_size=st.integers(1, 6), inside=st.integers(1, 4))
def test_neighbouring_ranks_share_experts_and_all_ranks_hold_each_once(held, expert_size, inside):
    total, size = held * expert_size, expert_size * inside
    found = [Shard(rank, size, "ranks", expert_size).experts(total) for rank in range(size)]
    for rank, share in enumerate(found):
        part = rank // inside
        assert share.held == tuple(range(part * held, (part + 1) * held))
        assert (share.first, share.count) == (part * held, total)
        assert share.inside == Shard(rank % inside, inside)


def test_experts_have_the_places_that_they_are_given_in_each_layer():
    places = ((0, 1, 2, 0), (2, 2, 1, 0))
    found = [Shard(rank, 4, "ranks", 2, places).at(1).experts(3) for rank in range(4)]
    assert [share.held for share in found] == [(2, 2), (2, 2), (1, 0), (1, 0)]
    assert [(share.first, share.count) for share in found] == [(0, 4), (0, 4), (2, 4), (2, 4)]
    assert [share.inside for share in found] == [Shard(0, 2), Shard(1, 2)] * 2


def test_what_is_beside_the_experts_of_a_mixture_is_a_replicas_where_rows_are_dispatched():
    for rank in range(4):
        shared = Shard(rank, 4, "ranks", 4, attn_dp_size=2)
        assert shared.moe == shared
        assert replace(shared, dispatch=True).moe == shared.attention == Shard(rank % 2, 2, "ranks@attn_tp")
    alone = Shard(1, 4, "ranks", 4, dispatch=True)
    assert alone.moe == alone


def test_rows_are_not_dispatched_to_ranks_that_share_experts():
    with pytest.raises(ShardError, match="expert-parallel size, 2, must be the tensor-parallel size, 4"):
        Shard(0, 4, expert_size=2, dispatch=True)


@pytest.mark.parametrize("places", [(0, 1, 0, 1), (0, 1, 2, 3)])
def test_places_that_are_not_those_of_the_experts_are_refused(places):
    with pytest.raises(ShardError, match=f"of 3 experts, .* have no place in {re.escape(str(list(places)))}"):
        Shard(0, 2, "ranks", 2, (places,)).experts(3)


def test_experts_that_do_not_divide_are_refused_with_the_sizes_that_do():
    with pytest.raises(ShardError, match="6 experts .* 4 expert-parallel ranks; .* of 1, 2, 3, 6$"):
        Shard(0, 4, expert_size=4).experts(6)


@pytest.mark.parametrize("expert_size", [0, 3, 8])
def test_an_expert_parallel_size_that_does_not_divide_the_ranks_is_refused(expert_size):
    with pytest.raises(ShardError, match=f"size of {expert_size} does not divide .* 4; .* of 1, 2, 4$"):
        Shard(0, 4, expert_size=expert_size)


@given(attn_dp_size=st.integers(1, 6), inside=st.integers(1, 4))
def test_neighbouring_ranks_are_a_replica_of_attention_and_share_what_others_share_too(attn_dp_size, inside):
    size = attn_dp_size * inside
    shards = [Shard(rank, size, "ranks", attn_dp_size=attn_dp_size) for rank in range(size)]
    for rank, shard in enumerate(shards):
        share = shard.attention
        assert (share.rank, share.size, share.attn_dp_size) == (rank % inside, inside, 1)
        assert shard.head is shard
    head = Shard(size - 1, size, "ranks", attn_dp_size=attn_dp_size, dp_lm_head=True).head
    assert (head.rank, head.size) == (inside - 1, inside)


@given(attn_dp_size=st.integers(1, 6), inside=st.integers(1, 4))
def test_the_ranks_of_each_group_say_the_same_of_it(attn_dp_size, inside):
    size = attn_dp_size * inside
    shards = [Shard(rank, size, "ranks", attn_dp_size=attn_dp_size) for rank in range(size)]
    for rank, shard in enumerate(shards):
        assert len(shard.groups) == (3 if attn_dp_size > 1 and inside > 1 else 1)  # replicas of one rank are all ranks
        for name, ranks in shard.groups.items():
            assert rank in ranks
            assert all(shards[other].groups[name] == ranks for other in ranks)
        if attn_dp_size > 1:
            alike = [shards[other].attention.rank for other in shard.groups[shard.attn_dp_group]]
            assert alike == [rank % inside] * attn_dp_size


def test_replicas_of_attention_that_do_not_divide_the_ranks_are_refused():
    with pytest.raises(ShardError, match="attention data-parallel size of 3 does not divide .* 4; .* of 1, 2, 4$"):
        Shard(0, 4, attn_dp_size=3)


@given(vocab_size=st.integers(1, 5000), size=st.integers(1, 12), multiple=st.sampled_from([1, 16, 64]))
def test_every_rank_holds_the_same_rows_of_the_padded_vocabulary(vocab_size, size, multiple):
    padded = Shard(0, size).padded_vocab(vocab_size, multiple)
    assert padded >= vocab_size
    assert padded % size == 0
    assert padded % multiple == 0
    assert padded - vocab_size < multiple * size


@pytest.mark.parametrize(
    "vocab_size, size, padded",
    [(151936, 1, 151936), (1000, 1, 1024), (1000, 2, 1024), (1000, 3, 1152), (64, 128, 8192), (50257, 6, 50304)],
)
def test_the_vocabulary_is_padded_to_64_rows_and_to_64_rows_a_rank_where_those_do_not_divide(vocab_size, size, padded):
    assert Shard(0, size).padded_vocab(vocab_size) == padded


@pytest.mark.parametrize("rank, size", [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_outside_its_group_is_refused(rank, size):
    with pytest.raises(ShardError, match=f"rank {rank} of {size}"):
        Shard(rank, size)


def test_the_default_shard_is_the_whole_model():
    assert Shard().slice(7, "rows") == slice(0, 7)
    assert Shard().kv_heads(3) == (3, slice(0, 3))
