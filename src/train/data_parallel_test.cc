// Training on ranks that divide the batch and the state, against one rank with all of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "base/philox.h"
#include "comm/thread_ranks.h"
#include "parallel/mesh.h"
#include "test/test_tensor.h"
#include "train/optimizer.h"

namespace nereus {
namespace {

constexpr int64_t kRows = 8, kSequence = 12, kSteps = 10;  // rows of the global batch
constexpr int kVocabulary = 37;

// Eight blocks, eight experts, everything the family has; balancing on.
ModelArgs model() {
  ModelArgs a;
  a.max_seq_len = kSequence;
  a.vocab_size = kVocabulary;
  a.dim = 24;
  a.inter_dim = 40;
  a.moe_inter_dim = 16;
  a.n_layers = 8;
  a.n_dense_layers = 1;
  a.n_heads = 2;
  a.q_lora_rank = 12;
  a.kv_lora_rank = 8;
  a.qk_nope_head_dim = 8;
  a.qk_rope_head_dim = 4;
  a.v_head_dim = 8;
  a.moe = {.num_experts = 8,
           .num_shared_experts = 1,
           .top_k = 2,
           .score_func = ScoreFunction::sigmoid,
           .route_norm = true,
           .route_scale = 2.5,
           .score_before_experts = false};
  return a;
}

struct Outcome {
  std::vector<double> losses, norms;
  // By parameter, row by row of dim 0, expert biases included; from all ranks.
  std::map<std::string, std::map<int64_t, std::vector<double>>> weights;
  std::vector<std::vector<std::byte>> masters;  // of each rank, as they are
};

void append(const TensorView& view, std::vector<double>& out) {
  if (view.rank() > 1) {
    for (int64_t i = 0; i < view.dim(0); ++i) append(view[i], out);
    return;
  }
  for (int64_t i = 0; i < view.dim(0); ++i) out.push_back(static_cast<double>(view.as<float>()[i]));
}

// What one rank does; collects into `run` under `mutex`.
void train(const RankGroups& groups, int rank, int ranks, int microbatches, DType compute,
           Outcome& run, std::mutex& mutex) {
  Stream stream(Device::cpu(), &test::pool());
  const int64_t rows = kRows / ranks / microbatches;
  Engine engine(
      model(), stream,
      {.compute = compute, .rows = rows, .sequence = kSequence, .recompute = {}, .groups = groups});
  engine.store().initialize(stream, 3);
  Optimizer optimizer(stream, engine, {});
  std::vector<double> losses, norms;
  for (int64_t step = 1; step <= kSteps; ++step) {
    const int64_t tokens = kRows * kSequence;
    std::vector<int32_t> ids, labels;
    for (int64_t i = 0; i < tokens; ++i) {
      const auto at = static_cast<uint64_t>(step * tokens + i);
      ids.push_back(static_cast<int32_t>(philox(11, at).v[0] % kVocabulary));
      labels.push_back(static_cast<int32_t>(philox(12, at).v[0] % kVocabulary));
    }
    std::vector<HostMicrobatch> host;
    const auto each = static_cast<size_t>(rows * kSequence);
    for (int m = 0; m < microbatches; ++m) {
      const size_t first = static_cast<size_t>(rank * microbatches + m) * each;
      host.push_back({.ids = std::span(ids).subspan(first, each),
                      .labels = std::span(labels).subspan(first, each)});
    }
    engine.reset_expert_load();
    engine.executor().run(sequential_schedule(microbatches), host, 1 / static_cast<float>(tokens),
                          optimizer.loss(), [&] { optimizer.update(step, 2.2e-4); });
    const Optimizer::Result result = optimizer.read();
    losses.push_back(static_cast<double>(result.loss));
    norms.push_back(static_cast<double>(result.grad_norm));
  }
  const std::lock_guard lock(mutex);
  if (run.losses.empty()) {
    run.losses = losses;
    run.norms = norms;
  }
  EXPECT_EQ(run.losses, losses) << "every rank has the loss";
  EXPECT_EQ(run.norms, norms);
  for (const NamedView& w : engine.weights()) {
    for (int64_t i = 0; i < w.view.dim(0); ++i) {
      std::vector<double> row;
      append(w.view[i], row);
      const auto [at, fresh] = run.weights[w.name].insert({w.origin[0] + i, row});
      if (!fresh) {
        EXPECT_EQ(at->second, row) << w.name << ": replicas differ";
      }
    }
  }
  const TensorView masters = engine.store().masters();
  run.masters[static_cast<size_t>(rank)].assign(masters.data, masters.data + masters.bytes());
}

Outcome train(const MeshDegrees& degrees, int ranks, int microbatches = 1,
              DType compute = DType::f32) {
  Outcome run;
  run.masters.resize(static_cast<size_t>(ranks));
  std::mutex mutex;
  const Mesh mesh(degrees, ranks);
  run_thread_ranks(ranks, {.timeout = std::chrono::seconds(120)}, [&](Communicator& world) {
    const auto group = [&](MeshGroup g) {
      return world.split(name_of(g), mesh.index(g, world.rank()), world.rank());
    };
    const auto shard = group(MeshGroup::dp_shard_cp), replicate = group(MeshGroup::dp_replicate);
    train({.shard = shard.get(), .expert_shard = shard.get(), .replicate = replicate.get()}, world.rank(), ranks, microbatches,
          compute, run, mutex);
  });
  return run;
}

Outcome one_rank(DType compute = DType::f32) {
  Outcome run;
  run.masters.resize(1);
  std::mutex mutex;
  train({}, 0, 1, 1, compute, run, mutex);
  return run;
}

void expect_equal(const Outcome& a, const Outcome& one, double relative, double absolute) {
  for (size_t s = 0; s < one.losses.size(); ++s) {
    EXPECT_NEAR(a.losses[s], one.losses[s], relative * one.losses[s]) << "step " << s + 1;
    EXPECT_NEAR(a.norms[s], one.norms[s], relative * one.norms[s]) << "step " << s + 1;
  }
  ASSERT_EQ(a.weights.size(), one.weights.size());
  for (const auto& [name, rows] : one.weights) {
    const auto& mine = a.weights.at(name);
    ASSERT_EQ(mine.size(), rows.size()) << name;
    double worst = 0;
    for (const auto& [i, row] : rows)
      for (size_t d = 0; d < row.size(); ++d)
        worst = std::max(worst, std::abs(mine.at(i)[d] - row[d]));
    EXPECT_LT(worst, absolute) << name;
  }
}

TEST(DataParallel, TenStepsOnSeveralRanksAreThoseOfOne) {
  const Outcome one = one_rank();
  EXPECT_LT(one.losses.back(), one.losses.front());
  struct Layout {
    MeshDegrees degrees;
    int ranks, microbatches;
  };
  for (const Layout& l :
       {Layout{{.dp_shard = 2}, 2, 1}, Layout{{.dp_shard = 2}, 2, 2}, Layout{{.dp_shard = 4}, 4, 1},
        Layout{{.dp_shard = 8}, 8, 1}, Layout{{.dp_replicate = 2, .dp_shard = 2}, 4, 1},
        Layout{{.dp_replicate = 4, .dp_shard = 1}, 4, 1}}) {
    const Outcome run = train(l.degrees, l.ranks, l.microbatches);
    SCOPED_TRACE(Mesh(l.degrees, l.ranks).to_string());
    expect_equal(run, one, 1e-5, 2e-5);
    // Replicas hold the same bits.
    const int shards = static_cast<int>(l.degrees.dp_shard);
    for (int r = shards; r < l.ranks; ++r)
      EXPECT_EQ(run.masters[static_cast<size_t>(r)], run.masters[static_cast<size_t>(r % shards)]);
  }
}

TEST(DataParallel, ALayoutRepeatsItselfBitForBit) {
  const MeshDegrees hsdp{.dp_replicate = 2, .dp_shard = 2};
  const Outcome a = train(hsdp, 4), b = train(hsdp, 4);
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.norms, b.norms);
  EXPECT_EQ(a.masters, b.masters);
}

TEST(DataParallel, BFloat16CopiesAreGatheredFromShards) {
  // bf16 sums of other rows in another order: the first loss is the same function of the same bits.
  const Outcome one = one_rank(DType::bf16), two = train({.dp_shard = 2}, 2, 1, DType::bf16);
  EXPECT_NEAR(two.losses[0], one.losses[0], 1e-6);
  expect_equal(two, one, 2e-2, 5e-3);
}

}  // namespace
}  // namespace nereus
