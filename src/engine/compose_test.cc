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

#include <cstdlib>
#include <set>

#include "base/check.h"
#include "base/log.h"
#include "base/philox.h"
#include "engine/compose_formula_test.h"
#include "engine/compose_run_test.h"
#include "engine/step_runner.h"
#include "test/test_tensor.h"

namespace nereus::compose {
namespace {

constexpr uint64_t kFirst = 1;
constexpr int kCount = 40, kRetries = 3;

struct Numbers {
  uint64_t first = kFirst;
  int count = kCount;
  bool asked = false;  // by the environment
};
Numbers numbers() {
  const char* const text = std::getenv("NEREUS_COMPOSE");
  if (text == nullptr) return {};
  char* end = nullptr;
  Numbers out{.first = std::strtoull(text, &end, 10), .count = 1, .asked = true};
  if (*end == ':') out.count = static_cast<int>(std::strtol(end + 1, &end, 10));
  NEREUS_CHECK(kConfig, *end == 0 && out.count > 0, "NEREUS_COMPOSE={}: NUMBER or NUMBER:COUNT",
               text);
  return out;
}

// What a draw's comparison came to: nothing, a tie, or what is wrong.
struct Verdict {
  std::vector<std::string> wrong;
  bool tie = false;
};
template <class Compare>  // of a noise, gives what differs
Verdict judge(const Compare& compare) {
  Verdict v{.wrong = compare(0)};
  for (int noise = 1; noise <= kRetries && !v.wrong.empty() && !v.tie; ++noise)
    v.tie = compare(noise).empty();
  if (v.tie) v.wrong.clear();
  return v;
}

// Steps that run again are part of the plan: no word of them.
struct Quiet {
  Quiet() { log::set_level(log::Level::error); }
  ~Quiet() { log::set_level(log::Level::info); }
};

// Runs `compare` for every number and reports what it finds. Draws that are ties are few.
template <class Compare>  // of a draw and a noise
void for_every_draw(const Compare& compare) {
  const Quiet quiet;
  const Numbers n = numbers();
  int ties = 0;
  for (uint64_t number = n.first; number < n.first + static_cast<uint64_t>(n.count); ++number) {
    const Draw draw(number);
    Verdict v;
    try {
      v = judge([&](int noise) { return compare(draw, noise); });
    } catch (const std::exception& e) {
      v.wrong = {e.what()};
    }
    ties += v.tie;
    const char* const word = v.wrong.empty() ? v.tie ? "tie  " : "equal" : "WRONG";
    if (n.asked) fmt::print("{} {} | {}\n", number, word, draw.to_string());
    if (!v.wrong.empty())
      ADD_FAILURE() << "draw " << number << " (NEREUS_COMPOSE=" << number
                    << " runs it alone): " << draw.to_string() << "\n  "
                    << fmt::format("{}", fmt::join(v.wrong, "\n  "));
  }
  EXPECT_LE(ties, 2 + n.count / 20);
  if (n.asked) fmt::print("{} draws, {} ties\n", n.count, ties);
}

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
    for (const Engine::LayerLoad& l : engine_.expert_load())
      if (l.bias) set(expert_bias_name(l.layer), l.bias, l.bias, noise);
    for (const NamedView& w : engine_.store().master_views())
      set(w.name, w.view, engine_.store().masters(), noise);
    engine_.store().refresh_copies(stream_);
    stream_.synchronize();
  }

  std::vector<std::string> compare() {
    std::vector<std::string> wrong;
    const HostMicrobatch batch{.ids = tokens_.ids, .labels = tokens_.labels};
    const auto count = static_cast<double>(tokens_.ids.size());
    StepRunner runner(stream_, engine_, {.tokens = count});
    Seen seen;
    const test::Tensor loss = test::Tensor(stream_.device(), DType::f32, {1}).fill(0);
    engine_.executor().evaluate(batch, static_cast<float>(1 / count), loss, &seen);
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
    const std::vector<float> gradients = host(engine_.store().gradients());
    double squares = 0;
    for (const float x : gradients) squares += double{x} * double{x};
    for (const NamedView& g : engine_.store().gradient_views())
      check_gradient(g, gradients, std::sqrt(squares), formula, experts, wrong);
    return wrong;
  }

 private:
  static constexpr int64_t kRows = 2;
  static constexpr double kSpreads = 8;

  std::vector<float> host(const TensorView& flat) {
    std::vector<float> out(static_cast<size_t>(flat.count()));
    copy_to_host(stream_, out.data(), flat);
    stream_.synchronize();
    return out;
  }
  // A view into the device's `flat`, of its copy.
  static NamedView in_copy(NamedView v, const TensorView& flat, std::vector<float>& copy) {
    v.view.data = reinterpret_cast<std::byte*>(copy.data()) + (v.view.data - flat.data);
    return v;
  }

  void set(const std::string& name, const TensorView& view, const TensorView& flat, int noise) {
    std::vector<float> copy = host(flat);
    test::Values& values = weights_[name];
    values.resize(static_cast<size_t>(view.count()));
    each_element(in_copy({.name = name, .view = view}, flat, copy), [&](int64_t i, float& x) {
      x = initial_value(draw_, name, i, view.shape, noise);
      values[static_cast<size_t>(i)] = double{x};
    });
    copy_to_device(stream_, flat, copy.data());
    stream_.synchronize();
  }

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
  void check_gradient(const NamedView& g, std::vector<float> gradients, double all,
                      const Formula& formula, std::vector<int32_t>& experts,
                      std::vector<std::string>& wrong) {
    test::Values direction(weights_.at(g.name).size());
    const double unit = 1 / std::sqrt(static_cast<double>(direction.size()));
    for (size_t i = 0; i < direction.size(); ++i)
      direction[i] = philox_u32(draw_.number, hash_name(g.name), i) % 2 == 0 ? -unit : unit;
    double along = 0, squares = 0;
    each_element(in_copy(g, engine_.store().gradients(), gradients), [&](int64_t i, float& x) {
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
    count("nothing shared", d.args.moe.num_shared_experts == 0);
    count("all experts", d.args.moe.top_k == d.args.moe.num_experts);
    count("forced routing", d.args.moe.force_load_balance);
    count("reshard", d.reshard);
    count("bf16 moments", d.moments == DType::bf16);
    count("split", d.split_masters);
    count("offload", d.offload != Offload::none);
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
