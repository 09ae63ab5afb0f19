// Routers and experts, beside plain statements of them; part of operators.cpp.
#pragma once

void test_route() {
  const int64_t tokens = any(1, 40), groups = any(1, 4), size = any(3, 20), experts = groups * size;
  const int64_t top_groups = any(1, groups), group_top = any(1, 2),
                top_k = any(1, std::min<int64_t>(8, top_groups * size));
  const bool sigmoid = any(0, 1), biased = any(0, 1), renormalize = any(0, 1);
  const double scaling = uniform(0.5, 3), cap = any(0, 1) ? 2.0 : 0.0;
  Array logits("float32", {tokens, experts}), bias("float32", {experts}), chosen("int32", {top_k});
  Array integers = ints({sigmoid, groups, top_groups, group_top, renormalize}), numbers("float32", {2});
  Array weights("float32", {tokens, top_k}), found("int32", {tokens, top_k});
  logits.fill(-3, 3), bias.fill(-0.3, 0.3);
  numbers.set(0, scaling), numbers.set(1, cap);
  const std::vector<Array*> arguments{&logits, biased ? &bias : &nothing, &chosen, &integers, &numbers, &weights,
                                      &found};
  expect(call(route, arguments) == 0, "route");
  for (int64_t token = 0; token < tokens; ++token) {
    std::vector<double> scores(experts), choice(experts);
    double sum = 0;
    for (int64_t i = 0; i < experts; ++i) {
      const double logit = logits.get(token * experts + i), x = cap > 0 ? cap * std::tanh(logit / cap) : logit;
      scores[i] = sigmoid ? 1 / (1 + std::exp(-x)) : std::exp(x);
      sum += scores[i];
    }
    for (int64_t i = 0; i < experts; ++i) {
      if (!sigmoid) scores[i] /= sum;
      choice[i] = scores[i] + (biased ? bias.get(i) : 0);
    }
    std::vector<std::pair<double, int64_t>> best;
    for (int64_t group = 0; group < groups; ++group) {
      std::vector<double> own(choice.begin() + group * size, choice.begin() + (group + 1) * size);
      std::sort(own.rbegin(), own.rend());
      double score = 0;
      for (int64_t i = 0; i < group_top; ++i) score += own[i];
      best.push_back({-score, group});
    }
    std::sort(best.begin(), best.end());
    std::vector<std::pair<double, int64_t>> order;
    for (int64_t i = 0; i < top_groups; ++i)
      for (int64_t j = 0; j < size; ++j)
        order.push_back({-choice[best[i].second * size + j], best[i].second * size + j});
    std::sort(order.begin(), order.end());
    double total = 0;
    for (int64_t i = 0; i < top_k; ++i) total += scores[order[i].second];
    for (int64_t i = 0; i < top_k; ++i) {
      const int64_t expert = static_cast<int64_t>(found.get(token * top_k + i));
      expect(expert >= 0 && expert < experts && std::fabs(-order[i].first - choice[expert]) < 1e-5,
             "the chosen experts");
      const double wanted = scores[order[i].second] / (renormalize ? total : 1) * scaling;
      expect(std::fabs(weights.get(token * top_k + i) - wanted) < 1e-4 * scaling, "their weights");
    }
  }
  Array none = ints({sigmoid, groups, 0, group_top, renormalize}), uneven = ints({sigmoid, experts + 1, 1, 1, 0});
  for (Array* bad : {&none, &uneven}) {
    std::vector<Array*> changed = arguments;
    changed[3] = bad;
    expect(call(route, changed) != 0, "route takes groups that cannot be");
  }
}

