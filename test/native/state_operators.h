// Tests of layers with a state; a part of operators.cpp, whose helpers they use.
struct Requests {
  std::vector<int64_t> lens, slots, tracks, kept;  // tracks: second slots, -1: none; left behind so many tokens
  int64_t tokens = 0, room;
  Requests() {
    for (int64_t i = any(1, 4); i--;) lens.push_back(any(1, 9)), tokens += lens.back();
    room = lens.size() + any(1, 3);
    for (size_t i = 0; i < lens.size(); ++i) slots.push_back(room - 1 - i);  // the first one is nobody's
    for (int64_t length : lens) {
      kept.push_back(any(0, 1) ? any(1, length) : 0);
      tracks.push_back(kept.back() ? room++ : -1);
    }
  }
};

void refuse_states(Operator op, const std::vector<Array*>& arguments, size_t slots, const Requests& requests) {
  Array outside = ints(std::vector<int64_t>(requests.lens.size(), requests.room)), none = ints(requests.lens);
  Array late = ints(requests.kept), first = ints(requests.tracks);
  none.set(0, 0), first.set(0, 0), late.set(0, requests.lens[0] + 1);
  auto refused = [&](size_t argument, Array* bad, const std::string& what) {
    std::vector<Array*> changed = arguments;
    changed[argument] = bad;
    expect(call(op, changed) != 0, "an operator with a state takes " + what);
  };
  refused(slots, &outside, "a slot that is none");
  refused(slots + 1, &none, "a request without tokens");
  refused(slots + 2, &outside, "a second slot that is none");
  if (requests.tracks[0] >= 0) refused(slots + 3, &late, "a state behind more tokens than there are");
  if (requests.tracks[0] < 0) refused(slots + 2, &first, "a state behind no token");
}

void test_causal_conv(const std::string& dtype, const std::string& state_dtype) {
  const Requests requests;
  const int64_t channels = any(1, 70), width = any(2, 5), window = width - 1, gated = any(0, 1);
  Array x(dtype, {requests.tokens, channels * (gated ? 3 : 1)}), weight(dtype, {channels, 1, width});
  Array bias(dtype, {channels}), state(state_dtype, {requests.room, channels, window});
  Array slots = ints(requests.slots), lens = ints(requests.lens), flag = ints({gated});
  Array tracks = ints(requests.tracks), kept = ints(requests.kept);
  Array out(dtype, {requests.tokens, channels}), before("float32", state.shape);
  x.fill(), weight.fill(), bias.fill(), state.fill();
  for (int64_t i = 0; i < state.size; ++i) before.set(i, state.get(i));
  const std::vector<Array*> arguments{&x,    &weight, &bias, &state, &nothing, &slots,
                                      &lens, &tracks, &kept, &slots, &flag,    &out};
  expect(call(causal_conv, arguments) == 0, "causal_conv");
  auto value = [&](int64_t request, int64_t first, int64_t channel, int64_t token) {
    if (token < 0) return before.get((requests.slots[request] * channels + channel) * window + window + token);
    const int64_t at = (first + token) * x.shape[1] + channel;
    return gated ? x.get(at) * x.get(at + 2 * channels) : x.get(at);
  };
  Array wanted("float32", out.shape);
  for (int64_t request = 0, first = 0; request < lens.size; first += requests.lens[request++]) {
    for (int64_t i = 0; requests.kept[request] && i < channels * window; ++i) {
      const int64_t token = requests.kept[request] - window + i % window;
      const double left = state.get(requests.tracks[request] * channels * window + i);
      const double passed = value(request, first, i / window, token);
      expect(std::fabs(left - passed) < kLimits[index_of(state_dtype)] + kLimits[index_of(dtype)], "a second slot");
    }
    for (int64_t token = 0; token < requests.lens[request]; ++token)
      for (int64_t channel = 0; channel < channels; ++channel) {
        double y = bias.get(channel);
        for (int64_t j = 0; j < width; ++j)
          y += weight.get(channel * width + j) * value(request, first, channel, token - window + j);
        const int64_t at = (first + token) * channels + channel;
        wanted.set(at, gated ? y * x.get((first + token) * x.shape[1] + channels + channel) : y / (1 + std::exp(-y)));
      }
  }
  const std::string& coarse = kLimits[index_of(dtype)] > kLimits[index_of(state_dtype)] ? dtype : state_dtype;
  close(out, out.size, [&](int64_t i) { return wanted.get(i); }, coarse, "causal_conv");
  for (int64_t i = 0; i < channels * window; ++i) expect(state.get(i) == before.get(i), "a slot of nobody is written");
  refuse_states(causal_conv, arguments, 5, requests);
}

