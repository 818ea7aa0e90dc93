#include "pipeline/executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <mutex>
#include <set>

#include "base/error.h"
#include "comm/thread_ranks.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using Kind = Action::Kind;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;
using Log = std::vector<std::string>;
using Values = std::array<double, 3>;  // w, u, v

constexpr int64_t kTokens = 4;
constexpr float kLossScale = 0.5f;

// A stage that can be reckoned by hand. Its edges have two tensors, a f32 [T] and b bf16 [T, 2]:
//
//   a'_t = w a_t + b_t0 + b_t1     b'_tj = b_tj + u     a_t = id_t and b_tj = id_t mod 3 at first
//   loss += loss_scale v sum_t label_t (a'_t + b'_t0 + b'_t1), by the last stage
//
// As in a real stage each pass makes a gradient: forward v's (on the last stage), dgrad u's, wgrad
// w's; dgrad and wgrad need what forward left in their arenas. All numbers below are small integers
// and halves, which f32 and bf16 hold exactly.
//
// The first id of a microbatch is its number. A pass is logged as 2F1 is printed, with a + when it
// adds to gradients.
class ToyStage final : public PipelineStage {
 public:
  ToyStage(int stage, int stages, ParameterStore& store, TensorHandle weights, Log& log)
      : stage_(stage), store_(store), weights_(weights), log_(log), buckets_{stage} {
    const std::vector<TensorSpec> edge = {{"a", DType::f32, {kTokens}},
                                          {"b", DType::bf16, {kTokens, 2}}};
    if (stage > 0) input_ = edge;
    if (stage + 1 < stages) output_ = edge;
  }

  struct Saved final : PipelineStage::Saved {
    TensorView number, a;  // f32 [1] for dgrad; f32 [T] for wgrad
    TensorView dloss;      // f32 [T], of the last stage
    ConstTensorView da;    // f32 [T], of the output: from dgrad to wgrad
  };

  const std::vector<TensorSpec>& input_edge() const override { return input_; }
  const std::vector<TensorSpec>& output_edge() const override { return output_; }
  const std::vector<int>& buckets() const override { return buckets_; }
  std::unique_ptr<PipelineStage::Saved> make_saved() const override {
    auto saved = std::make_unique<Saved>();
    saved->input_gradient.resize(input_.size());
    return saved;
  }

  void forward(Context& ctx, const Microbatch& mb, std::span<const TensorView> input,
               std::span<const TensorView> output, TensorView loss,
               PipelineStage::Saved& saved) const override {
    auto& s = static_cast<Saved&>(saved);
    litter(ctx);
    s.number = ctx.saved_for_dgrad.take(DType::f32, {1}, "number");
    s.a = ctx.saved_for_wgrad.take(DType::f32, {kTokens}, "a");
    const bool last = output_.empty();
    const TensorView a = last ? ctx.scratch.take(DType::f32, {kTokens}, "a'") : output[0],
                     b = last ? ctx.scratch.take(DType::bf16, {kTokens, 2}, "b'") : output[1];
    s.dloss = ctx.saved_for_wgrad.take(DType::f32, {kTokens}, "dloss");
    if (ctx.stream.on_meta()) return;
    ASSERT_EQ(input.size(), input_.size());
    ASSERT_EQ(output.size(), output_.size());
    write(ctx, mb.training ? "F" : "f", mb);
    const auto [w, u, v] = weights();
    s.number.as<float>()[0] = static_cast<float>(mb.ids.as<int32_t>()[0]);
    double sum = 0;
    for (int64_t t = 0; t < kTokens; ++t) {
      const double id = mb.ids.as<int32_t>()[t], label = mb.labels.as<int32_t>()[t];
      const double at = input.empty() ? id : get(input[0], t);
      double y = w * at, total = 0;
      for (int64_t j = 0; j < 2; ++j) {
        const double bt = input.empty() ? std::fmod(id, 3) : get(input[1], 2 * t + j);
        y += bt;
        b.as<bf16>()[2 * t + j] = bf16(static_cast<float>(bt + u));
        total += bt + u;
      }
      s.a.as<float>()[t] = static_cast<float>(at);
      a.as<float>()[t] = static_cast<float>(y);
      s.dloss.as<float>()[t] = static_cast<float>(mb.loss_scale * v * label);
      sum += mb.loss_scale * label * (y + total);
    }
    if (!output_.empty()) return;
    loss.as<float>()[0] += static_cast<float>(v * sum);
    if (mb.training) add(ctx, 2, sum);
  }