void test_experts(const std::string& dtype) {
  const int64_t tokens = any(1, any(0, 3) ? 9 : 250), width = any(1, 100), size = any(1, 150), experts = any(1, 6);
  const int64_t before = any(0, 1) * any(0, 6), all = before + experts + any(0, 1) * any(0, 6);  // on other ranks
  const int64_t top_k = any(1, all), kind = any(0, 5), parts = kind == 4 ? 1 : 2;
  const bool biased = any(0, 1);
  const double alpha = 1.7, limit = 0.6;
  Array x(dtype, {tokens, width}), gate_up(dtype, {experts, parts, size, width}), down(dtype, {experts, width, size});
  Array inner(dtype, {experts, parts, size}), outer(dtype, {experts, width});
  Array weights("float32", {tokens, top_k}), chosen("int32", {tokens, top_k}), y(dtype, x.shape);
  Array integers = ints({kind, before, all}), numbers("float32", {2});
  x.fill(), gate_up.fill(-0.3, 0.3), down.fill(-0.3, 0.3), inner.fill(), outer.fill(), weights.fill(0, 1);
  numbers.set(0, alpha), numbers.set(1, limit);
  for (int64_t i = 0; i < chosen.size; ++i) chosen.set(i, (i + i / top_k) % all);
  Array first(dtype, gate_up.shape), second(dtype, down.shape);  // packed
  std::memcpy(first.bytes.get(), gate_up.bytes.get(), gate_up.size * gate_up.width());
  std::memcpy(second.bytes.get(), down.bytes.get(), down.size * down.width());
  for (int64_t i = 0; i < parts * experts; ++i)
    mindspore_cpu_prepack(index_of(dtype), first.bytes.get() + i * size * width * x.width(), size, width);
  for (int64_t i = 0; i < experts; ++i)
    mindspore_cpu_prepack(index_of(dtype), second.bytes.get() + i * size * width * x.width(), width, size);
  ExpertAdapters adapters(dtype, tokens, experts, size, width);
  std::vector<Array*> arguments{
      &x,       &first, biased ? &inner : &nothing, &second, biased ? &outer : &nothing, &weights, &chosen, &integers,
      &numbers, &y};
  if (parts == 1) adapters.given = false;
  adapters.put(arguments, 7);
  expect(call(fused_experts, arguments) == 0, "fused_experts");
  auto gated = [&](double gate, double up) {
    if (kind == 0) return gate / (1 + std::exp(-gate)) * up;
    if (kind == 1) return 0.5 * gate * (1 + std::erf(gate / std::sqrt(2.0))) * up;
    if (kind == 2)
      return 0.5 * gate * (1 + std::tanh(std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate))) * up;
    if (kind == 4) return std::pow(std::max(gate, 0.0), 2);
    up = std::min(std::max(up, -limit), limit);
    if (kind == 5) return std::min(gate / (1 + std::exp(-gate)), limit) * up;
    gate = std::min(gate, limit);
    return gate / (1 + std::exp(-alpha * gate)) * (up + 1);
  };
  std::vector<double> wanted(y.size);
  for (int64_t i = 0; i < tokens * top_k; ++i) {
    const int64_t token = i / top_k, expert = static_cast<int64_t>(chosen.get(i)) - before;
    if (expert < 0 || expert >= experts) continue;
    std::vector<double> middle(size);
    for (int64_t j = 0; j < size; ++j) {
      double found[2];
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t row = (expert * parts + part) * size + j;
        found[part] = biased ? inner.get(row) : 0;
        for (int64_t c = 0; c < width; ++c) found[part] += gate_up.get(row * width + c) * x.get(token * width + c);
        found[part] += adapters.added(token, expert, part, j, [&](int64_t c) { return x.get(token * width + c); });
      }
      middle[j] = gated(found[0], found[1]);
    }
    for (int64_t c = 0; c < width; ++c) {
      double found = biased ? outer.get(expert * width + c) : 0;
      for (int64_t j = 0; j < size; ++j) found += down.get((expert * width + c) * size + j) * middle[j];
      found += adapters.added(token, expert, 2, c, [&](int64_t j) { return middle[j]; });
      wanted[token * width + c] += weights.get(i) * found;
    }
  }
  close(y, y.size, [&](int64_t i) { return wanted[i]; }, dtype, "fused_experts");
  chosen.set(chosen.size - 1, all);
  expect(call(fused_experts, arguments) != 0, "fused_experts takes an expert that there is not");
  Array others = ints({kind, before, before + experts - 1}), wrong = ints({kind == 4 ? 0 : 4, before, all});
  std::vector<Array*> changed = arguments;
  chosen.set(chosen.size - 1, 0), changed[14] = &wrong;
  expect(call(fused_experts, changed) != 0, "fused_experts takes gates where there are none");
  changed[14] = &others;
  expect(call(fused_experts, changed) != 0, "fused_experts takes more experts than there are");
  if (adapters.given) {
    adapters.of_rows.set(0, adapters.slots);
    expect(call(fused_experts, arguments) != 0, "fused_experts takes a slot that there is not");
    adapters.of_rows.set(0, 0), adapters.down_ranks.set(0, adapters.rank + 1);
    expect(call(fused_experts, arguments) != 0, "fused_experts takes a rank for which there is no room");
    adapters.down_ranks.set(0, 0), changed = arguments, changed[9] = &nothing;
    expect(call(fused_experts, changed) != 0, "fused_experts takes a part of what adapters are");
  }
  Array gate(dtype, {tokens, 1}), other(dtype, x.shape);
  gate.fill(-3, 3), other.fill();
  expect(call(add_gated, {&x, &other, &gate, &y}) == 0, "add_gated");
  auto sum = [&](int64_t i) { return x.get(i) + other.get(i) / (1 + std::exp(-gate.get(i / width))); };
  close(y, y.size, sum, dtype, "add_gated");
  Array bound = number(0.5);
  expect(call(clip, {&x, &bound, &y}) == 0, "clip");
  close(y, y.size, [&](int64_t i) { return std::min(std::max(x.get(i), -0.5), 0.5); }, dtype, "clip");
}

