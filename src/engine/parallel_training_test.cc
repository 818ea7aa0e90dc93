// Training on many ranks against one rank, for every way to divide the work: the same losses,
// norms and weights, from the same bits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "base/check.h"
#include "base/philox.h"
#include "comm/mpi_ranks.h"
#include "comm/thread_ranks.h"
#include "engine/step_runner.h"
#include "ops/elementwise.h"
#include "parallel/rank_world.h"
#include "pipeline/stage_split.h"
#include "test/small_models.h"
#include "test/started_by_mpi.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

constexpr int64_t kRows = 8, kSequence = 8, kSteps = 10;  // rows of the global batch
constexpr int kVocabulary = 40;
constexpr uint64_t kSeed = 32;

// Eight blocks, eight experts, everything the family has; balancing on.
ModelArgs model() { return test::eight_blocks(); }

struct Layout {
  MeshDegrees degrees;
  int ranks = 1;
  std::string schedule = "1F1B";  // with pp
  int stages_per_rank = 1;
  int rows = 1;  // of a microbatch
  Recompute recompute = {};
  DType compute = DType::f32;
  bool documents = false;  // attention within documents
  DType moments = DType::f32;
  bool reshard = false;  // weights and gradients of a block at a time
  bool split = false;    // masters
  bool reduce_each_microbatch = false;
  int pending_wgrads = -1;
  ExpertDispatcher dispatcher = ExpertDispatcher::automatic;
  Offload offload = Offload::none;
};
std::string name_of(const Layout& l) {
  std::string text = Mesh(l.degrees, l.ranks).to_string();
  if (l.reshard) text += ", resharded";
  if (l.reduce_each_microbatch) text += ", reduced each microbatch";
  if (l.pending_wgrads > 0) text += fmt::format(", {} pending wgrads", l.pending_wgrads);
  if (l.dispatcher != ExpertDispatcher::automatic)
    text += fmt::format(", dispatcher {}", word(l.dispatcher));
  if (l.degrees.pp > 1) text += fmt::format(", {} x {}", l.schedule, l.stages_per_rank);
  return fmt::format("{}, microbatches of {}", text, l.rows);
}

struct Outcome {
  std::vector<double> losses, norms;
  // By parameter and element; of all ranks, expert biases included.
  std::map<std::string, std::map<int64_t, double>> weights;
  std::vector<std::vector<std::byte>> masters;  // of each rank, as they are
  double margin = 1;  // of the closest decision of a router, one rank only
};

// The elements of a part of a parameter, by their index in the parameter.
void collect(const TensorView& view, const NamedView& of, int dim, int64_t first,
             std::map<int64_t, double>& out) {
  const Shape& whole = of.whole.rank() > 0 ? of.whole : of.view.shape;
  int64_t step = 1;
  for (int d = dim + 1; d < whole.rank(); ++d) step *= whole[d];
  if (of.origin.rank() > 0) first += of.origin[dim] * step;
  for (int64_t i = 0; i < view.dim(0); ++i) {
    if (dim + 1 < whole.rank()) {
      collect(view[i], of, dim + 1, first + i * step, out);
      continue;
    }
    const auto value = static_cast<double>(view.as<float>()[i]);
    const auto [at, fresh] = out.insert({first + i, value});
    if (!fresh) {
      EXPECT_EQ(at->second, value) << of.name << ": replicas differ";
    }
  }
}

// How close the last chosen expert came to the first that was not.
class Margin final : public Observer {
 public:
  explicit Margin(const Engine& engine) : engine_(engine) {}
  void see(Stream&, const char* what, int64_t layer, ConstTensorView view) override {
    if (std::string(what) != "router.logits") return;
    for (const Engine::LayerLoad& l : engine_.expert_load()) {
      if (l.layer != layer) continue;
      for (int64_t t = 0; t < view.dim(0); ++t) {
        std::vector<double> scores;
        for (int64_t e = 0; e < view.dim(1); ++e)
          scores.push_back(1 / (1 + std::exp(-double{view[t].as<float>()[e]})) +
                           double{l.bias.as<float>()[e]});
        std::sort(scores.rbegin(), scores.rend());
        least = std::min(least, scores[1] - scores[2]);
      }
    }
  }
  double least = 1;

