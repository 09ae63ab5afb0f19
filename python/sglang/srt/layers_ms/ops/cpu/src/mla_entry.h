// The operators of latent attention as MindSpore calls them; a part of entry.cpp.
// q [T, H * (N + R)], kv [T, L + R], norm [L], cos, sin [P, R / 2], positions [T], cache [slots, 1, L + R], slots [T],
// eps [1], order [2]: H, interleaved -> like q; writes the cache
OPERATOR(mla_to_cache, 1) {
  MLARows call{};
  call.tokens = a.tokens(0);
  call.dtype = a.dtype(0);
  call.cache_dtype = a.dtype(6);
  call.rank = a.size(2);
  call.rope = a.last(1) - call.rank;
  const int32_t* order = a.ints(9);
  a.check(a.size(9) == 2 && a.dtype(1) == call.dtype && a.dtype(2) == call.dtype, "%ld settings, or dtypes differ",
         a.size(9));
  a.check(call.rope > 0 && call.rope == 2 * a.last(3) && a.last(4) == a.last(3), "%ld columns to turn, tables of %ld",
         call.rope, a.last(3));
  a.check(a.size(6) == a.dim(6, 0) * a.last(1), "rows of %ld, a cache of %ld", a.last(1), a.last(6));
  if (a.failed()) return;
  call.heads = order[0];
  call.interleaved = order[1];
  a.check(call.heads > 0 && a.last(0) % call.heads == 0, "%ld columns do not hold %ld heads", a.last(0), call.heads);
  if (a.failed()) return;
  call.nope = a.last(0) / call.heads - call.rope;
  call.q = a.data(0);
  call.kv = a.data(1);
  call.norm = a.data(2);
  call.cos = static_cast<const float*>(a.data(3));
  call.sin = static_cast<const float*>(a.data(4));
  call.positions = a.ints(5);
  call.cache = a.data(6);
  call.slots = a.ints(7);
  call.eps = *static_cast<float*>(a.data(8));
  call.out = a.data(10);
  a.check(call.nope >= 0, "heads of %ld, %ld of them to turn", call.nope + call.rope, call.rope);
  if (a.failed()) return;
  a.check(within(call.positions, call.tokens, a.dim(3, 0)), "a position is outside the rotary table of %ld", a.dim(3, 0));
  a.check(within(call.slots, call.tokens, a.dim(6, 0)), "a slot is outside the cache of %ld", a.dim(6, 0));
  if (a.failed()) return;
  kernels->mla_to_cache(call);
}

// q [T, H * (N + R)], cache [slots, 1, L + R], packed w_uk [H, N, L], w_uk_t [H, L, N], w_uv [H, V, L], block_tables
// [B, blocks], query_lens [B], seq_lens [B], page_size [1], scale [1] -> [T, H * V]
OPERATOR(mla_attention, 1) {
  MLAAttention call{};
  const int64_t tokens = a.tokens(0);
  call.dtype = a.dtype(0);
  call.cache_dtype = a.dtype(1);
  call.heads = a.dim(2, 0);
  call.nope = a.dim(2, 1);
  call.rank = a.dim(2, 2);
  call.value = a.dim(4, 1);
  call.rope = a.last(1) - call.rank;
  for (int weight = 2; weight <= 4; ++weight)
    a.check(a.dtype(weight) == call.dtype && a.dim(weight, 0) == call.heads, "argument %d has %ld heads, or another dtype",
           weight, a.dim(weight, 0));
  a.check(a.dim(3, 1) == call.rank && a.dim(3, 2) == call.nope && a.dim(4, 2) == call.rank, "weights do not fit");
  a.check(call.rope > 0 && a.last(0) == call.heads * (call.nope + call.rope), "%ld query columns, %ld heads of %ld + %ld",
         a.last(0), call.heads, call.nope, call.rope);
  a.check(a.last(10) == call.heads * call.value, "%ld columns of results", a.last(10));
  call.q = a.data(0);
  call.cache = a.data(1);
  call.w_uk = a.data(2);
  call.w_uk_t = a.data(3);
  call.w_uv = a.data(4);
  call.scale = *static_cast<float*>(a.data(9));
  call.out = a.data(10);
  if (a.failed()) return;
  take_requests(a, 5, a.dim(1, 0), tokens, call);
  if (a.failed()) return;
  kernels->mla_attention(call);
}
