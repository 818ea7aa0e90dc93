// Options composed at random: models, layouts and states of optimizers drawn from one number, and
// held against one rank; the same models on one rank, held against the formulas in double.
//
// Draw n is the same everywhere. NEREUS_COMPOSE=n runs draw n alone, NEREUS_COMPOSE=n:count the
// draws from n on, with a line for each (scripts/compose.sh runs thousands).
//
// How far something above tolerance may be off, one rank tells: as far as weights that are 1e-7
// apart bring it. What is beyond that is run again with such weights on both sides: where rounding
// decided which expert a token goes to, some of them agree, and it is a tie. A fault does not go
// away.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/philox.h"
#include "engine/compose_formula_test.h"
#include "engine/compose_judge_test.h"
#include "engine/compose_run_test.h"
#include "engine/step_runner.h"
#include "test/test_tensor.h"

namespace nereus::compose {
namespace {

constexpr uint64_t kFirst = Numbers::kFirst;
constexpr int kCount = Numbers::kCount;

TEST(Compose, LayoutsComputeWhatOneRankDoes) {
  int64_t reruns = 0;
  for_every_draw([&](const Draw& draw, int noise) {
    const Outcome layout = run_layout(draw, noise);
    reruns += layout.reruns;
    const Outcome one = run_one_rank(draw, noise);
    std::vector<std::string> wrong = differences(draw, layout, one);
    if (wrong.empty()) return wrong;
    std::vector<Outcome> apart;
    for (int other = 1; other <= 3; ++other) apart.push_back(run_one_rank(draw, 10 + other));
    return differences(draw, layout, one, apart);
  });
  if (!numbers().asked) {
    EXPECT_GT(reruns, 0);
  }
}

// With bf16 copies, as states that are split or in host memory need.
TEST(Compose, WhereStatesAreKeptChangesNoBit) {
  for_every_draw([&](const Draw& draw, int noise) -> std::vector<std::string> {
    if (!draw.split_masters && draw.offload == Offload::none) return {};
    return bits_apart(run_layout(draw, noise, DType::bf16, States::as_drawn),
                      run_layout(draw, noise, DType::bf16, States::whole));
  });
}

// Logits of a microbatch and experts by layer, token and choice.
class Seen final : public Observer {
 public:
  void see(Stream& stream, const char* what, int64_t, ConstTensorView view) override {
    const std::string name = what;
    const auto n = static_cast<size_t>(view.count());
    if (name == "router.topk_ids") {
      experts.resize(experts.size() + n);
      copy_to_host(stream, &experts[experts.size() - n], view);
    } else if (name == "logits") {
      std::vector<float> values(n);
      copy_to_host(stream, values.data(), view);
      stream.synchronize();
      logits.insert(logits.end(), values.begin(), values.end());
    }
    stream.synchronize();
  }
  std::vector<int32_t> experts;
  test::Values logits;
};

// One rank's model of a draw, on a device: its weights, in f32, in double too.
class OneRank {
 public:
  OneRank(const Draw& draw, int noise, Device device)
      : draw_(draw),
        stream_(test::stream(device)),
        engine_(draw.args, stream_,
                {.rows = kRows,
                 .sequence = draw.sequence,
                 .eos_id = static_cast<int32_t>(draw.args.eos_id),
                 .recompute = draw.recompute,
                 .moments = false,
                 .poison_released = true}),
        tokens_(draw, 0, kRows) {
    engine_.store().initialize(stream_, 1);
    for (const NamedView& w : engine_.weights()) {
      test::Values& values = weights_[w.name];
      values.resize(static_cast<size_t>(w.view.count()));
      each_element(stream_, w, [&](int64_t i, float& x) {
        x = initial_value(draw_, w.name, i, w.view.shape, noise);
        values[static_cast<size_t>(i)] = double{x};
      });
    }
    engine_.store().refresh_copies(stream_);
    stream_.synchronize();
  }

