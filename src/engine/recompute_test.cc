// Every choice of what the forward pass does not keep: the same bits as keeping everything, with
// given-back memory overwritten, so that a view that outlives its scope shows. And each choice
// makes the arena smaller by the tensors that it names.
#include <gtest/gtest.h>

#include <mutex>

#include "base/philox.h"
#include "comm/thread_ranks.h"
#include "engine/step_runner.h"
#include "parallel/rank_world.h"
#include "test/small_models.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

constexpr int64_t kRows = 2, kSequence = 12, kTokens = kRows * kSequence;
constexpr int32_t kEnd = 1;

// Without q_lora as in TorchTitan's debugmodel and 16B; a vocabulary that two ranks can share.
ModelArgs model(bool q_lora, NumericsFamily family) {
  ModelArgs a = test::causal(test::three_blocks());
  if (!q_lora) a = test::without_q_lora(a);
  a.vocab_size = 38;
  set_family(a, family);
  return a;
}

Recompute choice(int bits) {
  return {.norms = (bits & 1) != 0,
          .mla_up = (bits & 2) != 0,
          .assembly = (bits & 4) != 0,
          .swiglu = (bits & 8) != 0,
          .dispatch = (bits & 16) != 0,
          .gate_up = (bits & 32) != 0};
}
std::string name_of(const Recompute& r) {
  std::string text;
  if (r.block) text += " block";
  if (r.kept_attention) text += " but attention";
  if (r.norms) text += " norms";
  if (r.mla_up) text += " mla_up";
  if (r.assembly) text += " assembly";
  if (r.swiglu) text += " swiglu";
  if (r.dispatch) text += " dispatch";
  if (r.gate_up) text += " gate_up";
  return text;
}

struct Case {
  bool q_lora, documents;
  NumericsFamily family;
  int tp;
};
std::vector<Case> cases() {
  std::vector<Case> out;
  for (const bool q_lora : {false, true})
    for (const bool documents : {false, true})
      for (const NumericsFamily family : {NumericsFamily::torchtitan, NumericsFamily::huggingface})
        for (const int tp : {1, 2}) out.push_back({q_lora, documents, family, tp});
  return out;
}
void PrintTo(const Case& c, std::ostream* s) {
  *s << (c.q_lora ? "q_lora" : "no q_lora") << (c.documents ? ", documents" : "")
     << (c.family == NumericsFamily::torchtitan ? ", torchtitan" : ", huggingface") << ", tp "
     << c.tp;
}

// Loss and every gradient of two microbatches, as bits.
using Bits = std::vector<float>;

Bits one_step(const Case& c, const Recompute& recompute, bool apart, const RankWorld* world) {
  ModelArgs args = model(c.q_lora, c.family);
  if (c.documents) args.attn_mask_type = MaskType::block_causal;
  std::vector<Action> actions;
  const Schedule together = sequential_schedule(2);
  for (Action a : together.actions[0]) {
    if (apart && a.kind == Action::Kind::backward) {
      a.kind = Action::Kind::backward_input;
      actions.push_back(a);
      a.kind = Action::Kind::backward_weight;
    }
    actions.push_back(a);
  }
  const Pipeline pipeline{
      .parts = {{.first_block = 0, .end_block = args.n_layers}},
      .schedule = {
          .name = "", .microbatches = 2, .rank_of_stage = {0}, .actions = {std::move(actions)}}};
  Stream stream(Device::cpu(), &test::pool());
  Engine engine(args, stream,
                {.rows = kRows,
                 .sequence = kSequence,
                 .eos_id = kEnd,
                 .recompute = std::vector<Recompute>(3, recompute),
                 .moments = false,
                 .poison_released = true,
                 .world = world,
                 .pipeline = &pipeline});
  engine.store().initialize(stream, 3);
  std::vector<int32_t> ids, labels;
  for (uint64_t i = 0; i < 2 * kTokens; ++i) {
    ids.push_back(static_cast<int32_t>(philox(11, i).v[0] % 37));
    labels.push_back(static_cast<int32_t>(philox(12, i).v[0] % 37));
  }
  std::vector<HostMicrobatch> host;
  for (size_t m = 0; m < 2; ++m)
    host.push_back({.ids = std::span(ids).subspan(m * kTokens, kTokens),
                    .labels = std::span(labels).subspan(m * kTokens, kTokens)});
  Bits out;
  StepRunner runner(stream, engine, {.tokens = 2 * kTokens});
  runner.compute_gradients(host);
  out.push_back(runner.loss().as<float>()[0]);
  const TensorView gradients = engine.store().gradients();
  out.insert(out.end(), gradients.as<float>(), gradients.as<float>() + gradients.count());
  return out;
}

class EveryRecompute : public testing::TestWithParam<Case> {};

