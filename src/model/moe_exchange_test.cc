// Rows may travel to and from experts in a stream of their own. Streams of a CPU do their work at
// once, so here a dispatcher does it as late as it may: when the layer waits for it. If that gives
// the same bits as at once, nothing in between reads what travels or takes its memory.
#include <gtest/gtest.h>

#include <functional>

#include "model/layer_test.h"
#include "model/moe.h"

namespace nereus {
namespace {

using test::Tensor;

class LateDispatcher final : public TokenDispatcher, public SideStream {
 public:
  explicit LateDispatcher(int64_t experts) : local_(experts) {}
  int forks() const { return forks_; }

  Stream& fork(Stream& stream) override {
    EXPECT_FALSE(forked_);
    forked_ = true;
    ++forks_;
    return stream;
  }
  void join(Stream&) override {
    EXPECT_TRUE(forked_);
    forked_ = false;
    for (const auto& work : late_) work();
    late_.clear();
  }

  int64_t local_experts() const override { return local_.local_experts(); }
  const char* name() const override { return "late"; }
  Plan plan(Context& ctx, Arena& arena, ConstTensorView ids) override {
    return local_.plan(ctx, arena, ids);
  }
  void dispatch(Context& ctx, const Plan& plan, ConstTensorView x, ConstTensorView weights,
                bool weigh, const Rows& rows) override {
    later(ctx, [=, this](Context& c) { local_.dispatch(c, plan, x, weights, weigh, rows); });
  }
  void combine(Context& ctx, const Plan& plan, ConstTensorView rows, ConstTensorView addend,
               TensorView out) override {
    later(ctx, [=, this](Context& c) { local_.combine(c, plan, rows, addend, out); });
  }
  void combine_backward(Context& ctx, const Plan& plan, ConstTensorView dout,
                        TensorView drows) override {
    later(ctx, [=, this](Context& c) { local_.combine_backward(c, plan, dout, drows); });
  }
  void dispatch_backward(Context& ctx, const Plan& plan, const DispatchBackward& a) override {
    later(ctx, [=, this](Context& c) { local_.dispatch_backward(c, plan, a); });
  }

 private:
  void later(Context& ctx, std::function<void(Context&)> work) {
    if (!forked_) return work(ctx);
    late_.push_back([ctx, work]() mutable { work(ctx); });
  }

  LocalDispatcher local_;
  bool forked_ = false;
  int forks_ = 0;
  std::vector<std::function<void()>> late_;
};

constexpr int64_t kTokens = 16, kDim = 24, kExperts = 8, kWidth = 16;

Tensor random(uint64_t seed, const Shape& shape, double std = 0.3) {
  return test::normal(seed, shape, std);
}

struct Case {
  bool scores_first, at_once;
  Recompute recompute;
};

// Output, gradients of the input and of all weights.
std::vector<std::vector<double>> run(const Case& c, TokenDispatcher& dispatcher, SideStream* side) {
  ModelArgs args;
  args.dim = kDim;
  args.moe_inter_dim = kWidth;
  args.moe = {.num_experts = kExperts, .num_shared_experts = 1, .top_k = 3, .route_norm = true};
  args.moe.score_before_experts = c.scores_first;
  const Tensor gate = random(1, {kExperts, kDim}, 1), up = random(2, {kExperts, 2 * kWidth, kDim}),
               down = random(3, {kExperts, kDim, kWidth}),
               shared_up = random(4, {2 * kWidth, kDim}), shared_down = random(5, {kDim, kWidth}),
               x = random(6, {kTokens, kDim}, 1), dy = random(7, {kTokens, kDim}, 1);
  const Moe::Weights w{gate, up, down, {shared_up, shared_down}};
  std::vector<Tensor> out;
  for (const Shape& s : {gate.shape(), up.shape(), down.shape(), shared_up.shape(),
                         shared_down.shape(), x.shape(), x.shape()})
    out.push_back(test::poisoned(s));
  const Moe::Grads grads{out[0], out[1], out[2], {out[3], out[4]}};
  const Tensor tokens = Tensor(Device::cpu(), DType::i32, {kTokens}).fill(0);
  const Tensor load = Tensor(Device::cpu(), DType::i64, {kExperts}).fill(0);
  const Microbatch mb{.ids = tokens, .labels = tokens, .positions = tokens, .first_key = tokens};

  test::LayerMemory memory;
  Context ctx = memory.context();
  IdentityRegion region;
  const Moe moe(args, dispatcher, region, region, side, c.recompute, 0);
  Moe::Saved saved;
  Moe::Pending pending;
  moe.route(ctx, w, {.load = load}, mb, x, saved.routing);
  moe.forward(ctx, w, x, out[5], saved);
  if (c.recompute.norms) moe.restore_input(ctx, x, saved);
  if (c.at_once) {
    moe.backward(ctx, w, dy, out[6], saved, grads);
  } else {
    moe.backward_input(ctx, w, dy, out[6], saved, pending);
    moe.backward_weight(ctx, saved, pending, grads);
  }
  std::vector<std::vector<double>> values;
  for (const Tensor& t : out) {
    values.push_back(t.values());
    for (const double v : values.back()) EXPECT_TRUE(std::isfinite(v)) << "not written";
  }
  return values;
}

TEST(MoeExchange, MayRunAsLateAsItIsWaitedFor) {
  for (const bool first : {false, true}) {
    for (const bool at_once : {false, true}) {
      for (const Recompute& recompute : {Recompute::none(), Recompute::selective()}) {
        const Case c{first, at_once, recompute};
        LocalDispatcher local(kExperts);
        LateDispatcher late(kExperts);
        EXPECT_EQ(run(c, late, &late), run(c, local, nullptr))
            << "scores first " << first << ", at once " << at_once << ", norms " << recompute.norms;
        EXPECT_EQ(late.forks(), 3);  // dispatch, and both backward passes
      }
    }
  }
}

}  // namespace
}  // namespace nereus