 private:
  const Engine& engine_;
};

Pipeline pipeline(const Layout& l, int microbatches) {
  const auto p = static_cast<int>(l.degrees.pp);
  if (p == 1)
    return {.parts = {{.first_block = 0, .end_block = model().n_layers}},
            .schedule = sequential_schedule(microbatches)};
  return {
      .parts = split_layers(model().n_layers, p * l.stages_per_rank, 1, 1),
      .schedule = make_schedule(l.schedule, p, l.stages_per_rank, microbatches, l.pending_wgrads)};
}

// What one rank does; collects into `run` under `mutex`.
void train(const Layout& l, const RankWorld* world, Outcome& run, std::mutex& mutex) {
  Stream stream(Device::cpu(), &test::pool());
  const auto at = [world](MeshGroup g) { return world == nullptr ? 0 : world->position(g); };
  const int64_t mine = kRows / (world == nullptr ? 1 : world->size(MeshGroup::dp));
  const int microbatches = static_cast<int>(mine / l.rows);
  const Pipeline pipe = pipeline(l, microbatches);
  ModelArgs args = model();
  if (l.documents) args.attn_mask_type = MaskType::block_causal;
  Engine engine(args, stream,
                {.compute = l.compute,
                 .rows = l.rows,
                 .sequence = kSequence,
                 .eos_id = 5,
                 .recompute = std::vector<Recompute>(8, l.recompute),
                 .moment_type = l.moments,
                 .split_masters = l.split,
                 .offload = l.offload,
                 .offload_chunk = 1000,
                 .poison_released = true,
                 .world = world,
                 .dispatcher = l.dispatcher,
                 .reshard = l.reshard,
                 .reduce_each_microbatch = l.reduce_each_microbatch,
                 .pipeline = &pipe});
  engine.store().initialize(stream, kSeed);
  // Routers that are sure of their choice: rounding must not change it.
  for (const NamedView& v : engine.store().master_views())
    if (v.name.find("router.gate") != std::string::npos)
      for (int64_t r = 0; r < v.view.dim(0); ++r)
        for (int64_t d = 0; d < v.view.dim(1); ++d) v.view[r].as<float>()[d] *= 60;
  engine.store().refresh_copies(stream);
  StepRunner runner(stream, engine, {.tokens = kRows * kSequence});
  Margin margin(engine);
  if (world == nullptr) engine.executor().set_observer(&margin);
  std::vector<double> losses, norms;
  for (int64_t step = 1; step <= kSteps; ++step) {
    const int64_t tokens = kRows * kSequence;
    std::vector<int32_t> ids, labels;
    for (int64_t i = 0; i < tokens; ++i) {
      const auto n = static_cast<uint64_t>(step * tokens + i);
      ids.push_back(static_cast<int32_t>(philox(11, n).v[0] % kVocabulary));
      labels.push_back(static_cast<int32_t>(philox(12, n).v[0] % kVocabulary));
    }
    std::vector<HostMicrobatch> host;
    const auto each = static_cast<size_t>(l.rows * kSequence);
    for (int m = 0; m < microbatches; ++m) {
      const size_t first = static_cast<size_t>(at(MeshGroup::dp) * microbatches + m) * each;
      host.push_back({.ids = std::span(ids).subspan(first, each),
                      .labels = std::span(labels).subspan(first, each)});
    }
    runner.enqueue({.number = step, .lr = 2.2e-4, .microbatches = host});
    const StepResult result = runner.confirm(step);
    losses.push_back(static_cast<double>(result.loss));
    norms.push_back(static_cast<double>(result.grad_norm));
  }
  engine.store().assemble_masters(stream);
  const std::lock_guard lock(mutex);
  if (run.losses.empty()) {
    run.losses = losses;
    run.norms = norms;
  }
  EXPECT_EQ(run.losses, losses) << "every rank has the loss";
  EXPECT_EQ(run.norms, norms);
  for (const NamedView& w : engine.weights()) collect(w.view, w, 0, 0, run.weights[w.name]);
  const TensorView masters = engine.store().masters();
  run.masters[static_cast<size_t>(world == nullptr ? 0 : world->rank())].assign(
      masters.data, masters.data + masters.bytes());
  run.margin = margin.least;
}

