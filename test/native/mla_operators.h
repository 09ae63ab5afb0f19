// Tests of latent attention; a part of operators.cpp, whose helpers they use.
struct LatentSizes {
  int64_t heads = any(1, 3), nope = any(1, 20), rope = 2 * any(1, 9), value = any(1, 20), rank = any(1, 70);
};

void test_latent_write(const std::string& dtype, const std::string& cache_dtype) {
  const LatentSizes is;
  const int64_t tokens = any(1, 20), slots = tokens + any(1, 9), positions = any(5, 50), half = is.rope / 2;
  const int64_t size = is.nope + is.rope, width = is.rank + is.rope, interleaved = any(0, 1);
  Array q(dtype, {tokens, is.heads * size}), kv(dtype, {tokens, width}), norm(dtype, {is.rank}), out(dtype, q.shape);
  Array cos("float32", {positions, half}), sin("float32", {positions, half}), place("int32", {tokens});
  Array cache(cache_dtype, {slots, 1, width}), slot("int32", {tokens}), eps = number(1e-5);
  Array order = ints({is.heads, interleaved}), uneven = ints({is.heads + q.size, interleaved});
  q.fill(), kv.fill(), norm.fill(0.5, 1.5), cos.fill(), sin.fill();
  for (int64_t i = 0; i < tokens; ++i) place.set(i, any(0, positions - 1)), slot.set(i, slots - 1 - i);
  const std::vector<Array*> arguments{&q, &kv, &norm, &cos, &sin, &place, &cache, &slot, &order, &eps, &out};
  expect(call(mla_to_cache, arguments) == 0, "mla_to_cache");
  auto turned = [&](const Array& x, int64_t first, int64_t d, int64_t token) {
    const int64_t pair = interleaved ? d / 2 : d % half, row = static_cast<int64_t>(place.get(token)) * half + pair;
    const bool second = interleaved ? d % 2 : d >= half;
    const double other = x.get(first + (interleaved ? d ^ 1 : (d + half) % is.rope));
    return x.get(first + d) * cos.get(row) + (second ? other : -other) * sin.get(row);
  };
  auto query = [&](int64_t i) {
    const int64_t d = i % size;
    return d < is.nope ? q.get(i) : turned(q, i - d + is.nope, d - is.nope, i / (is.heads * size));
  };
  close(out, out.size, query, dtype, "queries of latent attention");
  auto row = [&](int64_t i) -> double {
    const int64_t token = slots - 1 - i / width, d = i % width;
    if (token >= tokens) return 0;
    if (d >= is.rank) return turned(kv, token * width + is.rank, d - is.rank, token);
    double squares = 0;
    for (int64_t j = 0; j < is.rank; ++j) squares += std::pow(kv.get(token * width + j), 2);
    return kv.get(token * width + d) / std::sqrt(squares / is.rank + 1e-5) * norm.get(d);
  };
  close(cache, cache.size, row, limit_of_writes(dtype, cache_dtype), "rows");
  Array far = ints(std::vector<int64_t>(tokens, slots + positions));
  auto refused = [&](int argument, Array* bad, const std::string& what) {
    std::vector<Array*> changed = arguments;
    changed[argument] = bad;
    expect(call(mla_to_cache, changed) != 0, "mla_to_cache takes " + what);
  };
  refused(5, &far, "a position outside its tables");
  refused(7, &far, "a slot outside the cache");
  refused(8, &uneven, "heads that its queries do not have");
}

// A stack of matrices, and what the operator is given of them: packed ones, or these with their axes swapped.
Array packed_stack(const Array& stack, bool swapped) {
  const int64_t heads = stack.shape[0], n = stack.shape[swapped ? 2 : 1], k = stack.shape[swapped ? 1 : 2];
  Array found(stack.dtype, {heads, n, k});
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t i = 0; i < n * k; ++i)
      found.set(head * n * k + i, stack.get(head * n * k + (swapped ? i % k * n + i / k : i)));
    mindspore_cpu_prepack(index_of(stack.dtype), &found.bytes[head * n * k * found.width()], n, k);
  }
  return found;
}

