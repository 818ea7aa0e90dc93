#include "model/block.h"

#include <gtest/gtest.h>

#include "model/layer_test.h"
#include "parallel/parameter_store.h"
#include "test/small_models.h"

namespace nereus {
namespace {

constexpr int64_t kSequence = 24, kTokens = 2 * kSequence;

// One block with everything around it that it needs, on the CPU.
class OneBlock {
 public:
  OneBlock(int64_t layer, const Recompute& recompute)
      : layout_(model_layout(args_)),
        store_(Device::cpu(), layout_.tensors, {}),
        dispatcher_(args_.moe.num_experts),
        cos_(test::normal(1, {kSequence, 2})),
        sin_(test::normal(2, {kSequence, 2})),
        handles_(layout_.blocks[static_cast<size_t>(layer)]),
        block_(args_, layer, {cos_, sin_},
               {.tp = tp_, .expert_tp = tp_, .keys = tp_, .dispatcher = dispatcher_}, recompute) {
    store_.initialize(memory_.stream(), 3);
  }

  struct Outcome {
    std::vector<double> y, dx, gradients;
    double attention_out_gradient = 0;  // the sum of its magnitudes
    bool operator==(const Outcome&) const = default;
  };

  // Forward, then both backward passes: at once or one after the other. With `clear_attention` what
  // is kept of attention's outputs is zero between them.
  Outcome run(bool at_once, bool clear_attention = false) {
    const Shape shape{kTokens, args_.dim};
    std::vector<double> position, first;
    for (int64_t t = 0; t < kTokens; ++t) {
      position.push_back(static_cast<double>(t % kSequence));
      first.push_back(static_cast<double>(t - t % kSequence));
    }
    const auto positions = test::integers(position), first_key = test::integers(first);
    const auto x = test::normal(4, shape), dy = test::normal(5, shape), y = test::poisoned(shape),
               dx = test::poisoned(shape);
    const auto load = test::Tensor(Device::cpu(), DType::i64, {args_.moe.num_experts}).fill(0);
    const Microbatch mb{.ids = positions,
                        .labels = positions,
                        .positions = positions,
                        .first_key = first_key,
                        .sequence = kSequence};
    const auto weights = handles_.map([&](TensorHandle h) { return store_.weight(h); });
    const auto grads = handles_.map([&](TensorHandle h) { return store_.gradient(h); });
    // What neither way writes must not be equal: nothing here has a number before.
    memory_.reset();
    const TensorView all = store_.gradients();
    std::memset(all.data, 0xff, static_cast<size_t>(all.bytes()));
    Context ctx = memory_.context();
    Block::Saved saved;
    Block::Pending pending;
    block_.forward(ctx, weights, mb, {.load = load}, x, y, saved);
    if (clear_attention)
      std::memset(saved.attention.o.data, 0, static_cast<size_t>(saved.attention.o.bytes()));
    if (at_once) {
      block_.backward(ctx, weights, mb, dy, dx, saved, pending, grads);
    } else {
      block_.backward_input(ctx, weights, mb, dy, dx, saved, pending, grads);
      memory_.release_input();
      block_.backward_weight(ctx, saved, pending, grads);
    }
    Outcome out{y.values(), dx.values(), {}};
    const TensorView attention_out = grads.attention.out;
    for (int64_t i = 0; i < attention_out.count(); ++i)
      out.attention_out_gradient += std::abs(double{attention_out.as<float>()[i]});
    grads.map([&](const TensorView& g) {
      for (int64_t i = 0; g && i < g.count(); ++i)
        out.gradients.push_back(double{g.as<float>()[i]});
      return 0;
    });
    return out;
  }

 private:
  ModelArgs args_ = test::two_blocks();
  test::LayerMemory memory_;
  ModelLayout layout_;
  ParameterStore store_;
  IdentityRegion tp_;
  LocalDispatcher dispatcher_;
  test::Tensor cos_, sin_;
  BlockTensors<TensorHandle> handles_;
  Block block_;
};

// A zero-bubble schedule runs dgrad and wgrad apart, others at once in less memory.
TEST(Block, BackwardAtOnceAndInTwoPassesGiveTheSameBits) {
  for (const int64_t layer : {0, 1}) {
    for (const Recompute& recompute :
         {Recompute::none(), Recompute::selective(), Recompute::full(),
          Recompute{.block = true, .kept_attention = true, .swiglu = true},
          Recompute{.norms = true, .assembly = true, .dispatch = true}}) {
      OneBlock block(layer, recompute);
      const OneBlock::Outcome apart = block.run(false), at_once = block.run(true);
      EXPECT_TRUE(apart == at_once) << "layer " << layer;
      for (const auto* values : {&at_once.y, &at_once.dx, &at_once.gradients}) {
        double sum = 0;
        for (const double v : *values) sum += std::abs(v);
        EXPECT_TRUE(std::isfinite(sum)) << "an element was not written";
        EXPECT_GT(sum, 0);
      }
    }
  }
}

TEST(Block, KeptAttentionIsNotComputedAgain) {
  for (const int64_t layer : {0, 1}) {
    Recompute recompute = Recompute::full();
    recompute.kept_attention = true;
    OneBlock block(layer, recompute);
    EXPECT_GT(block.run(true).attention_out_gradient, 0);
    EXPECT_EQ(block.run(true, true).attention_out_gradient, 0);
    EXPECT_EQ(block.run(false, true).attention_out_gradient, 0);
  }
}

}  // namespace
}  // namespace nereus