void test_recurrent_states(const std::string& dtype) {
  const Requests requests;
  const int64_t groups = any(1, 2), heads = groups * any(1, 3);
  // 16 rows of whole vectors are computed together.
  const int64_t values = any(1, 37), size = any(0, 1) ? 16 * any(1, 2) : any(1, 36);
  Array x(dtype, {requests.tokens, 2 * groups * size + heads * values}), gates(dtype, {requests.tokens, 2 * heads});
  Array dt(dtype, {requests.tokens, heads}), a_log("float32", {heads}), skip("float32", {heads});
  Array bias("float32", {heads}), state("float32", {requests.room, heads, values, size});
  Array slots = ints(requests.slots), lens = ints(requests.lens), limits = numbers({0.1, 1.5});
  Array tracks = ints(requests.tracks), kept = ints(requests.kept);
  Array out(dtype, {requests.tokens, heads * values});
  x.fill(), gates.fill(), dt.fill(), a_log.fill(), skip.fill(), bias.fill(), state.fill();
  std::vector<double> s(state.size);
  auto begin = [&] {
    state.fill();
    for (int64_t i = 0; i < state.size; ++i) s[i] = state.get(i);
  };
  auto softplus = [](double value) { return std::log1p(std::exp(value)); };
  // of each token and head: what `step` makes of the head's matrix, and then the product with q
  auto expected = [&](bool delta) {
    std::vector<double> wanted(out.size);
    for (int64_t request = 0, first = 0; request < lens.size; first += requests.lens[request++])
      for (int64_t t = first; t < first + requests.lens[request]; ++t)
        for (int64_t head = 0; head < heads; ++head) {
          const int64_t group = head / (heads / groups), row = t * x.shape[1];
          const int64_t q_at = row + (delta ? 0 : heads * values + groups * size) + group * size;
          const int64_t k_at = row + (delta ? groups * size : heads * values) + group * size;
          const int64_t v_at = row + (delta ? 2 * groups * size : 0) + head * values;
          double q_scale = 1, k_scale = 1;
          if (delta) {
            double q_squares = 1e-6, k_squares = 1e-6;
            for (int64_t i = 0; i < size; ++i)
              q_squares += std::pow(x.get(q_at + i), 2), k_squares += std::pow(x.get(k_at + i), 2);
            q_scale = 1 / std::sqrt(q_squares * size), k_scale = 1 / std::sqrt(k_squares);
          }
          const double a = delta ? gates.get(t * 2 * heads + heads + head) : dt.get(t * heads + head);
          double width = softplus(a + bias.get(head));
          if (!delta) width = std::min(std::max(width, 0.1), 1.5);
          const double stays = std::exp(-std::exp(a_log.get(head)) * width);
          const double added = delta ? 1 / (1 + std::exp(-gates.get(t * 2 * heads + head))) : width;
          for (int64_t v = 0; v < values; ++v) {
            double* of = &s[((requests.slots[request] * heads + head) * values + v) * size];
            double seen = 0, found = 0;
            for (int64_t i = 0; delta && i < size; ++i) seen += stays * of[i] * x.get(k_at + i) * k_scale;
            for (int64_t i = 0; i < size; ++i) {
              of[i] = stays * of[i] + added * (x.get(v_at + v) - seen) * x.get(k_at + i) * k_scale;
              found += of[i] * x.get(q_at + i) * q_scale;
            }
            if (t - first + 1 == requests.kept[request])
              std::copy(of, of + size, &s[((requests.tracks[request] * heads + head) * values + v) * size]);
            wanted[(t * heads + head) * values + v] = found + (delta ? 0 : skip.get(head) * x.get(v_at + v));
          }
        }
    return wanted;
  };
  const std::vector<Array*> delta{&x,     &gates, &a_log,  &bias, &state, &nothing,
                                  &slots, &lens,  &tracks, &kept, &slots, &out};
  const std::vector<Array*> space{&x,     &dt,   &a_log,  &skip, &bias,  &state,  &nothing,
                                  &slots, &lens, &tracks, &kept, &slots, &limits, &out};
  for (const auto* arguments : {&delta, &space}) {
    const bool is_delta = arguments == &delta;
    begin();
    const Operator op = is_delta ? gated_delta : state_space;
    expect(call(op, *arguments) == 0, is_delta ? "gated_delta" : "state_space");
    const std::vector<double> wanted = expected(is_delta);
    close(out, out.size, [&](int64_t i) { return wanted[i]; }, dtype, is_delta ? "gated_delta" : "state_space");
    close(state, state.size, [&](int64_t i) { return s[i]; }, "float32", "states");
    refuse_states(op, *arguments, is_delta ? 6 : 7, requests);
  }
}