  void backward(Context& ctx, const Microbatch& mb, std::span<const TensorView> gradient,
                PipelineStage::Saved& saved) const override {
    write(ctx, "B", mb);
    dgrad(ctx, ctx.scratch, mb, gradient, static_cast<Saved&>(saved));
    wgrad(ctx, static_cast<Saved&>(saved));
  }
  void backward_input(Context& ctx, const Microbatch& mb, std::span<const TensorView> gradient,
                      PipelineStage::Saved& saved) const override {
    write(ctx, "I", mb);
    dgrad(ctx, ctx.saved_for_wgrad, mb, gradient, static_cast<Saved&>(saved));
  }
  void backward_weight(Context& ctx, const Microbatch& mb,
                       PipelineStage::Saved& saved) const override {
    write(ctx, "W", mb);
    wgrad(ctx, static_cast<Saved&>(saved));
  }

 private:
  static double get(ConstTensorView x, int64_t i) {
    return static_cast<double>(x.dtype == DType::bf16 ? static_cast<float>(x.as<bf16>()[i])
                                                      : x.as<float>()[i]);
  }

  // What lies in scratch is nobody else's.
  static void litter(Context& ctx) {
    const TensorView litter = ctx.scratch.take(DType::f32, {kTokens}, "litter");
    if (ctx.stream.on_meta()) return;
    for (int64_t i = 0; i < kTokens; ++i) litter.as<float>()[i] = std::nanf("");
  }

  void dgrad(Context& ctx, Arena& arena, const Microbatch& mb, std::span<const TensorView> gradient,
             Saved& s) const {
    litter(ctx);
    TensorView da, db;
    if (!input_.empty()) {
      da = arena.take(DType::f32, {kTokens}, "da");
      db = arena.take(DType::bf16, {kTokens, 2}, "db");
      s.input_gradient = {da, db};
    }
    s.da = output_.empty() ? s.dloss : gradient[0];
    if (ctx.stream.on_meta()) return;
    ASSERT_EQ(gradient.size(), output_.size());
    EXPECT_EQ(get(s.number, 0), mb.ids.as<int32_t>()[0]) << "another microbatch's memory";
    double du = 0;
    for (int64_t t = 0; t < kTokens; ++t) {
      const double dat = get(s.da, t);
      for (int64_t j = 0; j < 2; ++j) {
        const double dbt = output_.empty() ? dat : get(gradient[1], 2 * t + j);
        du += dbt;
        if (db) db.as<bf16>()[2 * t + j] = bf16(static_cast<float>(dat + dbt));
      }
      if (da) da.as<float>()[t] = static_cast<float>(weights()[0] * dat);
    }
    add(ctx, 1, du);
  }

  void wgrad(Context& ctx, const Saved& s) const {
    litter(ctx);
    if (ctx.stream.on_meta()) return;
    double dw = 0;
    for (int64_t t = 0; t < kTokens; ++t) dw += get(s.da, t) * get(s.a, t);
    add(ctx, 0, dw);
  }

  Values weights() const {
    const ConstTensorView w = store_.weight(weights_).view;
    return {get(w, 0), get(w, 1), get(w, 2)};
  }
  void add(const Context& ctx, int64_t i, double value) const {
    float& g = store_.gradient(weights_).as<float>()[i];
    g = static_cast<float>(value) + (ctx.accumulate ? g : 0.0f);
  }
  void write(const Context& ctx, const char* pass, const Microbatch& mb) const {
    if (ctx.stream.on_meta()) return;
    log_.push_back(std::to_string(stage_) + pass + std::to_string(mb.ids.as<int32_t>()[0]) +
                   (ctx.accumulate ? "+" : ""));
  }

  int stage_;
  ParameterStore& store_;
  TensorHandle weights_;
  Log& log_;
  std::vector<int> buckets_;
  std::vector<TensorSpec> input_, output_;
};

Values weights_of(int stage) {
  return {stage % 3 == 1 ? -1.0 : 1.0, stage % 2 == 0 ? 1.0 : -2.0, 2.0};
}

