// Which token comes next, from the model's logits.
//
//   p[i] = exp((logits[i] - max) / temperature) / sum     in double
//
// Of these the most probable that together reach top_p (the nucleus; Holtzman et al. 2019, arXiv
// 1904.09751) are kept, and one is drawn with a number of Philox by (seed, place in the text): the
// same seed gives the same text. Temperature 0 is the largest logit. Of equals the lower id counts
// as the more probable.
#pragma once

#include <cstdint>
#include <span>

namespace nereus {

struct Sampling {
  double temperature = 1;  // 0: greedy
  double top_p = 1;        // above 0, up to 1
  uint64_t seed = 0;
};

// Token number `place` of the text. Throws Error{kNumeric} when a logit is NaN or all are -Inf.
int32_t choose_token(std::span<const float> logits, const Sampling&, int64_t place);

}  // namespace nereus
