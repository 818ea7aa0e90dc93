#include "parallel/mesh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <set>

#include "base/error.h"

namespace nereus {
namespace {

using testing::HasSubstr;

constexpr MeshGroup kGroups[] = {MeshGroup::pp, MeshGroup::dp_replicate, MeshGroup::dp_shard,
                                 MeshGroup::cp, MeshGroup::tp,           MeshGroup::cp_tp,
                                 MeshGroup::dp, MeshGroup::dp_cp,        MeshGroup::dp_shard_cp,
                                 MeshGroup::ep, MeshGroup::expert_shard, MeshGroup::expert_tp};

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kConfig);
    return e.what();
  }
  return "no error";
}
std::string refusal(const MeshDegrees& d, int64_t world) {
  return message_of([&] { Mesh(d, world); });
}

// Every layout of `world` ranks whose degrees multiply to it, valid or not for EP.
void each_layout(int64_t world, const std::function<void(const MeshDegrees&)>& f) {
  const auto divisors = [](int64_t n) {
    std::vector<int64_t> out;
    for (int64_t i = 1; i <= n; ++i)
      if (n % i == 0) out.push_back(i);
    return out;
  };
  for (const int64_t pp : divisors(world))
    for (const int64_t replicate : divisors(world / pp))
      for (const int64_t shard : divisors(world / pp / replicate))
        for (const int64_t cp : divisors(world / pp / replicate / shard)) {
          const int64_t tp = world / pp / replicate / shard / cp;
          for (int64_t ep = 1; ep <= shard * cp * tp; ++ep)
            for (const int64_t etp : std::set<int64_t>{1, tp})
              f({.dp_replicate = replicate,
                 .dp_shard = shard,
                 .cp = cp,
                 .tp = tp,
                 .pp = pp,
                 .ep = ep,
                 .etp = etp});
        }
}

// TorchTitan's asserts, in its order.
bool torchtitan_allows(const MeshDegrees& d) {
  if (d.ep == 1) return true;
  if (d.etp == d.tp) return d.ep % d.cp == 0 && (d.dp_shard * d.cp) % d.ep == 0;
  return d.ep % (d.cp * d.tp) == 0 && (d.dp_shard * d.cp * d.tp) % d.ep == 0;
}

// Are two ranks in the same group? By arithmetic on rank numbers, without axes or strides.
bool same_group(const MeshDegrees& d, MeshGroup group, int a, int b) {
  const int64_t stage = d.dp_replicate * d.dp_shard * d.cp * d.tp;  // ranks of a stage
  const int64_t replica = d.dp_shard * d.cp * d.tp;
  const auto both = [&](auto&& f) { return f(int64_t{a}) == f(int64_t{b}); };
  const bool same_stage = both([&](int64_t r) { return r / stage; });
  const bool same_replica = both([&](int64_t r) { return r / replica; });
  const bool same_tp = both([&](int64_t r) { return r % d.tp; });
  const bool same_cp = both([&](int64_t r) { return r / d.tp % d.cp; });
  const bool same_cp_tp = same_cp && same_tp;
  const bool etp_is_tp = d.etp == d.tp || d.ep == 1;
  // With etp 1 a run of ep ranks; with etp = tp the ranks of a run of ep * tp with the same tp.
  const int64_t run = d.ep == 1 ? 1 : etp_is_tp ? d.ep * d.tp : d.ep;
  const bool same_run = both([&](int64_t r) { return r / run; });
  switch (group) {
    case MeshGroup::pp:
      return both([&](int64_t r) { return r % stage; });
    case MeshGroup::dp_replicate:
      return same_stage && both([&](int64_t r) { return r % replica; });
    case MeshGroup::dp_shard:
      return same_replica && same_cp_tp;
    case MeshGroup::cp:
      return same_tp && both([&](int64_t r) { return r / (d.cp * d.tp); });
    case MeshGroup::tp:
      return both([&](int64_t r) { return r / d.tp; });
    case MeshGroup::cp_tp:
      return both([&](int64_t r) { return r / (d.cp * d.tp); });
    case MeshGroup::dp:
      return same_stage && same_cp_tp;
    case MeshGroup::dp_shard_cp:
      return same_replica && same_tp;
    case MeshGroup::dp_cp:
      return same_stage && same_tp;
    case MeshGroup::ep:
      return d.ep == 1 ? a == b : same_run && (!etp_is_tp || same_tp);
    case MeshGroup::expert_shard:
      if (d.ep == 1) return same_replica && same_tp;
      return same_replica && both([&](int64_t r) { return r % run; });
    case MeshGroup::expert_tp:
      return etp_is_tp ? both([&](int64_t r) { return r / d.tp; }) : a == b;
  }
  return false;
}