// Tokens of microbatch m in one of the steps.
struct Tokens {
  Tokens(int step, int m) {
    for (int t = 0; t < kTokens; ++t) {
      ids.push_back(t == 0 ? m : (step * 7 + m * 5 + t * 3) % 8);
      labels.push_back((step + m + t) % 3);
    }
  }
  HostMicrobatch host() const { return {.ids = ids, .labels = labels}; }
  std::vector<int32_t> ids, labels;
};

struct Outcome {
  double loss = 0;
  std::vector<Values> gradients;  // by stage
};

// The formulas on top, of one microbatch.
void reckon(const Tokens& tokens, int stages, Outcome& out) {
  out.gradients.resize(static_cast<size_t>(stages));
  for (size_t t = 0; t < kTokens; ++t) {
    const double id = tokens.ids[t], label = tokens.labels[t];
    std::vector<double> a = {id}, b = {static_cast<double>(tokens.ids[t] % 3)};
    for (int s = 0; s < stages; ++s) {
      a.push_back(weights_of(s)[0] * a.back() + 2 * b.back());
      b.push_back(b.back() + weights_of(s)[1]);
    }
    const double v = weights_of(stages - 1)[2],
                 sum = kLossScale * label * (a.back() + 2 * b.back());
    out.loss += v * sum;
    out.gradients.back()[2] += sum;
    double da = kLossScale * v * label, db = da;  // b's columns are equal
    for (int s = stages; s-- > 0;) {
      Values& g = out.gradients[static_cast<size_t>(s)];
      g[0] += da * a[static_cast<size_t>(s)];
      g[1] += 2 * db;
      db += da;
      da *= weights_of(s)[0];
    }
  }
}

// One rank's toy stages with all that they need.
class ToyRank {
 public:
  ToyRank(const Schedule& schedule, int rank, Device device, Communicator* pp)
      : stream_(device, &test::pool()), all_(schedule.stages()), mine_(schedule.stages_of(rank)) {
    std::vector<StoredTensor> tensors;
    for (const int s : mine_)
      tensors.push_back({.name = std::to_string(s), .shape = {3}, .bucket = s, .parts = {}});
    store_ = std::make_unique<ParameterStore>(device, tensors,
                                              ParameterStore::Options{.moments = false});
    std::vector<const PipelineStage*> stages(static_cast<size_t>(schedule.stages()));
    for (size_t i = 0; i < mine_.size(); ++i) {
      stages_.push_back(std::make_unique<ToyStage>(mine_[i], schedule.stages(), *store_,
                                                   static_cast<TensorHandle>(i), log));
      stages[static_cast<size_t>(mine_[i])] = stages_.back().get();
      if (stream_.on_meta()) continue;
      for (size_t j = 0; j < 3; ++j)
        store_->master(static_cast<TensorHandle>(i)).as<float>()[j] =
            static_cast<float>(weights_of(mine_[i])[j]);
    }
    executor = std::make_unique<Executor>(
        stream_, stages, *store_,
        Executor::Options{.shape = {.rows = 1, .sequence = kTokens},
                          .poison_released = true,
                          .actions = schedule.actions[static_cast<size_t>(rank)],
                          .rank_of_stage = schedule.rank_of_stage,
                          .pp = pp,
                          .message_bytes = kTokens * 4});
  }

  // Adds this rank's part to `out`.
  void run(int step, int microbatches, Outcome& out) {
    std::vector<Tokens> tokens;
    std::vector<HostMicrobatch> host;
    for (int m = 0; m < microbatches; ++m) tokens.emplace_back(step, m);
    for (const Tokens& t : tokens) host.push_back(t.host());
    for (size_t i = 0; i < mine_.size(); ++i)
      for (int64_t j = 0; j < 3; ++j) gradient(i)[j] = std::nanf("");
    const test::Tensor loss = test::Tensor(Device::cpu(), DType::f32, {1}).poison();
    executor->run(host, kLossScale, loss, [this] { log.push_back("UPDATE"); });
    out.loss += loss[0];
    out.gradients.resize(static_cast<size_t>(all_));
    for (size_t i = 0; i < mine_.size(); ++i)
      for (size_t j = 0; j < 3; ++j)
        out.gradients[static_cast<size_t>(mine_[i])][j] = static_cast<double>(gradient(i)[j]);
  }

  Log log;
  std::unique_ptr<Executor> executor;

 private:
  float* gradient(size_t i) { return store_->gradient(static_cast<TensorHandle>(i)).as<float>(); }