  std::vector<std::string> compare() {
    std::vector<std::string> wrong;
    const HostMicrobatch batch{.ids = tokens_.ids, .labels = tokens_.labels};
    const auto count = static_cast<double>(tokens_.counted);
    StepRunner runner(stream_, engine_, {.tokens = count});
    Seen seen;
    const test::Tensor loss = test::Tensor(stream_.device(), DType::f32, {1}).fill(0);
    engine_.executor().evaluate(batch, static_cast<float>(count > 0 ? 1 / count : 0), loss, &seen);
    stream_.synchronize();
    const Formula formula(draw_.args, static_cast<size_t>(draw_.sequence),
                          static_cast<int32_t>(draw_.args.eos_id));
    std::vector<int32_t> experts;
    const Formula::Result want = formula.run(weights_, tokens_.ids, tokens_.labels, experts);
    if (experts != seen.experts) return {"other experts than the formula's"};
    if (!(std::abs(loss[0] - want.loss) <= 2e-6 * want.loss))
      wrong.push_back(fmt::format("loss {:.9g}, the formula's is {:.9g}", loss[0], want.loss));
    const double apart = test::normwise_error(seen.logits, want.logits);
    if (!(apart <= 1e-5)) {
      double spread = 0;
      for (Weights w : weights_apart())
        spread = std::max(
            spread, test::normwise_error(
                        formula.run(w, tokens_.ids, tokens_.labels, experts).logits, want.logits));
      if (!(apart <= kSpreads * spread))
        wrong.push_back(fmt::format("logits: {:.1e} from the formula's", apart));
    }

    runner.compute_gradients(std::span(&batch, 1));
    double squares = 0;
    for (const NamedView& g : engine_.store().gradient_views())
      each_element(stream_, g, [&](int64_t, float& x) { squares += double{x} * double{x}; });
    for (const NamedView& g : engine_.store().gradient_views())
      check_gradient(g, std::sqrt(squares), formula, experts, wrong);
    return wrong;
  }

 private:
  static constexpr int64_t kRows = 2;
  static constexpr double kSpreads = 8;

  // Some models are ill-conditioned: where weights that are 1e-7 apart change a number of the
  // formula's, rounding in f32 may change the program's as much.
  std::vector<Weights> weights_apart() const {
    std::vector<Weights> out(3, weights_);
    for (size_t k = 0; k < out.size(); ++k)
      for (auto& [name, values] : out[k])
        for (size_t i = 0; i < values.size(); ++i)
          values[i] *= 1 + 1e-7 * (philox_u32(k, hash_name(name), i) % 2 == 0 ? -1 : 1);
    return out;
  }

  // Against the difference of the formula's losses along a random direction, plus or minus one for
  // each element, which sees whatever is missing of a gradient or too much.
  // `all`: the length of the whole model's gradient, of which rounding leaves some where nothing
  // should be.
  void check_gradient(const NamedView& g, double all, const Formula& formula,
                      std::vector<int32_t>& experts, std::vector<std::string>& wrong) {
    test::Values direction(weights_.at(g.name).size());
    const double unit = 1 / std::sqrt(static_cast<double>(direction.size()));
    for (size_t i = 0; i < direction.size(); ++i)
      direction[i] = philox_u32(draw_.number, hash_name(g.name), i) % 2 == 0 ? -unit : unit;
    double along = 0, squares = 0;
    each_element(stream_, g, [&](int64_t i, float& x) {
      along += double{x} * direction[static_cast<size_t>(i)];
      squares += double{x} * double{x};
    });
    constexpr double kStep = 1e-6;
    const auto derivative = [&](Weights& weights) {
      test::Values& w = weights.at(g.name);
      const test::Values here = w;
      const auto loss = [&](double s) {
        for (size_t i = 0; i < w.size(); ++i) w[i] = here[i] + s * direction[i];
        return formula.run(weights, tokens_.ids, tokens_.labels, experts).loss;
      };
      const double difference = loss(kStep) - loss(-kStep);
      w = here;
      return difference / (2 * kStep);
    };
    const double want = derivative(weights_);
    const double bound = (1e-4 * std::sqrt(squares) + 1e-6 * all) * unit + 1e-9;
    if (std::abs(along - want) <= bound) return;
    double spread = 0;
    for (Weights w : weights_apart()) spread = std::max(spread, std::abs(derivative(w) - want));
    if (std::abs(along - want) <= bound + kSpreads * spread) return;
    wrong.push_back(fmt::format(
        "gradient of {}: {:.9g} along a direction, the formula's is {:.9g} (length {:.3g})", g.name,
        along, want, std::sqrt(squares)));
  }