void check_groups(const Mesh& mesh) {
  const MeshDegrees& d = mesh.degrees();
  SCOPED_TRACE(mesh.to_string());
  const int world = mesh.world();
  for (const MeshGroup group : kGroups) {
    SCOPED_TRACE(name_of(group));
    const int size = mesh.size(group);
    ASSERT_EQ(world % size, 0);
    std::vector<int> seen(static_cast<size_t>(world / size));
    for (int r = 0; r < world; ++r) {
      ASSERT_LT(mesh.index(group, r), world / size);
      // Positions follow rank numbers: the how-manieth of its group among the ranks so far.
      ASSERT_EQ(mesh.position(group, r), seen[static_cast<size_t>(mesh.index(group, r))]++);
    }
    for (const int n : seen) ASSERT_EQ(n, size);
    for (int a = 0; a < world; a += std::max(1, world / 32))
      for (int b = 0; b < world; ++b)
        ASSERT_EQ(mesh.index(group, a) == mesh.index(group, b), same_group(d, group, a, b))
            << a << " " << b;
  }
  EXPECT_EQ(mesh.size(MeshGroup::ep), d.ep);
  EXPECT_EQ(mesh.size(MeshGroup::pp), d.pp);
  // Experts, their shards, their parts and their replicas use up a stage's ranks.
  EXPECT_EQ(mesh.size(MeshGroup::ep) * mesh.size(MeshGroup::expert_shard) *
                mesh.size(MeshGroup::expert_tp) * mesh.size(MeshGroup::dp_replicate),
            world / d.pp);
}

TEST(Mesh, EveryLayoutUpTo32RanksHasTheGroupsOfTorchTitan) {
  int layouts = 0;
  for (int64_t world = 1; world <= 32; ++world) {
    each_layout(world, [&](const MeshDegrees& d) {
      if (!torchtitan_allows(d)) {
        ASSERT_THAT(refusal(d, world), HasSubstr("expert_parallel_degree")) << world;
        return;
      }
      ++layouts;
      check_groups(Mesh(d, world));
    });
  }
  EXPECT_GT(layouts, 1000);
}

TEST(Mesh, LayoutsOf512RanksHaveTheGroupsOfTorchTitan) {
  for (const MeshDegrees& d :
       {MeshDegrees{}, MeshDegrees{.pp = 8, .ep = 32}, MeshDegrees{.pp = 8, .ep = 64},
        MeshDegrees{.dp_replicate = 2, .cp = 2, .tp = 4, .pp = 4, .ep = 16, .etp = 4},
        MeshDegrees{.dp_replicate = 2, .cp = 2, .tp = 4, .pp = 4, .ep = 16, .etp = 1},
        MeshDegrees{.tp = 8, .pp = 16, .ep = 8}})
    check_groups(Mesh(d, 512));
}

TEST(Mesh, TheRecipesLayoutsAreAsPublished) {
  struct Case {
    int64_t world, pp, ep, shard, experts_here, expert_shard;
  };
  for (const Case& c :
       {Case{512, 8, 32, 64, 8, 2}, Case{256, 8, 32, 32, 8, 1}, Case{512, 8, 64, 64, 4, 1},
        Case{1024, 8, 64, 128, 4, 2}, Case{256, 1, 64, 256, 4, 4}}) {
    const Mesh mesh({.pp = c.pp, .ep = c.ep}, c.world);
    EXPECT_EQ(mesh.degrees().dp_shard, c.shard);
    EXPECT_EQ(256 / mesh.size(MeshGroup::ep), c.experts_here);
    EXPECT_EQ(mesh.size(MeshGroup::expert_shard), c.expert_shard);
    // An EP group is a run of consecutive ranks; a stage is too.
    const std::vector<int> group = mesh.members(MeshGroup::ep, 0);
    EXPECT_EQ(group.back(), c.ep - 1);
    EXPECT_EQ(mesh.position(MeshGroup::pp, static_cast<int>(c.world) - 1), c.pp - 1);
    EXPECT_EQ(mesh.position(MeshGroup::pp, static_cast<int>(c.world / c.pp)), c.pp > 1 ? 1 : 0);
  }
}

TEST(Mesh, SaysItsLayout) {
  EXPECT_EQ(Mesh({}, 1).to_string(), "1 rank");
  EXPECT_EQ(Mesh({}, 4).to_string(), "dp_shard 4");
  EXPECT_EQ(Mesh({.tp = 2, .pp = 2, .ep = 8, .etp = 1}, 16).to_string(),
            "pp 2 x dp_shard 4 x tp 2, ep 8 with etp 1");
}