  Stream stream_;
  int all_;  // stages of the pipeline
  std::vector<int> mine_;
  std::unique_ptr<ParameterStore> store_;
  std::vector<std::unique_ptr<ToyStage>> stages_;
};

void ranks(const Schedule& schedule, const std::function<void(ToyRank&, int)>& work) {
  run_thread_ranks(schedule.ranks(), {.timeout = std::chrono::seconds(60)}, [&](Communicator& pp) {
    ToyRank rank(schedule, pp.rank(), Device::cpu(), pp.size() > 1 ? &pp : nullptr);
    work(rank, pp.rank());
  });
}

// What a rank's list asks for. A stage whose dgrad and wgrad are apart somewhere has them so
// everywhere.
Log passes_of(const std::vector<Action>& actions) {
  std::set<int> apart;
  for (const Action& a : actions)
    if (a.kind == Kind::backward_input) apart.insert(a.stage);
  Log out;
  const auto add = [&](int stage, const char* pass, int microbatch) {
    out.push_back(std::to_string(stage) + pass + std::to_string(microbatch));
  };
  for (const Action& a : actions) {
    if (a.has_forward()) add(a.stage, "F", a.microbatch);
    const int stage = a.dgrad_stage(), m = a.dgrad_microbatch();
    if (a.has_dgrad() && a.has_wgrad() && apart.count(stage) == 0) {
      add(stage, "B", m);
    } else {
      if (a.has_dgrad()) add(stage, "I", m);
      if (a.has_wgrad()) add(stage, "W", m);
    }
    if (a.kind == Kind::update) out.push_back("UPDATE");
  }
  return out;
}

// Two steps of every schedule: what one leaves (a slot that was not released, a receive that was
// not made) the second would meet.
TEST(Executor, EveryScheduleGivesTheLossAndTheGradientsOfTheFormulas) {
  struct Case {
    std::string name;
    int v;
  };
  const std::vector<Case> cases = {{"GPipe", 1},
                                   {"1F1B", 1},
                                   {"LoopedBFS", 2},
                                   {"LoopedBFS", 3},
                                   {"Interleaved1F1B", 2},
                                   {"Interleaved1F1B", 3},
                                   {"InterleavedZeroBubble", 2},
                                   {"ZBVZeroBubble", 2},
                                   {"DualPipeV", 2}};
  std::set<std::string> names;
  for (const Case& c : cases) names.insert(c.name);
  EXPECT_THAT(schedule_names(), testing::UnorderedElementsAreArray(names));
  for (const Case& c : cases)
    for (const int p : {1, 2, 3})
      for (const int m : {1, 2, 3, 6, 7}) {
        const std::string& name = c.name;
        if (name.starts_with("Interleaved") && m % std::max(1, m / p) != 0) continue;
        if (name == "DualPipeV" && m < 2 * p) continue;
        SCOPED_TRACE(testing::Message() << name << ", " << p << " x " << c.v << ", " << m);
        const Schedule schedule = make_schedule(name, p, c.v, m);
        constexpr int kSteps = 2;
        std::array<Outcome, kSteps> got;
        std::mutex mutex;
        ranks(schedule, [&](ToyRank& rank, int r) {
          Log want;
          for (int step = 0; step < kSteps; ++step) {
            Outcome mine;
            rank.run(step, m, mine);
            const Log passes = passes_of(schedule.actions[static_cast<size_t>(r)]);
            want.insert(want.end(), passes.begin(), passes.end());
            const std::lock_guard lock(mutex);
            Outcome& all = got[static_cast<size_t>(step)];
            all.loss += mine.loss;
            all.gradients.resize(static_cast<size_t>(schedule.stages()));
            for (const int s : schedule.stages_of(r))
              all.gradients[static_cast<size_t>(s)] = mine.gradients[static_cast<size_t>(s)];
          }
          Log log = rank.log;
          for (std::string& pass : log) std::erase(pass, '+');
          EXPECT_EQ(log, want) << "rank " << r;
          const Executor::Memory& memory = rank.executor->memory();
          EXPECT_EQ(rank.executor->peak_bytes(), memory.in_flight + memory.pass);
        });
        for (int step = 0; step < kSteps; ++step) {
          Outcome want;
          for (int i = 0; i < m; ++i) reckon(Tokens(step, i), schedule.stages(), want);
          const Outcome& have = got[static_cast<size_t>(step)];
          EXPECT_EQ(have.loss, want.loss);
          for (int s = 0; s < schedule.stages(); ++s) {
            Values g = have.gradients[static_cast<size_t>(s)];
            if (s + 1 < schedule.stages()) {
              EXPECT_TRUE(std::isnan(g[2])) << "only the last stage has v";
              g[2] = 0;
            }
            EXPECT_EQ(g, want.gradients[static_cast<size_t>(s)]) << "stage " << s;
          }
        }
      }
}