Outcome train(const Layout& l) {
  Outcome run;
  run.masters.resize(static_cast<size_t>(l.ranks));
  std::mutex mutex;
  if (l.ranks == 1) {
    train(l, nullptr, run, mutex);
    return run;
  }
  const Mesh mesh(l.degrees, l.ranks);
  check_fits(mesh, model(), kSequence);
  run_thread_ranks(l.ranks, {.timeout = std::chrono::seconds(120)}, [&](Communicator& world) {
    const RankWorld mine(mesh, world);
    train(l, &mine, run, mutex);
  });
  return run;
}

const Outcome& one_rank() {
  static const Outcome run = train({});
  return run;
}

void expect_equal(const Outcome& a, const Outcome& one, double relative, double absolute) {
  for (size_t s = 0; s < one.losses.size(); ++s) {
    EXPECT_NEAR(a.losses[s], one.losses[s], relative * one.losses[s]) << "step " << s + 1;
    EXPECT_NEAR(a.norms[s], one.norms[s], relative * one.norms[s]) << "step " << s + 1;
  }
  ASSERT_EQ(a.weights.size(), one.weights.size());
  for (const auto& [name, elements] : one.weights) {
    const auto& mine = a.weights.at(name);
    ASSERT_EQ(mine.size(), elements.size()) << name;
    double worst = 0;
    for (const auto& [i, value] : elements) worst = std::max(worst, std::abs(mine.at(i) - value));
    EXPECT_LT(worst, absolute) << name;
  }
}

class ParallelTraining : public testing::TestWithParam<Layout> {};
void PrintTo(const Layout& l, std::ostream* s) { *s << name_of(l); }

TEST_P(ParallelTraining, TenStepsAreThoseOfOneRank) {
  const Layout& l = GetParam();
  expect_equal(train(l), one_rank(), 1e-5, 2e-5);
}

Layout resharded(Layout l) {
  l.reshard = true;
  return l;
}

Layout reduced_each_microbatch(Layout l) {
  l.reduce_each_microbatch = true;
  return l;
}
Layout with_pending(int wgrads, Layout l) {
  l.pending_wgrads = wgrads;
  return l;
}

// Rows straight into other ranks' memory.
Layout on_device(Layout l) {
  l.dispatcher = ExpertDispatcher::device;
  return l;
}

Layout pp(int ranks, const char* schedule, int stages_per_rank) {
  return {.degrees = {.pp = ranks},
          .ranks = ranks,
          .schedule = schedule,
          .stages_per_rank = stages_per_rank};
}

INSTANTIATE_TEST_SUITE_P(Data, ParallelTraining,
                         testing::Values(Layout{{.dp_shard = 2}, 2},
                                         Layout{{.dp_shard = 2}, 2, "", 1, 4},
                                         Layout{{.dp_shard = 4}, 4}, Layout{{.dp_shard = 8}, 8},
                                         Layout{{.dp_replicate = 2, .dp_shard = 2}, 4},
                                         Layout{{.dp_replicate = 4, .dp_shard = 1}, 4}));