  const Draw& draw_;
  Stream stream_;
  Engine engine_;
  Tokens tokens_;
  Weights weights_;
};

TEST(Compose, OneRankComputesWhatTheFormulasDo) {
  for (const Device device : test::devices()) {
    SCOPED_TRACE(device == Device::cpu() ? "CPU" : "GPU");
    for_every_draw(
        [&](const Draw& draw, int noise) { return OneRank(draw, noise, device).compare(); });
  }
}

// What the comparison is worth: the last weights carry every gradient, so that a change of one
// tensor that is a thousandth too large is above tolerance, and so is a tensor that another rank
// did not get.
TEST(Compose, AChangeThatIsAThousandthTooLargeIsSeen) {
  int seen = 0, all = 0;
  for (uint64_t number = kFirst; number < kFirst + 10; ++number) {
    const Draw draw(number);
    const Outcome one = run_one_rank(draw, 0);
    EXPECT_THAT(differences(draw, one, one), testing::IsEmpty());
    for (const auto& [name, before] : one.before) {
      Outcome other = one;
      std::vector<double>& after = other.after[name];
      for (size_t i = 0; i < after.size(); ++i) after[i] += 0.001 * (after[i] - before[i]);
      if (after == one.after.at(name)) continue;  // no expert of it had a token
      if (draw.moments == DType::f32) {
        ++all;
        seen += !differences(draw, other, one).empty();
      }
      other.after[name] = before;
      EXPECT_THAT(differences(draw, other, one), testing::SizeIs(1)) << number << " " << name;
    }
  }
  EXPECT_GT(all, 100);
  EXPECT_GE(seen, 0.9 * all) << seen << " of " << all << " tensors";
}

// Tokens of the data-parallel ranks that have a label, by step and rank.
std::vector<std::vector<int64_t>> labels_by_rank(const Draw& draw) {
  std::vector<std::vector<int64_t>> out;
  for (int64_t step = 0; step < draw.steps; ++step) {
    const Tokens all(draw, step, draw.global_rows());
    std::vector<int64_t>& ranks = out.emplace_back(static_cast<size_t>(draw.dp()));
    const size_t each = all.labels.size() / ranks.size();
    for (size_t i = 0; i < all.labels.size(); ++i) ranks[i / each] += all.labels[i] >= 0;
  }
  return out;
}

// Ranks that divide by their own labels make the mean of their means.
TEST(Compose, AMeanOfRanksMeansIsSeen) {
  const Quiet quiet;
  int planted = 0;
  for (uint64_t number = kFirst; number < kFirst + kCount && planted < 5; ++number) {
    const Draw draw(number);
    bool apart = false;
    for (const auto& ranks : labels_by_rank(draw))
      apart = apart || std::count(ranks.begin(), ranks.end(), ranks[0]) < draw.dp();
    if (!apart || draw.ranks > 8) continue;
    ++planted;
    EXPECT_THAT(
        differences(draw, run_layout(draw, 0, DType::f32, States::whole, Fault::mean_of_means),
                    run_one_rank(draw, 0)),
        testing::Contains(testing::HasSubstr("loss of step")))
        << draw.to_string();
  }
  EXPECT_EQ(planted, 5);
}

// Not of a weight or an expert bias, on any layout, although Adam has moments by then.
TEST(Compose, AStepWithoutLabelsChangesNoBit) {
  const Quiet quiet;
  int layouts = 0;
  for (uint64_t number = kFirst; number < kFirst + kCount; ++number) {
    Draw draw(number);
    if (draw.ignored != Ignored::step || draw.ranks > 8 || draw.global_rows() > 24) continue;
    ++layouts;
    const Outcome both = run_layout(draw, 0);
    EXPECT_EQ(both.losses[1], 0);
    EXPECT_EQ(both.norms[1], 0);
    draw.steps = 1;
    const Outcome first = run_layout(draw, 0);
    EXPECT_GT(first.norms[0], 0);
    EXPECT_TRUE(both.after == first.after) << draw.to_string();
  }
  EXPECT_GE(layouts, 3);
}

// What the ordinary run is worth: its draws have every option.
TEST(Compose, TheOrdinaryDrawsHaveEverything) {
  std::set<std::string> schedules;
  std::map<std::string, int> with;
  int most = 0;
  for (uint64_t number = kFirst; number < kFirst + kCount; ++number) {
    const Draw d(number);
    most = std::max(most, d.ranks);
    if (d.degrees.pp > 1) schedules.insert(d.pipeline.schedule.name);
    const auto count = [&](const char* what, bool has) { with[what] += has; };
    count("dp_replicate", d.degrees.dp_replicate > 1);
    count("dp_shard", d.degrees.dp_shard > 1);
    count("cp", d.degrees.cp > 1);
    count("tp", d.degrees.tp > 1);
    count("ep", d.degrees.ep > 1);
    count("etp", d.degrees.ep > 1 && d.degrees.etp > 1);
    count("ep over tp", d.degrees.ep > 1 && d.degrees.etp < d.degrees.tp);
    count("huggingface", d.args.numerics.family == NumericsFamily::huggingface);
    count("groups", d.args.n_limited_groups < d.args.n_expert_groups);
    count("softmax", d.args.moe.score_func == ScoreFunction::softmax);
    count("YaRN", d.args.hf_yarn);
    count("documents", d.documents());
    count("no q_lora", d.args.q_lora_rank == 0);
    count("q_lora", d.args.q_lora_rank > 0);
    for (const int64_t n : {0, 1, 2})
      count(n == 0   ? "nothing shared"
            : n == 1 ? "one shared"
                     : "two shared",
            d.args.moe.num_shared_experts == n);
    count("one expert", d.args.moe.num_experts == 1);
    count("16 experts and more", d.args.moe.num_experts >= 16);
    count("all experts", d.args.moe.top_k == d.args.moe.num_experts);
    count("sigmoid", d.args.moe.score_func == ScoreFunction::sigmoid);
    count("weights normalised", d.args.moe.route_norm);
    count("weights as they are", !d.args.moe.route_norm);
    count("before experts", d.args.moe.score_before_experts);
    count("after experts", !d.args.moe.score_before_experts);
    count("forced routing", d.args.moe.force_load_balance);
    count("some labels ignored", d.ignored == Ignored::some);
    count("most labels ignored", d.ignored == Ignored::most);
    count("a step without labels", d.ignored == Ignored::step);
    bool none = false;  // of a rank in a step that has labels
    for (const auto& of_step : labels_by_rank(d))
      none = none || (std::count(of_step.begin(), of_step.end(), 0) > 0 &&
                      std::count(of_step.begin(), of_step.end(), 0) < d.dp());
    count("a rank without labels", none);
    count("accumulation", d.degrees.pp == 1 && d.microbatches > 1);
    count("reshard", d.reshard);
    count("no reshard", d.ranks > 1 && !d.reshard);
    count("parts of blocks recomputed",
          std::any_of(d.recompute.begin(), d.recompute.end(), [](const Recompute& r) {
            return !r.block && (r.norms || r.mla_up || r.assembly || r.swiglu || r.dispatch);
          }));
    count("whole blocks recomputed", std::any_of(d.recompute.begin(), d.recompute.end(),
                                                 [](const Recompute& r) { return r.block; }));
    const bool exchanged = d.degrees.ep > 1;
    count("host_counts", exchanged && d.dispatcher == ExpertDispatcher::host_counts);
    count("device", exchanged && d.dispatcher == ExpertDispatcher::device);
    count("tight capacity", exchanged && d.capacity_factor == 0.3);
    count("sockets", d.sockets);
    count("threads", d.ranks > 1 && !d.sockets);
    count("bf16 moments", d.moments == DType::bf16);
    count("split", d.split_masters);
    count("offload", d.offload != Offload::none);
    count("uneven stages",
          std::any_of(d.pipeline.parts.begin(), d.pipeline.parts.end(), [&](const StagePart& p) {
            const StagePart& first = d.pipeline.parts[0];
            return p.end_block - p.first_block != first.end_block - first.first_block;
          }));
    count("empty stage",
          std::any_of(d.pipeline.parts.begin(), d.pipeline.parts.end(), [](const StagePart& p) {
            return p.first_block == p.end_block && !p.embedding && !p.head;
          }));
  }
  EXPECT_EQ(schedules.size(), schedule_names().size());
  EXPECT_GE(most, 16);
  for (const auto& [what, count] : with) EXPECT_GE(count, 2) << what;
}

}  // namespace
}  // namespace nereus::compose
