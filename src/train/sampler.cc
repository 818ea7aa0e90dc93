#include "train/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "base/philox.h"

namespace nereus {
namespace {

// In [0, 1), of 53 bits.
double uniform(uint64_t seed, int64_t place) {
  const Philox4 bits = philox(seed, static_cast<uint64_t>(place), hash_name("generated token"));
  const uint64_t word = uint64_t{bits.v[0]} << 32 | bits.v[1];
  return static_cast<double>(word >> 11) * 0x1p-53;
}

}  // namespace

int32_t choose_token(std::span<const float> logits, const Sampling& how, int64_t place) {
  const size_t n = logits.size();
  size_t best = 0;
  for (size_t i = 0; i < n; ++i) {
    NEREUS_CHECK(
        kNumeric, !std::isnan(logits[i]),
        "token {} of the text: logit {} is NaN; the weights, or the model's arguments, are "
        "not what they should be",
        place, i);
    if (logits[i] > logits[best]) best = i;
  }
  NEREUS_CHECK(kNumeric, n > 0 && std::isfinite(logits[best]),
               "token {} of the text: the largest logit is {}; the weights, or the model's "
               "arguments, are not what they should be",
               place, n > 0 ? logits[best] : 0);
  if (how.temperature == 0) return static_cast<int32_t>(best);

  const double max = logits[best];
  std::vector<double> p(n);
  for (size_t i = 0; i < n; ++i)
    p[i] = std::exp((static_cast<double>(logits[i]) - max) / how.temperature);
  std::vector<int32_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  const auto at = [&](int32_t i) { return p[static_cast<size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return at(a) > at(b); });
  const double all = std::accumulate(p.begin(), p.end(), 0.0);
  size_t kept = 0;
  double sum = 0;
  while (kept < n && (kept == 0 || sum < how.top_p * all)) sum += at(order[kept++]);
  const double drawn = uniform(how.seed, place) * sum;
  double passed = 0;
  for (size_t i = 0; i < kept; ++i) {
    passed += at(order[i]);
    if (drawn < passed) return order[i];
  }
  return order[kept - 1];  // rounding
}

}  // namespace nereus
