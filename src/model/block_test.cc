#include "model/block.h"

#include <gtest/gtest.h>

#include "parallel/parameter_store.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

constexpr int64_t kSequence = 24, kTokens = 2 * kSequence;

ModelArgs small_args() {
  ModelArgs args;
  args.vocab_size = 32;
  args.dim = 16;
  args.inter_dim = 24;
  args.moe_inter_dim = 8;
  args.n_layers = 2;
  args.n_dense_layers = 1;
  args.n_heads = 2;
  args.q_lora_rank = 8;
  args.kv_lora_rank = 8;
  args.qk_nope_head_dim = 8;
  args.qk_rope_head_dim = 4;
  args.v_head_dim = 8;
  args.max_seq_len = kSequence;
  args.moe.num_experts = 4;
  args.moe.num_shared_experts = 1;
  args.moe.top_k = 2;
  return args;
}

// One block with everything around it that it needs, on the CPU.
class OneBlock {
 public:
  OneBlock(int64_t layer, const Recompute& recompute)
      : stream_(Device::cpu(), &test::pool()),
        layout_(model_layout(args_)),
        store_(Device::cpu(), layout_.tensors, {}),
        dispatcher_(args_.moe.num_experts),
        cos_(test::Tensor(Device::cpu(), DType::f32, {kSequence, 2}).fill_normal(1)),
        sin_(test::Tensor(Device::cpu(), DType::f32, {kSequence, 2}).fill_normal(2)),
        memory_(Device::cpu(), 3 * kBytes, "a test"),
        input_("input", memory_.data(), kBytes),
        weight_("weight", memory_.data() + kBytes, kBytes),
        scratch_("scratch", memory_.data() + 2 * kBytes, kBytes),
        handles_(layout_.blocks[static_cast<size_t>(layer)]),
        block_(args_, layer, {cos_, sin_},
               {.tp = tp_, .expert_tp = tp_, .keys = tp_, .dispatcher = dispatcher_}, recompute) {
    store_.initialize(stream_, 3);
  }

  struct Outcome {
    std::vector<double> y, dx, gradients;
    bool operator==(const Outcome&) const = default;
  };

  // Forward, then both backward passes: at once or one after the other.
  Outcome run(bool at_once) {
    const Shape shape{kTokens, args_.dim};
    const auto tensor = [&](uint64_t seed) {
      return test::Tensor(Device::cpu(), DType::f32, shape).fill_normal(seed);
    };
    const auto integers = [](auto f) {
      std::vector<double> values;
      for (int64_t t = 0; t < kTokens; ++t) values.push_back(static_cast<double>(f(t)));
      test::Tensor out(Device::cpu(), DType::i32, {kTokens});
      out.set(values);
      return out;
    };
    const auto positions = integers([](int64_t t) { return t % kSequence; });
    const auto first_key = integers([](int64_t t) { return t - t % kSequence; });
    const auto x = tensor(4), dy = tensor(5), y = tensor(6), dx = tensor(7);
    const auto load = test::Tensor(Device::cpu(), DType::i64, {args_.moe.num_experts}).fill(0);
    const Microbatch mb{.ids = positions,
                        .labels = positions,
                        .positions = positions,
                        .first_key = first_key,
                        .sequence = kSequence};
    const auto weights = handles_.map([&](TensorHandle h) { return store_.weight(h); });
    const auto grads = handles_.map([&](TensorHandle h) { return store_.gradient(h); });
    Context ctx{stream_, input_, weight_, scratch_};
    Block::Saved saved;
    Block::Pending pending;
    block_.forward(ctx, weights, mb, {.load = load}, x, y, saved);
    if (at_once) {
      block_.backward(ctx, weights, mb, dy, dx, saved, pending, grads);
    } else {
      block_.backward_input(ctx, weights, mb, dy, dx, saved, pending, grads);
      input_.release(0);
      block_.backward_weight(ctx, saved, pending, grads);
    }
    Outcome out{y.values(), dx.values(), {}};
    const TensorView all = store_.gradients();
    for (int64_t i = 0; i < all.count(); ++i)
      out.gradients.push_back(static_cast<double>(all.as<float>()[i]));
    input_.release(0);
    weight_.release(0);
    return out;
  }

 private:
  static constexpr int64_t kBytes = 4 << 20;
  ModelArgs args_ = small_args();
  Stream stream_;
  ModelLayout layout_;
  ParameterStore store_;
  IdentityRegion tp_;
  LocalDispatcher dispatcher_;
  test::Tensor cos_, sin_;
  Buffer memory_;
  Arena input_, weight_, scratch_;
  BlockTensors<TensorHandle> handles_;
  Block block_;
};

// A zero-bubble schedule runs dgrad and wgrad apart, others at once in less memory.
TEST(Block, BackwardAtOnceAndInTwoPassesGiveTheSameBits) {
  for (const int64_t layer : {0, 1}) {
    for (const Recompute& recompute :
         {Recompute::none(), Recompute::selective(), Recompute::full(),
          Recompute{.norms = true, .assembly = true, .dispatch = true}}) {
      OneBlock block(layer, recompute);
      const OneBlock::Outcome apart = block.run(false), at_once = block.run(true);
      EXPECT_TRUE(apart == at_once) << "layer " << layer;
      double sum = 0;
      for (const double g : at_once.gradients) sum += std::abs(g);
      EXPECT_GT(sum, 0);
    }
  }
}

}  // namespace
}  // namespace nereus
