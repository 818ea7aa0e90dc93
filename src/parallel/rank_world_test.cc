#include "parallel/rank_world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "comm/thread_ranks.h"
#include "parallel/parameter_store.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

constexpr MeshGroup kGroups[] = {
    MeshGroup::pp, MeshGroup::dp_replicate, MeshGroup::cp,           MeshGroup::tp,
    MeshGroup::ep, MeshGroup::dp_shard_cp,  MeshGroup::expert_shard, MeshGroup::expert_tp};

TEST(RankWorld, OfOneRankHasGroupsOfOneForEverything) {
  const RankWorld alone, measured(Mesh({.dp_shard = 1}, 1), 0);
  Stream stream(Device::cpu(), &test::pool());
  for (const RankWorld* world : {&alone, &measured}) {
    EXPECT_EQ(world->ranks(), 1);
    EXPECT_EQ(world->world().size(), 1);
    EXPECT_TRUE(world->first_of_tp());
    for (const MeshGroup g : kGroups) {
      EXPECT_EQ(world->group(g).size(), 1) << name_of(g);
      EXPECT_EQ(world->position(g), 0) << name_of(g);
    }
    const auto x = test::Tensor(Device::cpu(), DType::i64, {3}).fill(7);
    world->sum_over_tokens(stream, x);
    EXPECT_EQ(x.values(), (std::vector<double>{7, 7, 7}));
  }
}

TEST(RankWorld, GroupsOfOneRankAmongOthersAreItsOwn) {
  run_thread_ranks(4, {.timeout = std::chrono::seconds(60)}, [&](Communicator& all) {
    const RankWorld world(Mesh({.dp_shard = 2, .tp = 2}, 4), all);
    for (const MeshGroup g : kGroups) {
      EXPECT_EQ(world.group(g).size(), world.size(g)) << name_of(g);
      EXPECT_EQ(world.group(g).rank(), world.position(g)) << name_of(g);
      EXPECT_EQ(world.group(g).members(), world.mesh().members(g, all.rank())) << name_of(g);
    }
    EXPECT_THAT([&] { world.group(MeshGroup::dp); },
                testing::ThrowsMessage<Error>(testing::HasSubstr("the ranks of dp only count")));
    Stream stream(Device::cpu(), &test::pool());
    const auto x = test::Tensor(Device::cpu(), DType::i64, {1}).fill(1 << all.rank());
    world.sum_over_tokens(stream, x);
    EXPECT_EQ(x[0], 15);
  });
}

TEST(ParameterStore, OfOneRankGathersAndReducesWhereItKeepsThings) {
  const std::vector<StoredTensor> tensors = {
      {.name = "w", .shape = {300, 8}, .parts = {{.parameter = {.name = "w", .shape = {300, 8}}}}},
      {.name = "e",
       .shape = {3, 4, 6},
       .bucket = 1,
       .experts = true,
       .parts = {{.parameter = {.name = "e", .shape = {3, 4, 6}}}}}};
  Stream stream(Device::cpu(), &test::pool());
  for (const bool reshard : {false, true}) {
    ParameterStore store(Device::cpu(), tensors,
                         {.reshard = reshard, .reduce_each_microbatch = reshard});
    EXPECT_EQ(store.bytes().gathered, 0);
    EXPECT_EQ(store.bytes().gradients, 4 * store.elements());
    store.begin_step(stream);
    store.gather(stream);
    for (const int i : {0, 1}) {
      store.unshard(stream, i);
      store.begin_gradients(stream, i);
      EXPECT_EQ(store.weight(i).view.data, store.master(i).data);
      EXPECT_EQ(store.weight(i).view.shape, tensors[static_cast<size_t>(i)].shape);
      const TensorView gradient = store.gradient(i);
      EXPECT_EQ(gradient.data - store.gradients().data,
                store.master(i).data - store.masters().data);
      for (int64_t k = 0; k < gradient.count(); ++k) gradient.as<float>()[k] = 3;
      store.end_gradients(stream, i);
      store.reshard(stream, i);
    }
    store.reduce(stream);
    for (const NamedView& v : store.gradient_views())
      for (int64_t k = 0; k < v.view.count(); ++k) ASSERT_EQ(v.view.as<float>()[k], 3);
  }
}

}  // namespace
}  // namespace nereus
