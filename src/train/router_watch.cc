#include "train/router_watch.h"

#include <algorithm>
#include <cmath>
#include <string_view>

namespace nereus {
namespace {

template <class T>
RouterFigures figures(const T* z, int64_t tokens, int64_t experts) {
  RouterFigures f;
  for (int64_t t = 0; t < tokens; ++t, z += experts) {
    double most = -INFINITY, sum = 0;
    for (int64_t e = 0; e < experts; ++e) {
      const auto x = static_cast<double>(static_cast<float>(z[e]));
      most = std::max(most, x);
      f.logit_max = std::max(f.logit_max, std::abs(x));
    }
    for (int64_t e = 0; e < experts; ++e)
      sum += std::exp(static_cast<double>(static_cast<float>(z[e])) - most);
    const double lse = most + std::log(sum);
    f.lse += lse;
    f.z_loss += lse * lse;
  }
  const double n = std::max<double>(1, static_cast<double>(tokens));
  f.lse /= n;
  f.z_loss /= n;
  return f;
}

}  // namespace

void RouterWatch::begin() { std::fill(seen_.begin(), seen_.end(), 0); }

void RouterWatch::see(Stream& stream, const char* what, int64_t layer, ConstTensorView z) {
  if (std::string_view(what) != "router.logits" || seen_[static_cast<size_t>(layer)] != 0) return;
  seen_[static_cast<size_t>(layer)] = 1;
  bytes_.resize(static_cast<size_t>(z.bytes()));
  copy_to_host(stream, bytes_.data(), z);
  stream.synchronize();
  RouterFigures& f = figures_[static_cast<size_t>(layer)];
  if (z.dtype == DType::f32)
    f = figures(reinterpret_cast<const float*>(bytes_.data()), z.dim(0), z.dim(1));
  else
    f = figures(reinterpret_cast<const bf16*>(bytes_.data()), z.dim(0), z.dim(1));
}

}  // namespace nereus