void test_kimi_delta(const std::string& dtype) {
  const Requests requests;
  const int64_t heads = any(1, 5), values = any(1, 37), size = any(0, 1) ? 32 : any(1, 36);
  const int64_t columns = heads * (2 * size + values);
  Array x(dtype, {requests.tokens, columns}), forget(dtype, {requests.tokens, heads * size});
  Array beta(dtype, {requests.tokens, heads}), a_log("float32", {heads}), bias("float32", {heads * size});
  Array state("float32", {requests.room, heads, values, size}), out(dtype, {requests.tokens, heads * values});
  Array slots = ints(requests.slots), lens = ints(requests.lens);
  Array tracks = ints(requests.tracks), kept = ints(requests.kept);
  x.fill(), forget.fill(), beta.fill(), a_log.fill(), bias.fill(), state.fill();
  std::vector<double> s(state.size), wanted(out.size);
  for (int64_t i = 0; i < state.size; ++i) s[i] = state.get(i);
  for (int64_t request = 0, first = 0; request < lens.size; first += requests.lens[request++])
    for (int64_t t = first; t < first + requests.lens[request]; ++t)
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t q_at = t * columns + head * size, k_at = q_at + heads * size;
        double q_squares = 1e-6, k_squares = 1e-6;
        for (int64_t i = 0; i < size; ++i)
          q_squares += std::pow(x.get(q_at + i), 2), k_squares += std::pow(x.get(k_at + i), 2);
        const double added = 1 / (1 + std::exp(-beta.get(t * heads + head)));
        for (int64_t v = 0; v < values; ++v) {
          const double value = x.get(t * columns + 2 * heads * size + head * values + v);
          double* of = &s[((requests.slots[request] * heads + head) * values + v) * size];
          double seen = 0, found = 0;
          for (int64_t i = 0; i < size; ++i) {
            const double rate = forget.get((t * heads + head) * size + i) + bias.get(head * size + i);
            of[i] *= std::exp(-std::exp(a_log.get(head)) * std::log1p(std::exp(rate)));
            seen += of[i] * x.get(k_at + i) / std::sqrt(k_squares);
          }
          for (int64_t i = 0; i < size; ++i) {
            of[i] += added * (value - seen) * x.get(k_at + i) / std::sqrt(k_squares);
            found += of[i] * x.get(q_at + i) / std::sqrt(q_squares * size);
          }
          if (t - first + 1 == requests.kept[request])
            std::copy(of, of + size, &s[((requests.tracks[request] * heads + head) * values + v) * size]);
          wanted[(t * heads + head) * values + v] = found;
        }
      }
  const std::vector<Array*> arguments{&x,     &forget, &beta,   &a_log, &bias,  &state, &nothing,
                                      &slots, &lens,   &tracks, &kept,  &slots, &out};
  expect(call(kimi_delta, arguments) == 0, "kimi_delta");
  close(out, out.size, [&](int64_t i) { return wanted[i]; }, dtype, "kimi_delta");
  close(state, state.size, [&](int64_t i) { return s[i]; }, "float32", "states of kimi_delta");
  refuse_states(kimi_delta, arguments, 7, requests);
}

void test_gates(const std::string& dtype) {
  const int64_t rows = any(1, 9), group = any(1, 40), parts = any(1, 3), columns = group * parts;
  Array x(dtype, {rows, columns}), gate(dtype, {rows, columns}), weight(dtype, {columns}), out(dtype, x.shape);
  Array flags = ints({group, 0, 1}), eps = number(1e-3), uneven = ints({columns + 1, 0, 1});
  x.fill(), gate.fill(), weight.fill();
  auto sigmoid = [&](int64_t i) { return 1 / (1 + std::exp(-gate.get(i))); };
  auto gated = [&](int64_t i) { return x.get(i) * gate.get(i) * sigmoid(i); };
  expect(call(gated_norm, {&x, &gate, &weight, &flags, &eps, &out}) == 0, "gated_norm");
  auto normed = [&](int64_t i) {
    double squares = 0;
    for (int64_t j = i / group * group; j < i / group * group + group; ++j) squares += std::pow(gated(j), 2);
    return gated(i) / std::sqrt(squares / group + 1e-3) * weight.get(i % columns);
  };
  close(out, out.size, normed, dtype, "gated_norm");
  expect(call(gated_norm, {&x, &gate, &weight, &uneven, &eps, &out}) != 0, "gated_norm takes groups that do not fit");
  // Of three groups, of twice as many values each, this is half of the last one.
  Array sums("float32", {rows, 3}), place = ints({2}), thirds("int32", {3}), whole = ints({2 * columns, 2}),
                                    small = ints({columns - 1, 2});
  Array beyond = ints({3});
  expect(call(gated_squares, {&x, &gate, &thirds, &place, &sums}) == 0, "gated_squares");
  auto squares = [&](int64_t i) {
    double total = 0;
    for (int64_t j = 0; j < columns; ++j) total += std::pow(gated(i / 3 * columns + j), 2);
    return i % 3 == 2 ? total : 0;
  };
  close(sums, sums.size, squares, dtype, "gated_squares");
  expect(call(gated_squares, {&x, &gate, &thirds, &beyond, &sums}) != 0, "gated_squares takes a group that is none");
  expect(call(gated_norm_tp, {&x, &gate, &sums, &weight, &whole, &eps, &out}) == 0, "gated_norm_tp");
  auto shared = [&](int64_t i) {
    const double total = squares(i / columns * 3 + 2);
    return gated(i) / std::sqrt(total / (2 * columns) + 1e-3) * weight.get(i % columns);
  };
  close(out, out.size, shared, dtype, "gated_norm_tp");
  expect(call(gated_norm_tp, {&x, &gate, &sums, &weight, &small, &eps, &out}) != 0, "gated_norm_tp takes small groups");
  expect(call(sigmoid_gate, {&x, &gate, &out}) == 0, "sigmoid_gate");
  close(out, out.size, [&](int64_t i) { return x.get(i) * sigmoid(i); }, dtype, "sigmoid_gate");
}
