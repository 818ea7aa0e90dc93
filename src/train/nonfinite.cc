#include "train/nonfinite.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "base/check.h"

namespace nereus {
namespace {

struct Count {
  int64_t nan = 0, inf = 0;
  bool any() const { return nan + inf > 0; }
};

// The rows of a view, one after the other, each as `columns` contiguous elements.
template <class F>
void for_each_row(const ConstTensorView& view, F&& f) {
  if (view.rank() == 1) return f(view);
  for (int64_t i = 0; i < view.dim(0); ++i) for_each_row(view[i], f);
}

Count count(Stream& stream, const ConstTensorView& view) {
  Count n;
  if (view.dtype != DType::f32 && view.dtype != DType::bf16) return n;
  std::vector<std::byte> host;
  for_each_row(view, [&](const ConstTensorView& row) {
    host.resize(static_cast<size_t>(row.bytes()));
    copy_to_host(stream, host.data(), row);
    stream.synchronize();
    visit_float(view.dtype, [&]<class E>() {
      const E* x = reinterpret_cast<const E*>(host.data());
      for (int64_t i = 0; i < row.count(); ++i) {
        const auto value = static_cast<float>(x[i]);
        n.nan += std::isnan(value);
        n.inf += std::isinf(value);
      }
    });
  });
  return n;
}

std::string describe(const std::string& what, const Count& n, int64_t of) {
  return fmt::format("{} has {} NaN and {} Inf among {} values", what, n.nan, n.inf, of);
}

class FirstNonfinite final : public Observer {
 public:
  explicit FirstNonfinite(size_t microbatch) : microbatch_(microbatch) {}
  void see(Stream& stream, const char* what, int64_t layer, ConstTensorView view) override {
    if (!found.empty()) return;
    const Count n = count(stream, view);
    if (!n.any()) return;
    const std::string where = std::strcmp(what, "logits") == 0
                                  ? fmt::format("logits from token {}", layer)
                              : layer >= 0 ? fmt::format("layers.{} {}", layer, what)
                                           : std::string(what);
    found = describe(fmt::format("{} of microbatch {}", where, microbatch_), n, view.count());
  }
  std::string found;

 private:
  size_t microbatch_;
};

}  // namespace

namespace {

std::string first_of(Stream& stream, const std::vector<NamedView>& views, const char* what) {
  for (const NamedView& v : views) {
    const Count n = count(stream, v.view);
    if (n.any()) return describe(what + v.name, n, v.view.count());
  }
  return "";
}

}  // namespace

std::string nonfinite_state(Stream& stream, const Engine& engine) {
  const std::string weight = first_of(stream, engine.read_weights(), "weight ");
  if (!weight.empty()) return weight;
  return first_of(stream, engine.store().gradient_views(), "gradient of ");
}

std::string first_nonfinite(Stream& stream, Engine& engine,
                            std::span<const HostMicrobatch> microbatches, TensorView loss) {
  const std::string weight = first_of(stream, engine.read_weights(), "weight ");
  if (!weight.empty()) return weight;
  for (size_t i = 0; i < microbatches.size(); ++i) {
    FirstNonfinite observer(i);
    engine.executor().evaluate(microbatches[i], 1.0f, loss, &observer);
    if (!observer.found.empty()) return observer.found;
  }
  return first_of(stream, engine.store().gradient_views(), "gradient of ");
}

}  // namespace nereus
