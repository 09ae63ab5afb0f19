// What the values of the arguments of a vision tower's operators must be.
#include "operators.h"

void calls::segment_attention::validate(Arguments& arguments) const {
  arguments.check(ends > 1 && bounds[0] == 0 && bounds[ends - 1] == tokens, "segments that are not from 0 to %ld",
                  tokens);
  for (int64_t i = 1; i < ends && !arguments.failed(); ++i)
    arguments.check(bounds[i - 1] <= bounds[i], "segment %ld ends before it begins", i - 1);
  arguments.check(!cos == !sin, "cos without sin, or sin without cos");
}

void calls::take_rows::validate(Arguments& arguments) const {
  for (int64_t i = 0; i < tokens && !arguments.failed(); ++i)
    arguments.check(rows[i] >= -1 && rows[i] < count, "row %d of %ld", rows[i], count);
}

void calls::mrope::validate(Arguments& arguments) const {
  arguments.check(within(axes, half, 3), "an axis that is none of three");
  const bool held = within(t, tokens, rows) && within(h, tokens, rows) && within(w, tokens, rows);
  arguments.check(held, "a position is outside the rotary table of %ld", rows);
}
