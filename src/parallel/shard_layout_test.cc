#include "parallel/shard_layout.h"

#include <gtest/gtest.h>

#include <cstring>
#include <mutex>

#include "base/philox.h"
#include "comm/thread_ranks.h"
#include "parallel/parameter_store.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

TEST(ShardLayout, EveryRowIsOnOneRankAndSharesAreEqual) {
  for (const int64_t rows : {1, 2, 7, 127, 128, 256, 300, 1024, 1500, 129280}) {
    for (const int shards : {1, 2, 3, 8, 64}) {
      const ShardLayout layout(rows, shards);
      int64_t next = 0;
      for (int s = 0; s < shards; ++s) {
        const RowRange r = layout.rows(s);
        ASSERT_EQ(r.begin, next);
        ASSERT_LE(r.count(), layout.rows_per_shard());
        ASSERT_TRUE(r.count() == 0 || r.begin == s * layout.rows_per_shard());
        next = r.end;
      }
      ASSERT_EQ(next, rows);
      ASSERT_EQ(layout.padded_rows(), layout.rows_per_shard() * shards);
      if (rows < 128 * shards) {
        ASSERT_LT(layout.padded_rows() - rows, shards);
      } else {
        ASSERT_TRUE(shards == 1 || layout.rows_per_shard() % 128 == 0);
      }
    }
  }
}

TEST(ShardLayout, SlicesOfAFusedTensorAreEachParametersOwnRows) {
  // gate_up: w1 is rows [0, 5), w3 rows [5, 10); three shards of four rows.
  const ShardLayout layout(10, 3);
  const ParameterPart w1{.parameter = {.name = "w1", .shape = {5, 4}}, .dim = 0, .begin = 0},
      w3{.parameter = {.name = "w3", .shape = {5, 4}}, .dim = 0, .begin = 5};
  using Slice = ShardLayout::Slice;
  using Slices = std::vector<Slice>;
  const Shape fused{10, 4};
  EXPECT_EQ(layout.slices(w1, fused, 0), (Slices{{.first = 0, .rows = 4, .row = 0}}));
  EXPECT_EQ(layout.slices(w3, fused, 0), Slices{});
  EXPECT_EQ(layout.slices(w1, fused, 1), (Slices{{.first = 4, .rows = 1, .row = 0}}));
  EXPECT_EQ(layout.slices(w3, fused, 1), (Slices{{.first = 0, .rows = 3, .row = 1}}));
  EXPECT_EQ(layout.slices(w3, fused, 2), (Slices{{.first = 3, .rows = 2, .row = 0}}));
}

TEST(ShardLayout, SharesOfExpertsMayBeginAndEndInsideOfOne) {
  // Five experts of eight rows, of which e1 has [0, 5) and e3 [5, 8); three shards of 14 rows.
  using Slices = std::vector<ShardLayout::Slice>;
  const Shape shape{5, 8, 4};
  const ShardLayout layout(40, 3);
  const ParameterPart e1{.parameter = {.name = "e1", .shape = {5, 5, 4}}, .dim = 1, .begin = 0},
      e3{.parameter = {.name = "e3", .shape = {5, 3, 4}}, .dim = 1, .begin = 5};
  EXPECT_EQ(layout.slices(e1, shape, 0), (Slices{{.panel = 0, .panels = 2, .rows = 5, .row = 0}}));
  EXPECT_EQ(layout.slices(e3, shape, 0),
            (Slices{{.panel = 0, .rows = 3, .row = 5}, {.panel = 1, .rows = 1, .row = 13}}));
  EXPECT_EQ(layout.slices(e1, shape, 1),
            (Slices{{.panel = 2, .rows = 5, .row = 2}, {.panel = 3, .rows = 4, .row = 10}}));
  EXPECT_EQ(layout.slices(e3, shape, 1), (Slices{{.panel = 1, .first = 1, .rows = 2, .row = 0},
                                                 {.panel = 2, .rows = 3, .row = 7}}));
  EXPECT_EQ(layout.slices(e1, shape, 2), (Slices{{.panel = 3, .first = 4, .rows = 1, .row = 0},
                                                 {.panel = 4, .rows = 5, .row = 4}}));
  EXPECT_EQ(layout.slices(e3, shape, 2), (Slices{{.panel = 3, .panels = 2, .rows = 3, .row = 1}}));
}