void test_sparsemixer() {
  const int64_t tokens = any(1, 40), experts = any(2, 40);
  Array logits("float32", {tokens, experts}), one("float32", {tokens, 1}), jitter = number(0.3);
  Array weights("float32", {tokens, 2}), chosen("int32", {tokens, 2});
  logits.fill(-3, 3);
  expect(call(route_sparsemixer, {&logits, &jitter, &weights, &chosen}) == 0, "route_sparsemixer");
  for (int64_t token = 0; token < tokens; ++token) {
    std::vector<double> left;
    for (int64_t i = 0; i < experts; ++i) left.push_back(logits.get(token * experts + i));
    for (int64_t place = 2 * token; place < 2 * token + 2; ++place) {
      const int64_t best = std::max_element(left.begin(), left.end()) - left.begin();
      double total = 0;
      for (double x : left)
        if (left[best] - x <= 0.6 * std::max(std::fabs(x), left[best])) total += std::exp(x - left[best]);
      expect(chosen.get(place) == best, "the expert of a sparse mixer");
      expect(std::fabs(weights.get(place) - 1 / total) < 1e-5, "its weight");
      left[best] = -1e30;
    }
  }
  expect(call(route_sparsemixer, {&one, &jitter, &weights, &chosen}) != 0, "route_sparsemixer takes one expert");
}

void test_scaled_routes() {
  const int64_t tokens = any(1, 40), experts = any(1, 40), top_k = any(1, 8);
  Array weights("float32", {tokens, top_k}), chosen("int32", {tokens, top_k}), factors("float32", {experts});
  Array found("float32", {tokens, top_k}), far("int32", {tokens, top_k});
  weights.fill(), factors.fill(), far.set(any(0, far.size - 1), experts);
  for (int64_t i = 0; i < chosen.size; ++i) chosen.set(i, any(0, experts - 1));
  expect(call(scale_routes, {&weights, &chosen, &factors, &found}) == 0, "scale_routes");
  auto scaled = [&](int64_t i) { return weights.get(i) * factors.get(static_cast<int64_t>(chosen.get(i))); };
  close(found, found.size, scaled, "float32", "scale_routes");
  expect(call(scale_routes, {&weights, &far, &factors, &found}) != 0, "scale_routes takes an expert that is none");
}