TEST(Executor, APassAddsToTheGradientsThatTheSamePassWroteInThisStep) {
  Outcome out;
  ToyRank one(sequential_schedule(2), 0, Device::cpu(), nullptr);
  for (int step = 0; step < 2; ++step) {
    one.log.clear();
    one.run(step, 2, out);
    EXPECT_THAT(one.log, ElementsAre("0F0", "0B0", "0F1+", "0B1+", "UPDATE"));
  }
  // dgrad and wgrad apart: each writes first when it comes first, on each stage.
  ToyRank two(make_schedule("InterleavedZeroBubble", 1, 2, 2), 0, Device::cpu(), nullptr);
  two.run(0, 2, out);
  EXPECT_THAT(two.log, ElementsAre("0F0", "1F0", "1I0", "1W0", "0F1+", "0I0", "0W0", "1F1+", "1I1+",
                                   "1W1+", "0I1+", "0W1+", "UPDATE"));
}

TEST(Executor, EvaluationAddsTheLossOfEachMicrobatchAndLeavesNothingBehind) {
  for (const char* name : {"Interleaved1F1B", "ZBVZeroBubble"}) {
    const Schedule schedule = make_schedule(name, 2, 2, 4);
    std::array<double, 2> losses{};  // by rank
    std::array<Log, 2> logs;
    Outcome want;
    reckon(Tokens(0, 0), 4, want);
    reckon(Tokens(5, 3), 4, want);
    ranks(schedule, [&](ToyRank& rank, int r) {
      Outcome ignored;
      const test::Tensor loss = test::Tensor(Device::cpu(), DType::f32, {1}).fill(0);
      rank.executor->evaluate(Tokens(0, 0).host(), kLossScale, loss);
      rank.run(1, 4, ignored);
      rank.log.clear();
      rank.executor->evaluate(Tokens(5, 3).host(), kLossScale, loss);
      losses[static_cast<size_t>(r)] = loss[0];
      logs[static_cast<size_t>(r)] = rank.log;
      rank.run(1, 4, ignored);
    });
    EXPECT_EQ(losses[0] + losses[1], want.loss);
    std::vector<Log> forwards(2);
    for (int s = 0; s < 4; ++s)
      forwards[static_cast<size_t>(schedule.rank_of_stage[static_cast<size_t>(s)])].push_back(
          std::to_string(s) + "f3");
    for (size_t r = 0; r < 2; ++r) {
      for (std::string& pass : logs[r]) std::erase(pass, '+');
      EXPECT_EQ(logs[r], forwards[r]);
    }
  }
}

// It uses the places that the plan gave, with released memory poisoned, and adds the second.
TEST(Executor, ARehearsalRunsTwoMicrobatchesInTurnAndLeavesNothingBehind) {
  for (const char* name : {"1F1B", "Interleaved1F1B", "ZBVZeroBubble", "DualPipeV"}) {
    SCOPED_TRACE(name);
    const Schedule schedule = make_schedule(name, 2, std::string(name) == "1F1B" ? 1 : 2, 4);
    std::array<Outcome, 2> plain, after;
    std::array<Log, 2> logs;
    const auto both = [&](std::array<Outcome, 2>& out, bool rehearse) {
      ranks(schedule, [&](ToyRank& rank, int r) {
        const auto i = static_cast<size_t>(r);
        if (rehearse) {
          std::vector<Tokens> tokens;
          for (int m = 0; m < 4; ++m) tokens.emplace_back(0, m);
          std::vector<HostMicrobatch> host;
          for (const Tokens& t : tokens) host.push_back(t.host());
          const test::Tensor loss = test::Tensor(Device::cpu(), DType::f32, {1}).poison();
          rank.executor->rehearse(host, kLossScale, loss);
          logs[i] = rank.log;
        }
        rank.run(0, 4, out[i]);
      });
    };
    both(plain, false);
    both(after, true);
    for (size_t r = 0; r < 2; ++r) {
      EXPECT_EQ(after[r].loss, plain[r].loss);
      // As text, since a number that no stage uses is NaN.
      EXPECT_EQ(testing::PrintToString(after[r].gradients),
                testing::PrintToString(plain[r].gradients));
      const auto passes = [&](const char* which) {
        return std::count_if(logs[r].begin(), logs[r].end(), [&](const std::string& pass) {
          return pass.find(which) != std::string::npos;
        });
      };
      const auto stages = static_cast<int64_t>(schedule.stages_of(static_cast<int>(r)).size());
      EXPECT_EQ(passes("F0"), stages);
      EXPECT_EQ(passes("F1"), stages);
      EXPECT_GE(passes("+"), stages);  // the second adds
      EXPECT_EQ(passes("F2") + passes("F3"), 0);
    }
  }
}