INSTANTIATE_TEST_SUITE_P(
    Resharded, ParallelTraining,
    testing::Values(resharded({}), resharded({{.dp_shard = 2}, 2, "", 1, 4}),
                    resharded({{.dp_shard = 4}, 4}), resharded({{.dp_shard = 8}, 8}),
                    resharded({{.dp_replicate = 2, .dp_shard = 2}, 4, "", 1, 1}),
                    resharded({{.dp_shard = 4, .ep = 4}, 4}),
                    resharded({{.dp_shard = 4, .ep = 2}, 4, "", 1, 1, Recompute::full()}),
                    resharded({{.dp_shard = 2, .tp = 2, .ep = 4, .etp = 1}, 4, "", 1, 2}),
                    resharded({{.pp = 2}, 2, "GPipe"}),
                    resharded({{.dp_shard = 2, .pp = 2}, 4, "DualPipeV", 2}),
                    resharded({{.dp_shard = 2, .pp = 2}, 4, "ZBVZeroBubble", 2})));
INSTANTIATE_TEST_SUITE_P(Tensor, ParallelTraining,
                         testing::Values(Layout{{.tp = 2}, 2, "", 1, 4},
                                         Layout{{.tp = 4}, 4, "", 1, 8},
                                         Layout{{.tp = 2}, 2, "", 1, 4, Recompute::selective()},
                                         Layout{{.tp = 2}, 2, "", 1, 4, Recompute::full()}));
INSTANTIATE_TEST_SUITE_P(
    Context, ParallelTraining,
    testing::Values(Layout{{.cp = 2}, 2, "", 1, 4}, Layout{{.cp = 4}, 4, "", 1, 2},
                    Layout{{.cp = 2, .tp = 2}, 4, "", 1, 4},
                    Layout{{.dp_shard = 2, .cp = 2, .ep = 4}, 4, "", 1, 2, Recompute::full()},
                    Layout{{.cp = 2, .pp = 2}, 4, "ZBVZeroBubble", 2, 1, Recompute::selective()}));
INSTANTIATE_TEST_SUITE_P(
    Experts, ParallelTraining,
    testing::Values(Layout{{.dp_shard = 4, .ep = 2}, 4}, Layout{{.dp_shard = 4, .ep = 4}, 4},
                    Layout{{.dp_shard = 8, .ep = 2}, 8}, Layout{{.dp_shard = 8, .ep = 4}, 8},
                    Layout{{.dp_shard = 4, .ep = 4}, 4, "", 1, 2, Recompute::full()},
                    Layout{{.dp_shard = 2, .tp = 2, .ep = 2, .etp = 2}, 4},
                    Layout{{.dp_shard = 2, .tp = 2, .ep = 2, .etp = 1}, 4},
                    Layout{{.dp_shard = 2, .tp = 2, .ep = 4, .etp = 1}, 4}));
INSTANTIATE_TEST_SUITE_P(
    ExpertsByDevice, ParallelTraining,
    testing::Values(on_device({{.dp_shard = 4, .ep = 2}, 4}),
                    on_device({{.dp_shard = 8, .ep = 4}, 8}),
                    on_device({{.dp_shard = 4, .ep = 4}, 4, "", 1, 2, Recompute::full()}),
                    on_device({{.dp_shard = 2, .tp = 2, .ep = 4, .etp = 1}, 4}),
                    on_device(resharded({{.dp_shard = 4, .ep = 2}, 4})),
                    on_device({{.dp_shard = 4, .pp = 2, .ep = 4}, 8, "1F1B"}),
                    on_device({{.dp_shard = 2, .pp = 2, .ep = 2}, 4, "ZBVZeroBubble", 2})));
INSTANTIATE_TEST_SUITE_P(Pipelines, ParallelTraining,
                         testing::Values(pp(2, "GPipe", 1), pp(2, "1F1B", 1),
                                         pp(2, "Interleaved1F1B", 2), pp(2, "LoopedBFS", 2),
                                         pp(2, "InterleavedZeroBubble", 2),
                                         pp(2, "ZBVZeroBubble", 2), pp(2, "DualPipeV", 2),
                                         pp(4, "GPipe", 1), pp(4, "1F1B", 1),
                                         pp(4, "Interleaved1F1B", 2), pp(4, "LoopedBFS", 2),
                                         pp(4, "InterleavedZeroBubble", 2),
                                         pp(4, "ZBVZeroBubble", 2), pp(4, "DualPipeV", 2)));
