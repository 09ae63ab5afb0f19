// Layers with a state: what the values of their arguments must be.
#include "operators.h"

namespace {

// Every request has tokens and a slot, and perhaps a second one for the state behind some of the tokens.
template <typename Call>
void check_states(Arguments& arguments, const Call& a) {
  int64_t queries = 0;
  for (int64_t i = 0; i < a.requests && !arguments.failed(); ++i) {
    arguments.check(a.query_lens[i] > 0, "request %ld has %d tokens", i, a.query_lens[i]);
    queries += a.query_lens[i];
    if (a.track_slots[i] < 0) continue;
    arguments.check(a.track_slots[i] < a.slots, "slot %d to keep a state in, of %ld", a.track_slots[i], a.slots);
    arguments.check(a.track_lens[i] > 0 && a.track_lens[i] <= a.query_lens[i], "the state behind %d of %d tokens",
                    a.track_lens[i], a.query_lens[i]);
  }
  arguments.check(queries == a.tokens, "the requests have %ld tokens, the step %ld", queries, a.tokens);
  arguments.check(within(a.state_slots, a.requests, a.slots), "a slot is none of the %ld of states", a.slots);
  for (int64_t i = 0; a.intermediate && i < a.requests && !arguments.failed(); ++i) {
    if (a.intermediate_rows[i] < 0) continue;
    arguments.check(a.intermediate_rows[i] < a.rows, "row %d is none of the %ld of intermediate states",
                    a.intermediate_rows[i], a.rows);
    arguments.check(a.query_lens[i] <= a.drafts, "request %ld has %d tokens, and intermediate states of %ld", i,
                    a.query_lens[i], a.drafts);
  }
}

}  // namespace

void calls::causal_conv::validate(Arguments& arguments) const { check_states(arguments, *this); }
void calls::gated_delta::validate(Arguments& arguments) const { check_states(arguments, *this); }
void calls::kimi_delta::validate(Arguments& arguments) const { check_states(arguments, *this); }
void calls::state_space::validate(Arguments& arguments) const { check_states(arguments, *this); }