void test_mla_attention(const std::string& dtype, const std::string& cache_dtype) {
  const Batch batch;
  const LatentSizes is;
  const int64_t requests = batch.seq_lens.size(), size = is.nope + is.rope, width = is.rank + is.rope;
  Array q(dtype, {batch.tokens, is.heads * size}), cache(cache_dtype, {batch.pages * batch.page_size, 1, width});
  Array w_uk(dtype, {is.heads, is.nope, is.rank}), w_uv(dtype, {is.heads, is.value, is.rank});
  Array table("int32", {requests, batch.blocks}), page = ints({batch.page_size}),
                                                  out(dtype, {batch.tokens, is.heads * is.value});
  const double scale = 1 / std::sqrt(static_cast<double>(size));
  q.fill(), cache.fill(), w_uk.fill(-0.3, 0.3), w_uv.fill(-0.3, 0.3);
  for (int64_t i = 0; i < table.size; ++i) table.set(i, batch.table[i]);
  Array query_lens = ints(batch.query_lens), seq_lens = ints(batch.seq_lens), factor = number(scale);
  Array keys = packed_stack(w_uk, false), absorb = packed_stack(w_uk, true), values = packed_stack(w_uv, false);
  const int64_t loras = any(1, 3), most = any(1, 9), columns = is.heads * (is.nope + is.value);
  const bool adapted = any(0, 1);
  Array slots("int32", {batch.tokens}), a(dtype, {1, loras, most, is.rank}), b(dtype, {loras * most * columns});
  Array ranks("int32", {loras});
  a.fill(-0.3, 0.3), b.fill(-0.3, 0.3);
  std::vector<int64_t> slot_of(requests);
  for (int64_t request = 0, token = 0; request < requests; ++request) {
    slot_of[request] = any(-1, loras - 1);
    for (int64_t i = 0; i < batch.query_lens[request]; ++i) slots.set(token++, slot_of[request]);
  }
  for (int64_t i = 0; i < loras; ++i) ranks.set(i, any(0, most));
  // A row of what makes keys, or values, of latent rows of a request, with what its adapter adds.
  auto weight_of = [&](int64_t request, const Array& w, int64_t head, int64_t d, int64_t l) {
    const bool value = &w == &w_uv;
    const int64_t rows = value ? is.value : is.nope, slot = adapted ? slot_of[request] : -1;
    double found = w.get((head * rows + d) * is.rank + l);
    const int64_t column = (value ? is.heads * is.nope : 0) + head * rows + d;
    for (int64_t r = 0; slot >= 0 && r < ranks.get(slot); ++r)
      found += a.get((slot * most + r) * is.rank + l) * b.get((slot * most + r) * columns + column);
    return found;
  };
  const std::vector<Array*> arguments{&q,
                                      &cache,
                                      &keys,
                                      &absorb,
                                      &values,
                                      &table,
                                      &query_lens,
                                      &seq_lens,
                                      &page,
                                      adapted ? &slots : &nothing,
                                      adapted ? &a : &nothing,
                                      adapted ? &b : &nothing,
                                      adapted ? &ranks : &nothing,
                                      &factor,
                                      &out};
  expect(call(mla_attention, arguments) == 0, "mla_attention");
  Array wanted("float32", out.shape);
  for (int64_t request = 0, first = 0; request < requests; first += batch.query_lens[request++])
    for (int64_t head = 0; head < is.heads; ++head) {
      const int64_t length = batch.seq_lens[request], queries = batch.query_lens[request];
      std::vector<double> key(length * size), value(length * is.value), weight(length);
      for (int64_t j = 0; j < length; ++j) {
        const int64_t at = batch.slot(request, j) * width;
        for (int64_t d = 0; d < size; ++d)
          for (int64_t l = 0; l < (d < is.nope ? is.rank : 1); ++l)
            key[j * size + d] += d < is.nope ? weight_of(request, w_uk, head, d, l) * cache.get(at + l)
                                             : cache.get(at + is.rank + d - is.nope);
        for (int64_t d = 0; d < is.value; ++d)
          for (int64_t l = 0; l < is.rank; ++l)
            value[j * is.value + d] += weight_of(request, w_uv, head, d, l) * cache.get(at + l);
      }
      for (int64_t i = 0; i < queries; ++i) {
        const int64_t token = first + i, seen = length - queries + i + 1;
        double sum = 0;
        for (int64_t j = 0; j < seen; ++j) {
          weight[j] = 0;
          for (int64_t d = 0; d < size; ++d)
            weight[j] += q.get((token * is.heads + head) * size + d) * key[j * size + d];
          sum += weight[j] = std::exp(weight[j] * scale);
        }
        for (int64_t d = 0; d < is.value; ++d) {
          double found = 0;
          for (int64_t j = 0; j < seen; ++j) found += weight[j] / sum * value[j * is.value + d];
          wanted.set((token * is.heads + head) * is.value + d, found);
        }
      }
    }
  double worst = 0, largest = 1e-9;
  for (int64_t i = 0; i < out.size; ++i) {
    largest = std::max(largest, std::fabs(wanted.get(i)));
    const double off = std::fabs(out.get(i) - wanted.get(i));
    if (!(off <= worst)) worst = off;
  }
  // What is between the products is rounded: several times the limit of one.
  const double limit = 4 * limit_of_reads(dtype, cache_dtype);
  expect(worst <= limit * largest, "mla_attention " + dtype + ", cache " + cache_dtype + " off by " +
                                       std::to_string(worst) + " of " + std::to_string(largest));
  Array outside("int32", table.shape), no_queries = ints(batch.query_lens),
                                       short_keys(dtype, {is.heads, is.rank, is.nope + 1});
  for (int64_t i = 0; i < outside.size; ++i) outside.set(i, batch.pages);
  no_queries.set(0, 0);
  auto refused = [&](int argument, Array* bad, const std::string& what) {
    std::vector<Array*> changed = arguments;
    changed[argument] = bad;
    expect(call(mla_attention, changed) != 0, "mla_attention takes " + what);
  };
  refused(3, &short_keys, "weights that do not fit");
  refused(5, &outside, "pages outside the cache");
  refused(6, &no_queries, "a request without queries");
  if (!adapted) return;
  refused(12, &nothing, "a part of what adapters are");
  slots.set(0, loras), refused(9, &slots, "a slot that there is not");
}
