#include "engine/nonfinite.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "comm/communicator.h"

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

// What is not finite, and where in the order of looking: less is earlier.
struct Finding {
  static constexpr int64_t kNone = int64_t{1} << 40;
  int64_t place = kNone;
  std::string text;
};

class FirstNonfinite final : public Observer {
 public:
  FirstNonfinite(int64_t microbatch, int64_t layers, Finding& finding)
      : microbatch_(microbatch), layers_(layers), finding_(finding) {}
  void see(Stream& stream, const char* what, int64_t layer, ConstTensorView view) override {
    const bool logits = std::strcmp(what, "logits") == 0;  // whose "layer" is a token
    const bool first = std::strcmp(what, "hidden.embed") == 0;
    const int64_t in_model = logits ? layers_ + 1 : layer >= 0 ? layer + 1 : first ? 0 : layers_;
    const int64_t place = 1 + microbatch_ * (layers_ + 2) + in_model;
    if (place >= finding_.place) return;
    const Count n = count(stream, view);
    if (!n.any()) return;
    const std::string where = logits       ? fmt::format("logits from token {}", layer)
                              : layer >= 0 ? fmt::format("layers.{} {}", layer, what)
                                           : std::string(what);
    finding_ = {place,
                describe(fmt::format("{} of microbatch {}", where, microbatch_), n, view.count())};
  }

 private:
  int64_t microbatch_, layers_;
  Finding& finding_;
};

void look_at(Stream& stream, const std::vector<NamedView>& views, const char* what, int64_t place,
             Finding& finding) {
  if (place >= finding.place) return;
  for (const NamedView& v : views) {
    const Count n = count(stream, v.view);
    if (!n.any()) continue;
    finding = {place, describe(what + v.name, n, v.view.count())};
    return;
  }
}

// The earliest of all ranks, of equal ones the lowest rank's.
std::string earliest(Stream& stream, Communicator& world, const Finding& mine) {
  constexpr int64_t kText = 512;
  const Buffer buffer(stream.device(), 8 + kText, "what is not finite");
  const TensorView place(buffer.data(), DType::i64, {1});
  const TensorView text(buffer.data() + 8, DType::u8, {kText});
  int64_t best = -mine.place * world.size() - world.rank();
  copy_to_device(stream, place, &best);
  world.all_reduce(stream, place, ReduceOp::max);
  copy_to_host(stream, &best, place);
  stream.synchronize();
  const auto owner = static_cast<int>(-best % world.size());
  if (-best / world.size() == Finding::kNone) return "";
  std::string found = fmt::format("on rank {}, {}", owner, mine.text);
  found.resize(kText);
  copy_to_device(stream, text, found.data());
  world.broadcast(stream, text, owner);
  copy_to_host(stream, found.data(), text);
  stream.synchronize();
  return found.c_str();
}

}  // namespace

std::string first_nonfinite(Stream& stream, Engine& engine,
                            std::span<const HostMicrobatch> microbatches, TensorView loss,
                            Communicator& world) {
  Finding finding;
  look_at(stream, engine.read_weights(), "weight ", 0, finding);
  for (size_t i = 0; i < microbatches.size(); ++i) {
    FirstNonfinite observer(static_cast<int64_t>(i), engine.args().n_layers, finding);
    engine.executor().evaluate(microbatches[i], 1.0f, loss, &observer);
  }
  look_at(stream, engine.store().gradient_views(), "gradient of ", Finding::kNone - 1, finding);
  return world.size() == 1 ? finding.text : earliest(stream, world, finding);
}

}  // namespace nereus
