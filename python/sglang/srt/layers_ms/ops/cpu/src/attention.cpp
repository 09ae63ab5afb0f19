// What the values of attention's arguments must be.
#include "operators.h"

namespace {

// Every page that a request's tokens lie in must be one of the cache.
template <typename Call>
void check_requests(Arguments& arguments, const Call& a) {
  arguments.check(a.page_size > 0, "page size %ld", a.page_size);
  int64_t queries = 0;
  for (int64_t i = 0; i < a.requests && !arguments.failed(); ++i) {
    const int64_t length = a.seq_lens[i], blocks = (length + a.page_size - 1) / a.page_size;
    arguments.check(a.query_lens[i] > 0 && a.query_lens[i] <= length, "request %ld has %d queries of %ld tokens", i,
                    a.query_lens[i], length);
    arguments.check(blocks <= a.blocks, "request %ld has %ld tokens, its table %ld pages", i, length, a.blocks);
    if (arguments.failed()) return;
    arguments.check(within(a.block_tables + i * a.blocks, blocks, a.cache_size / a.page_size),
                    "request %ld has a page that is not in the cache", i);
    queries += a.query_lens[i];
  }
  arguments.check(queries == a.tokens, "the requests have %ld queries, the step %ld tokens", queries, a.tokens);
}

template <typename Call>
void check_places(Arguments& arguments, const Call& a) {
  arguments.check(!a.half || within(a.positions, a.tokens, a.rows), "a position is outside the rotary table of %ld",
                  a.rows);
  arguments.check(within(a.slots, a.tokens, a.cache_size), "a slot is outside the cache of %ld", a.cache_size);
}

}  // namespace

void calls::scale_by_position::validate(Arguments& arguments) const {
  arguments.check(within(positions, tokens, rows), "a position is outside the %ld factors", rows);
}
void calls::turn_queries::validate(Arguments& arguments) const {
  arguments.check(within(positions, tokens, rows), "a position is outside the rotary table of %ld", rows);
}
void calls::qkv_to_cache::validate(Arguments& arguments) const { check_places(arguments, *this); }
void calls::mla_to_cache::validate(Arguments& arguments) const { check_places(arguments, *this); }
void calls::paged_attention::validate(Arguments& arguments) const { check_requests(arguments, *this); }
void calls::mla_attention::validate(Arguments& arguments) const {
  check_requests(arguments, *this);
  for (const void* one : {lora_a, lora_b, static_cast<const void*>(lora_ranks)})
    arguments.check(!one == !lora_slots, "some of what adapters are is not given");
  if (lora_slots && !arguments.failed())
    check_adapters(arguments, lora_slots, tokens, max_loras, lora_ranks, max_loras, lora_rank);
}
void calls::index_to_cache::validate(Arguments& arguments) const { check_places(arguments, *this); }
void calls::choose_keys::validate(Arguments& arguments) const { check_requests(arguments, *this); }

void calls::sparse_mla_attention::validate(Arguments& arguments) const {
  check_requests(arguments, *this);
  int64_t token = 0;
  for (int64_t request = 0; request < requests && !arguments.failed(); ++request)
    for (int64_t i = query_lens[request] - 1; i >= 0; --i, ++token) {
      const int64_t seen = seq_lens[request] - i;  // tokens that see no more than top_k take all
      if (seen > top_k)
        arguments.check(within(chosen + token * top_k, top_k, seen), "token %ld has chosen what it does not see",
                        token);
    }
}