TEST(Mesh, DegreesThatDoNotMultiplyToTheWorldAreRefusedWithWhatWould) {
  EXPECT_EQ(refusal({.dp_shard = 4, .tp = 2}, 6),
            "Invalid parallel dims: dp_replicate(1) * dp_shard(4) * cp(1) * tp(2) * pp(1) != "
            "WORLD_SIZE(6)\n"
            "  parallelism.data_parallel_replicate_degree = 1, "
            "parallelism.data_parallel_shard_degree = 4, parallelism.context_parallel_degree = 1, "
            "parallelism.tensor_parallel_degree = 2, parallelism.pipeline_parallel_degree = 1.\n"
            "  Set data_parallel_shard_degree to 3 or to -1, or start 8 ranks.");
  EXPECT_THAT(
      refusal({.tp = 4, .pp = 2}, 20),
      testing::AllOf(HasSubstr("dp_shard(2) * cp(1) * tp(4) * pp(2) != WORLD_SIZE(20)\n"),
                     HasSubstr("parallelism.data_parallel_shard_degree = -1"),
                     HasSubstr("multiply to 8, which does not divide 20: start 16 or 24 ranks")));
  EXPECT_THAT(refusal({.tp = 4}, 2), HasSubstr("which does not divide 2: start 4 ranks"));
  EXPECT_EQ(
      refusal({.dp_shard = 0}, 2),
      "dp_shard must -1 or >=1.\n  parallelism.data_parallel_shard_degree = 0: set it to 1 or "
      "more, or to -1 for what the other degrees leave of the ranks.");
  EXPECT_EQ(refusal({.cp = 0}, 2),
            "Parallelism degree should be >= 1, except for dp_shard\n  "
            "parallelism.context_parallel_degree = 0: set it to 1 or more.");
}

TEST(Mesh, ExpertDegreesThatDoNotFitAreRefusedWithThoseThatDo) {
  EXPECT_EQ(refusal({.tp = 4, .ep = 2, .etp = 2}, 8),
            "Currently we only support ETP=TP or ETP=1\n"
            "  parallelism.expert_tensor_parallel_degree = 2, parallelism.tensor_parallel_degree = "
            "4.\n  Set expert_tensor_parallel_degree to 1 or 4.");
  EXPECT_EQ(
      refusal({.tp = 2, .ep = 3, .etp = 1}, 8),
      "expert_parallel_degree (3) must divide dp_shard * cp * tp (8) and be a multiple of cp "
      "* tp (2)\n"
      "  parallelism.expert_parallel_degree = 3, parallelism.expert_tensor_parallel_degree = "
      "1, parallelism.data_parallel_shard_degree = 4, parallelism.context_parallel_degree = "
      "1, parallelism.tensor_parallel_degree = 2.\n"
      "  Expert parallelism borrows its ranks from these axes. Degrees that fit: 1, 2, 4, 8.");
  EXPECT_THAT(refusal({.cp = 2, .ep = 8}, 8), "no error");
  EXPECT_THAT(refusal({.cp = 2, .ep = 1, .etp = 7}, 8), "no error") << "etp has no meaning then";
  EXPECT_THAT(refusal({.dp_replicate = 4, .cp = 2, .ep = 4}, 8),
              HasSubstr("must divide dp_shard * cp (2) and be a multiple of cp (2)"));
}

TEST(Mesh, ModelsThatCannotBeCutAreRefused) {
  ModelArgs args;  // 16 heads, 8 experts
  const auto refused = [&](const MeshDegrees& d, int64_t world, int64_t sequence) {
    return message_of([&] { check_fits(Mesh(d, world), args, sequence); });
  };
  EXPECT_EQ(refused({.cp = 2, .tp = 2}, 4, 64), "no error");
  EXPECT_EQ(
      refused({.cp = 2, .tp = 2}, 4, 60),
      "Sequence length 60 must be divisible by the product of TP degree (2) and 2 * CP degree "
      "(2).\n  training.seq_len = 60, parallelism.tensor_parallel_degree = 2, "
      "parallelism.context_parallel_degree = 2.\n  Set training.seq_len to 64.");
  EXPECT_THAT(refused({.ep = 16}, 16, 64),
              HasSubstr("num_experts (8) must be divisible by expert_parallel_degree (16)"));
  EXPECT_THAT(refused({.tp = 3}, 3, 60), HasSubstr("n_heads (16) must be divisible by"));
  args.moe_inter_dim = 6;
  args.moe.num_shared_experts = 2;
  EXPECT_THAT(refused({.tp = 4, .ep = 2, .etp = 4}, 8, 64),
              HasSubstr("moe_inter_dim (6) must be divisible by the tensor-parallel degree (4)"));
  EXPECT_EQ(refused({.tp = 4, .ep = 4, .etp = 1}, 8, 64), "no error");
}

TEST(Mesh, ReadsTheConfiguration) {
  JobConfig config;
  config.parallelism.data_parallel_replicate_degree = 2;
  config.parallelism.tensor_parallel_degree = 2;
  config.parallelism.pipeline_parallel_degree = 2;
  config.parallelism.expert_parallel_degree = 4;
  const Mesh mesh(mesh_degrees(config), 16);
  EXPECT_EQ(mesh.to_string(), "pp 2 x dp_replicate 2 x dp_shard 2 x tp 2, ep 4 with etp 1");
}

}  // namespace
}  // namespace nereus