// In units of the arenas' 256 bytes a microbatch keeps its number for dgrad, a and dloss for wgrad;
// litter is scratch, and so are dx in B and a', b' of the last stage. Edges have a, rounded up, and
// b: two units of memory.
TEST(Executor, MemoryIsMadeForTheMicrobatchesInFlight) {
  constexpr int64_t kUnit = 256, kEdge = kUnit + kTokens * 2 * 2, kIds = 4 * 4 * kTokens;
  const auto memory = [](const Schedule& s, int rank) {
    return ToyRank(s, rank, Device::meta(), nullptr).executor->memory();
  };
  for (const int m : {2, 5}) {
    const Schedule gpipe = make_schedule("GPipe", 2, 1, m);
    for (int r = 0; r < 2; ++r) {
      const Executor::Memory got = memory(gpipe, r);
      EXPECT_EQ(got.saved, 3 * kUnit);
      EXPECT_EQ(got.pending, 0);
      EXPECT_EQ(got.pass, (r == 0 ? 2 : 4) * kUnit);
      // Rank 0 gets one gradient at a time, rank 1 keeps the activations that it got.
      EXPECT_EQ(got.in_flight, (r == 0 ? 3 * m + 2 : 5 * m) * kUnit);
      EXPECT_EQ(got.sent, r == 0 ? 2 * kUnit : kEdge);
      EXPECT_EQ(got.tokens, m * kIds);
      EXPECT_EQ(got.total, got.in_flight + got.pass + got.sent + got.tokens);
    }
  }
  // dgrad and wgrad apart: dx is kept from the one to the other. Nothing is sent.
  const Executor::Memory v = memory(make_schedule("ZBVZeroBubble", 1, 2, 3), 0);
  EXPECT_EQ(v.saved, (3 + 3) * kUnit);
  EXPECT_EQ(v.pending, 2 * kUnit);
  EXPECT_EQ(v.sent, 0);
  // One microbatch at a time: what is kept and the scratch share their memory.
  const Executor::Memory one = memory(sequential_schedule(3), 0);
  EXPECT_EQ(one.pass, (3 + 3) * kUnit);
  EXPECT_EQ(one.total, one.pass + kIds);
}

TEST(Executor, WhatDoesNotFitIsRefused) {
  const auto message = [](const char* what) { return ThrowsMessage<Error>(HasSubstr(what)); };
  ToyRank rank(sequential_schedule(2), 0, Device::cpu(), nullptr);
  Outcome out;
  EXPECT_THAT([&] { rank.run(0, 3, out); }, message("3 microbatches for a step of 2"));

  // Two stages of one rank that do not agree about their edge: the first takes itself for the last.
  Stream stream(Device::cpu(), &test::pool());
  ParameterStore store(Device::cpu(),
                       {{.name = "0", .shape = {3}, .bucket = 0, .parts = {}},
                        {.name = "1", .shape = {3}, .bucket = 1, .parts = {}}},
                       {.moments = false});
  Log log;
  const ToyStage first(0, 1, store, 0, log), second(1, 2, store, 1, log);
  const Schedule schedule = make_schedule("LoopedBFS", 1, 2, 1);
  EXPECT_THAT(
      [&] {
        Executor(stream, {&first, &second}, store,
                 {.shape = {.rows = 1, .sequence = kTokens},
                  .actions = schedule.actions[0],
                  .rank_of_stage = schedule.rank_of_stage});
      },
      message("stage 0 makes an edge of 0 tensors, and stage 1 reads one of 2"));
}

}  // namespace
}  // namespace nereus
