// Tests of sparse attention; a part of operators.cpp, whose helpers they use.

// Which keys are chosen of rows that have `column` other values before them.
void test_choice(const std::string& dtype, const std::string& cache_dtype) {
  const Batch batch;
  const int64_t requests = batch.seq_lens.size(), heads = any(1, 40), half = any(1, 8), size = 2 * half + any(0, 20);
  const int64_t column = any(0, 20), row = column + size + any(0, 3), top_k = any(1, 60);
  Array q(dtype, {batch.tokens, heads * size}), factors(dtype, {batch.tokens, heads}), turned(dtype, q.shape);
  Array k(dtype, {batch.tokens, size}), norm(dtype, {size}), bias(dtype, {size}), place("int32", {batch.tokens});
  Array cos("float32", {300, half}), sin("float32", {300, half}), slot("int32", {batch.tokens});
  Array cache(cache_dtype, {batch.pages * batch.page_size, 1, row}), table("int32", {requests, batch.blocks});
  Array out("int32", {batch.tokens, top_k}), query_lens = ints(batch.query_lens), seq_lens = ints(batch.seq_lens);
  Array page = ints({batch.page_size}), chosen_shape("int32", {top_k}), attribute = ints({column});
  Array order = ints({column, any(0, 1)}), eps = number(1e-5), far = ints({row});
  q.fill(), factors.fill(), k.fill(), norm.fill(), bias.fill(), cos.fill(), sin.fill(), cache.fill();
  for (int64_t i = 0; i < table.size; ++i) table.set(i, batch.table[i]);
  for (int64_t request = 0, token = 0; request < requests; ++request)
    for (int64_t i = batch.query_lens[request]; i > 0; --i, ++token) {
      place.set(token, batch.seq_lens[request] - i);
      slot.set(token, batch.slot(request, batch.seq_lens[request] - i));
    }
  std::vector<Array*> writing{&q, &k, &norm, &bias, &cos, &sin, &place, &cache, &slot, &order, &eps, &turned};
  expect(call(index_to_cache, writing) == 0, "index_to_cache");
  const std::vector<Array*> arguments{&turned,   &factors, &cache,        &table,     &query_lens,
                                      &seq_lens, &page,    &chosen_shape, &attribute, &out};
  expect(call(choose_keys, arguments) == 0, "choose_keys");
  for (int64_t request = 0, token = 0; request < requests; ++request)
    for (int64_t i = batch.query_lens[request] - 1; i >= 0; --i, ++token) {
      const int64_t seen = batch.seq_lens[request] - i;
      std::vector<bool> taken(seen);
      std::vector<double> scores(seen);
      for (int64_t j = 0; j < top_k; ++j) {
        const int64_t at = static_cast<int64_t>(out.get(token * top_k + j));
        if (j >= seen) {
          expect(at == -1, "choose_keys chooses more than there are");
          continue;
        }
        expect(at >= 0 && at < seen && !taken[at], "choose_keys chooses twice, or what is not seen");
        if (at >= 0 && at < seen) taken[at] = true;
      }
      double least = INFINITY, other = -INFINITY, largest = 1e-3;
      for (int64_t key = 0; key < seen; ++key) {
        const int64_t at = batch.slot(request, key) * row + column;
        for (int64_t head = 0; head < heads; ++head) {
          double product = 0;
          for (int64_t d = 0; d < size; ++d)
            product += turned.get((token * heads + head) * size + d) * cache.get(at + d);
          scores[key] += factors.get(token * heads + head) * std::max(product, 0.0);
        }
        largest = std::max(largest, std::fabs(scores[key]));
        if (taken[key])
          least = std::min(least, scores[key]);
        else
          other = std::max(other, scores[key]);
      }
      expect(other <= least + 1e-4 * largest, "choose_keys leaves out a larger score");
    }
  std::vector<Array*> beyond = arguments;
  beyond[8] = &far;
  expect(call(choose_keys, beyond) != 0, "choose_keys takes keys outside of its rows");
  Array outside = ints({row, 0});
  writing[9] = &outside;
  expect(call(index_to_cache, writing) != 0, "index_to_cache takes keys outside of its rows");
}

// Attention to chosen rows, beside latent attention to a cache that has these alone.
void test_chosen(const std::string& dtype, const std::string& cache_dtype) {
  const LatentSizes is;
  const int64_t size = is.nope + is.rope, width = is.rank + is.rope, row = width + any(0, 9);
  const int64_t seen = any(2, 200), top_k = any(1, seen - 1), slots = seen + any(0, 9);
  Array q(dtype, {1, is.heads * size}), cache(cache_dtype, {slots, 1, row}), chosen("int32", {1, top_k});
  Array w_uk(dtype, {is.heads, is.nope, is.rank}), w_uv(dtype, {is.heads, is.value, is.rank});
  Array out(dtype, {1, is.heads * is.value}), wanted(dtype, out.shape), own(cache_dtype, {top_k, 1, width});
  q.fill(), cache.fill(), w_uk.fill(-0.3, 0.3), w_uv.fill(-0.3, 0.3);
  Array keys = packed_stack(w_uk, false), absorb = packed_stack(w_uk, true), values = packed_stack(w_uv, false);
  Array table("int32", {1, seen}), one = ints({1}), length = ints({seen}), few = ints({top_k});
  Array own_table("int32", {1, top_k}), factor = number(0.3);
  for (int64_t i = 0; i < seen; ++i) table.set(i, slots - 1 - i);
  for (int64_t i = 0; i < top_k; ++i) {
    chosen.set(i, i + (seen - top_k) / 2), own_table.set(i, i);
    for (int64_t d = 0; d < width; ++d)
      own.set(i * width + d, cache.get((slots - 1 - i - (seen - top_k) / 2) * row + d));
  }
  std::vector<Array*> arguments{&q,     &cache, &chosen, &keys, &absorb, &values,
                                &table, &one,   &length, &one,  &factor, &out};
  expect(call(sparse_mla_attention, arguments) == 0, "sparse_mla_attention");
  const std::vector<Array*> dense{&q,   &own,     &keys,    &absorb,  &values,  &own_table, &one,   &few,
                                  &one, &nothing, &nothing, &nothing, &nothing, &factor,    &wanted};
  expect(call(mla_attention, dense) == 0, "mla_attention of what was chosen");
  close(out, out.size, [&](int64_t i) { return wanted.get(i); }, dtype, "sparse_mla_attention");
  Array unseen("int32", {1, top_k});
  for (int64_t i = 0; i < top_k; ++i) unseen.set(i, seen);
  arguments[2] = &unseen;
  expect(call(sparse_mla_attention, arguments) != 0, "sparse_mla_attention takes a key that is not seen");
}
