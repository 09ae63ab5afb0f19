// Mixtures of experts: what the values of their arguments must be, and where experts are.
#include "operators.h"

void calls::fused_experts::validate(Arguments& arguments) const {
  arguments.check(within(chosen, tokens * top_k, count), "an expert is none of the %ld", count);
  check_expert_adapters(arguments, *this);
}

void run(Arguments& arguments, const calls::scale_routes& a) {
  arguments.check(within(a.ids, a.tokens * a.top_k, a.experts), "an expert is none of the %ld", a.experts);
  if (arguments.failed()) return;
  for (int64_t i = 0; i < a.tokens * a.top_k; ++i) a.out[i] = a.weights[i] * a.factors[a.ids[i]];
}

void run(Arguments& arguments, const calls::to_physical_experts& a) {
  arguments.check(within(a.ids, a.tokens * a.top_k, a.experts), "an expert is none of the %ld", a.experts);
  for (int64_t i = 0; i < a.experts && !arguments.failed(); ++i) {
    const int32_t* its = a.location + i * a.row;
    arguments.check(*its > 0 && *its < a.row && within(its + 1, *its, a.places), "expert %ld has no places", i);
  }
  if (arguments.failed()) return;
  for (int64_t i = 0; i < a.tokens * a.top_k; ++i) {
    const int32_t* its = a.location + a.ids[i] * a.row;
    a.out[i] = its[1 + i / a.top_k % its[0]];
    ++a.counts[a.out[i]];
  }
}