std::vector<StoredTensor> tensors() {
  const Initial normal{.mean = 0, .std = 0.02, .low = -2, .high = 2};
  return {
      {.name = "embedding",
       .shape = {300, 8},
       .bucket = 0,
       .parts = {{.parameter = {.name = "embedding", .shape = {300, 8}, .initial = normal}}}},
      {.name = "norm",
       .shape = {7},
       .bucket = 1,
       .read_format = ReadFormat::f32_master,
       .parts = {{.parameter = {.name = "norm", .shape = {7}, .initial = {.mean = 1}}}}},
      {.name = "gate_up",
       .shape = {10, 4},
       .bucket = 1,
       .parts = {{.parameter = {.name = "w1", .shape = {5, 4}, .initial = normal}},
                 {.parameter = {.name = "w3", .shape = {5, 4}, .initial = normal}, .begin = 5}}},
      {.name = "experts",
       .shape = {3, 4, 6},
       .bucket = 2,
       .experts = true,
       .parts = {{.parameter = {.name = "e1", .shape = {3, 2, 6}, .initial = normal}, .dim = 1},
                 {.parameter = {.name = "e3", .shape = {3, 2, 6}, .initial = normal},
                  .dim = 1,
                  .begin = 2}}},
  };
}

std::vector<std::byte> bytes(const ConstTensorView& v) { return {v.data, v.data + v.bytes()}; }

TEST(ParameterStore, ShardsStartFromTheBitsOfOneRankAndAreGatheredToThem) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    Stream stream(Device::cpu(), &test::pool());
    ParameterStore one(Device::cpu(), tensors(), {.compute = compute});
    one.initialize(stream, 5);
    for (const int shards : {2, 3, 4, 8}) {
      run_thread_ranks(shards, {.timeout = std::chrono::seconds(60)}, [&](Communicator& group) {
        Stream mine(Device::cpu(), &test::pool());
        const RankWorld world(Mesh({.dp_shard = shards}, shards), group);
        ParameterStore store(Device::cpu(), tensors(), world, {.compute = compute});
        store.initialize(mine, 5);
        store.gather(mine);
        for (int i = 0; i < 4; ++i)
          ASSERT_EQ(bytes(store.weight(i).view), bytes(one.weight(i).view))
              << i << " of " << shards;
        // Every element of every parameter is on one rank.
        int64_t elements = 0;
        for (const NamedView& v : store.master_views()) elements += v.view.count();
        test::Tensor count = test::Tensor(Device::cpu(), DType::i64, {1}).fill(double(elements));
        group.all_reduce(mine, count);
        ASSERT_EQ(count[0], 300 * 8 + 7 + 10 * 4 + 3 * 4 * 6);
      });
    }
  }
}

TEST(ParameterStore, GradientsAreSummedOverShardsAndReplicas) {
  // Small integers: sums are exact in any order.
  const auto value = [](int rank, int tensor, int64_t i) {
    return static_cast<float>((rank * 7 + tensor * 3 + i) % 11);
  };
  run_thread_ranks(6, {.timeout = std::chrono::seconds(60)}, [&](Communicator& world) {
    const RankWorld mine(Mesh({.dp_replicate = 2, .dp_shard = 3}, 6), world);
    Stream stream(Device::cpu(), &test::pool());
    ParameterStore store(Device::cpu(), tensors(), mine, {});
    for (int t = 0; t < 4; ++t)
      for (int64_t i = 0; i < store.gradient(t).count(); ++i)
        store.gradient(t).as<float>()[i] = value(world.rank(), t, i);
    store.reduce(stream);
    for (int t = 0; t < 4; ++t) {
      // The reduced shard, through the flat view: by tensor, in the order of the store.
      const StoredTensor& tensor = store.tensors()[static_cast<size_t>(t)];
      const ShardLayout layout(tensor.rows(), 3);
      const RowRange rows = layout.rows(mine.position(MeshGroup::dp_shard));
      const int64_t inner = tensor.shape.count() / tensor.rows();
      const auto offset = store.master(t).as<float>() - store.masters().as<float>();
      for (int64_t i = 0; i < rows.count() * inner; ++i) {
        float want = 0;
        for (int r = 0; r < 6; ++r) want += value(r, t, rows.begin * inner + i);
        ASSERT_EQ(store.gradients().as<float>()[offset + i], want) << tensor.name << " " << i;
      }
      for (int64_t i = rows.count() * inner; i < layout.rows_per_shard() * inner; ++i)
        ASSERT_EQ(store.gradients().as<float>()[offset + i], 0) << "padding";
    }
  });
}

}  // namespace
}  // namespace nereus