TEST_P(EveryRecompute, GivesTheBitsOfKeepingEverything) {
  const Case& c = GetParam();
  std::mutex mutex;
  const auto rank = [&](const RankWorld* world) {
    const Bits kept = one_step(c, Recompute::none(), false, world);
    const auto expect_same = [&](const Recompute& recompute, bool apart) {
      const Bits made_again = one_step(c, recompute, apart, world);
      const std::lock_guard lock(mutex);
      ASSERT_EQ(made_again.size(), kept.size());
      size_t different = 0;
      for (size_t i = 0; i < kept.size(); ++i) different += made_again[i] != kept[i];  // NaN too
      EXPECT_EQ(different, 0u) << "recompute" << name_of(recompute)
                               << (apart ? ", dgrad and wgrad apart" : "");
    };
    for (int bits = 0; bits < 32; ++bits) expect_same(choice(bits), bits % 3 == 1);
    for (const int bits : {32, 33, 48, 56, 59, 63}) {
      expect_same(choice(bits), false);
      expect_same(choice(bits), true);
    }
    Recompute kept_attention = Recompute::full();
    kept_attention.kept_attention = true;
    for (const bool apart : {false, true}) {
      expect_same(Recompute::full(), apart);
      expect_same(kept_attention, apart);
    }
  };
  if (c.tp == 1) return rank(nullptr);
  const Mesh mesh({.tp = 2}, 2);
  run_thread_ranks(2, {.timeout = std::chrono::seconds(60)}, [&](Communicator& world) {
    const RankWorld mine(mesh, world);
    rank(&mine);
  });
}

INSTANTIATE_TEST_SUITE_P(Models, EveryRecompute, testing::ValuesIn(cases()));

// Bytes of a tensor in an arena.
int64_t in_arena(int64_t elements) {
  return (4 * elements + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
}

// What the forward pass keeps of one block for an option alone, by hand.
int64_t named(const ModelArgs& a, const Recompute& r, bool experts) {
  const int64_t T = kTokens, R = T * a.moe.top_k, H = a.n_heads;
  const int64_t k = in_arena(T * H * a.qk_head_dim());
  int64_t bytes = 0;
  if (r.norms) bytes += 2 * in_arena(T * a.dim);
  if (r.mla_up)
    bytes += (a.q_lora_rank > 0 ? in_arena(T * a.q_lora_rank) : 0) + in_arena(T * a.kv_lora_rank) +
             2 * k + in_arena(T * H * (a.qk_nope_head_dim + a.v_head_dim));
  if (r.assembly) bytes += k;
  if (r.swiglu)
    bytes += experts ? in_arena(T * a.moe_inter_dim) + in_arena(R * a.moe_inter_dim)
                     : in_arena(T * a.inter_dim);
  if (r.dispatch && experts) bytes += in_arena(R * a.dim);
  if (r.gate_up)
    bytes += experts ? in_arena(2 * T * a.moe_inter_dim) + in_arena(2 * R * a.moe_inter_dim)
                     : in_arena(2 * T * a.inter_dim);
  return bytes;
}

TEST(EveryRecompute, LowersTheArenasPeakByWhatItNames) {
  for (const bool q_lora : {false, true}) {
    ModelArgs args = model(q_lora, NumericsFamily::torchtitan);
    args.n_layers = 9;
    const auto peak = [&](const Recompute& recompute) {
      Stream meta{Device::meta()};
      const Engine engine(args, meta,
                          {.rows = kRows,
                           .sequence = kSequence,
                           .recompute = std::vector<Recompute>(9, recompute),
                           .pipeline = nullptr});
      return const_cast<Engine&>(engine).executor().memory().saved;
    };
    const int64_t kept = peak(Recompute::none());
    for (const int bit : {1, 2, 4, 8, 16, 32}) {
      const Recompute recompute = choice(bit);
      // Blocks whose backward pass has not begun; the last one's tensors are made again meanwhile.
      const int64_t of_moe = named(args, recompute, true), of_dense = named(args, recompute, false);
      const int64_t all = 8 * of_moe + of_dense;
      const int64_t saved = kept - peak(recompute);
      EXPECT_LE(saved, all) << name_of(recompute);
      EXPECT_GE(saved, all - of_moe) << name_of(recompute) << (q_lora ? ", q_lora" : "");
      EXPECT_GT(all, of_moe);
    }
    Recompute whole = Recompute::full();
    const int64_t least = peak(whole);
    whole.kept_attention = true;
    const int64_t attention =
        in_arena(kTokens * args.n_heads * args.v_head_dim) + in_arena(kTokens * args.n_heads);
    EXPECT_EQ(peak(whole) - least, 9 * attention);
  }
}

}  // namespace
}  // namespace nereus