INSTANTIATE_TEST_SUITE_P(
    Mixtures, ParallelTraining,
    testing::Values(
        Layout{{.dp_shard = 4, .pp = 2, .ep = 4}, 8},
        Layout{{.dp_shard = 4, .tp = 2, .pp = 2, .ep = 8, .etp = 1}, 16, "Interleaved1F1B", 2},
        Layout{{.dp_replicate = 2, .dp_shard = 2, .tp = 2, .pp = 2, .ep = 4, .etp = 1}, 16},
        Layout{{.dp_shard = 2, .tp = 2, .pp = 2, .ep = 2, .etp = 2}, 8, "ZBVZeroBubble", 2},
        Layout{{.dp_replicate = 2, .dp_shard = 2, .ep = 2}, 4},
        Layout{{.dp_shard = 2, .tp = 4, .ep = 8, .etp = 1}, 8},
        Layout{{.dp_shard = 2, .tp = 4, .ep = 2, .etp = 4}, 8},
        Layout{{.dp_shard = 1, .tp = 4, .pp = 4}, 16, "InterleavedZeroBubble", 2},
        Layout{{.dp_shard = 4, .pp = 4, .ep = 2}, 16, "1F1B", 1, 1, Recompute::full()},
        Layout{{.dp_shard = 2, .pp = 2, .ep = 2}, 4, "DualPipeV", 2, 1, Recompute::selective()},
        Layout{{.dp_replicate = 2, .dp_shard = 4, .tp = 2, .pp = 2, .ep = 8, .etp = 1}, 32},
        Layout{{.dp_shard = 2, .cp = 2, .tp = 2, .pp = 2, .ep = 8, .etp = 1}, 16},
        reduced_each_microbatch({{.dp_shard = 2, .pp = 2, .ep = 2}, 4, "Interleaved1F1B", 2}),
        reduced_each_microbatch({{.dp_shard = 2, .pp = 2}, 4, "1F1B"}),
        with_pending(1, {{.dp_shard = 2, .pp = 2, .ep = 2}, 4, "InterleavedZeroBubble", 2}),
        Layout{{.dp_shard = 8, .cp = 2}, 16}, resharded({{.dp_shard = 8, .cp = 2, .ep = 2}, 16})));

TEST(ParallelTraining, RoutersAreSureOfTheirChoice) { EXPECT_GT(one_rank().margin, 1e-4); }

TEST(ParallelTraining, ALayoutRepeatsItselfBitForBitAndReplicasAreTheSame) {
  for (const Layout& l : {Layout{{.dp_replicate = 2, .dp_shard = 2}, 4},
                          Layout{{.dp_replicate = 2, .tp = 2, .pp = 2}, 8, "ZBVZeroBubble", 2}}) {
    const Outcome a = train(l), b = train(l);
    EXPECT_EQ(a.losses, b.losses);
    EXPECT_EQ(a.norms, b.norms);
    EXPECT_EQ(a.masters, b.masters);
    const Mesh mesh(l.degrees, l.ranks);
    for (int r = 0; r < l.ranks; ++r)
      EXPECT_EQ(a.masters[static_cast<size_t>(r)],
                a.masters[static_cast<size_t>(mesh.members(MeshGroup::dp_replicate, r)[0])]);
  }
}

// Under mpirun with four processes: the same layouts between processes.
TEST(ParallelTrainingByMpi, TenStepsOfFourProcessesAreThoseOfOneRank) {
  if (!has_mpi() || !test::started_by_mpi()) GTEST_SKIP() << "not started by mpirun";
  MpiSession session;
  for (const Layout& l : {resharded({{.dp_shard = 4, .ep = 2}, 4}),
                          Layout{{.dp_shard = 2, .tp = 2, .ep = 4, .etp = 1}, 4, "", 1, 2},
                          Layout{{.cp = 2, .pp = 2}, 4, "ZBVZeroBubble", 2},
                          Layout{{.dp_replicate = 2, .dp_shard = 2}, 4}}) {
    SCOPED_TRACE(name_of(l));
    const auto control = session.meet({.address = "127.0.0.1"});
    const auto whole = world_of(*control, std::chrono::seconds(200));
    const auto world = session.ranks(*whole);
    ASSERT_EQ(world->size(), 4);
    const RankWorld mine(Mesh(l.degrees, l.ranks), *world);
    Outcome run;
    run.masters.resize(4);
    std::mutex mutex;
    train(l, &mine, run, mutex);
    const Outcome& one = one_rank();
    for (size_t s = 0; s < one.losses.size(); ++s) {
      EXPECT_NEAR(run.losses[s], one.losses[s], 1e-5 * one.losses[s]) << "step " << s + 1;
      EXPECT_NEAR(run.norms[s], one.norms[s], 1e-5 * one.norms[s]) << "step " << s + 1;
    }
    for (const auto& [name, elements] : run.weights)  // this rank's
      for (const auto& [i, value] : elements)
        ASSERT_NEAR(value, one.weights.at(name).at(i), 2e-5) << name << " " << i;
    control->close();
  }
}

TEST(ParallelTraining, DocumentsMayCrossTheChunksOfASequence) {
  Layout alone, two{{.cp = 2}, 2, "", 1, 4};
  alone.documents = two.documents = true;
  const Outcome one = train(alone);
  EXPECT_NE(one.losses, one_rank().losses);
  expect_equal(train(two), one, 1e-5, 2e-5);
}

TEST(ParallelTraining, MomentsInBFloat16StayClose) {
  Layout alone, two{{.dp_shard = 2}, 2};
  alone.moments = two.moments = DType::bf16;
  const Outcome one = train(alone);
  EXPECT_NE(one.losses, one_rank().losses);
  expect_equal(one, one_rank(), 1e-3, 1e-3);
  expect_equal(train(two), one, 1e-4, 5e-4);
}

TEST(ParallelTraining, BFloat16CopiesAreGatheredFromShards) {
  // bf16 sums of other rows in another order: the first loss is the same function of the same bits.
  Layout alone, two{{.dp_shard = 2}, 2};
  alone.compute = two.compute = DType::bf16;
  const Outcome one = train(alone), run = train(two);
  EXPECT_NEAR(run.losses[0], one.losses[0], 1e-6);
  expect_equal(run, one, 2e-2, 5e-3);
}

// Where and in which parts states are kept changes no bit: not of a loss, not of a weight.
TEST(ParallelTraining, StatesInPartsAndInHostMemoryGiveTheSameBits) {
  Layout one, sharded{{.dp_shard = 2}, 2}, experts{{.dp_shard = 2, .tp = 2, .ep = 4, .etp = 1}, 4};
  for (Layout l : {one, sharded, resharded(experts)}) {
    for (const DType moments : {DType::f32, DType::bf16}) {
      if (moments == DType::bf16 && l.ranks > 2) continue;
      l.compute = DType::bf16;
      l.moments = moments;
      l.split = false;
      l.offload = Offload::none;
      const Outcome plain = train(l);
      for (const bool split : {false, true}) {
        for (const Offload offload : {Offload::none, Offload::moments, Offload::states}) {
          if (!split && offload == Offload::none) continue;
          SCOPED_TRACE(fmt::format("{}, moments {}, split {}, offload {}", name_of(l),
                                   name_of(moments), split, static_cast<int>(offload)));
          l.split = split;
          l.offload = offload;
          const Outcome run = train(l);
          EXPECT_EQ(run.losses, plain.losses);
          EXPECT_EQ(run.norms, plain.norms);
          EXPECT_EQ(run.weights, plain.weights);
          EXPECT_EQ(run.masters, plain.masters);
        }
      }
    }
  }
}

TEST(ParallelTraining, MomentsInHostMemoryServeF32Too) {
  Layout l;
  l.offload = Offload::moments;
  const Outcome run = train(l);
  EXPECT_EQ(run.losses, one_rank().losses);
  EXPECT_EQ(run.masters, one_rank().masters);
}

}  // namespace
}  // namespace nereus
