#include "parallel/in_place.h"

#include <gtest/gtest.h>

#include "comm/thread_ranks.h"
#include "parallel/parameter_store.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

// Rows that no number of ranks divides, one tensor smaller than a rank's alignment, and in the flat
// buffers another order than here.
std::vector<StoredTensor> tensors() {
  const auto part = [](const char* name, const Shape& shape) {
    return std::vector<ParameterPart>{{.parameter = {.name = name, .shape = shape}}};
  };
  return {{.name = "norm",
           .shape = {7},
           .bucket = 0,
           .read_format = ReadFormat::f32_master,
           .parts = part("norm", {7})},
          {.name = "large", .shape = {3001, 8}, .bucket = 0, .parts = part("large", {3001, 8})},
          {.name = "same",
           .shape = {130, 3},
           .bucket = 1,
           .replicated_on_tp = true,
           .parts = part("same", {130, 3})},
          {.name = "small", .shape = {5, 4}, .bucket = 1, .parts = part("small", {5, 4})}};
}

float value(int rank, int step, int64_t element) {
  return static_cast<float>((rank + 1) * (element % 17 + step));
}

// Two steps: what the first leaves in memory the second meets.
TEST(InPlace, ReducedGradientsAreTheRanksSumsAndLieTogether) {
  for (const int shards : {2, 3, 4, 8}) {
    run_thread_ranks(shards, {.timeout = std::chrono::seconds(60)}, [&](Communicator& group) {
      Stream stream(Device::cpu(), &test::pool());
      const RankWorld world(Mesh({.dp_shard = shards}, shards), group);
      ParameterStore store(Device::cpu(), tensors(), world, {.compute = DType::bf16});
      const StoreLayout& layout = store.layout();
      for (int step = 0; step < 2; ++step) {
        store.begin_step(stream);
        for (int i = 0; i < 4; ++i) {
          const TensorView g = store.gradient(i);
          for (int64_t e = 0; e < g.count(); ++e) g.as<float>()[e] = value(group.rank(), step, e);
        }
        store.reduce(stream);
        const float* const flat = store.gradients().as<float>();
        std::vector<float> want(static_cast<size_t>(layout.elements()));
        for (size_t i = 0; i < layout.size(); ++i) {
          const Shape& shape = layout.tensors()[i].shape;
          const int64_t width = shape.rank() == 1 ? 1 : shape[1];
          const RowRange rows = layout.rows(i).rows(group.rank());
          for (int64_t e = rows.begin * width; e < rows.end * width; ++e)
            for (int r = 0; r < shards; ++r)
              want[static_cast<size_t>(layout.offset(i) + e - rows.begin * width)] +=
                  value(r, step, e);
        }
        for (size_t e = 0; e < want.size(); ++e)
          ASSERT_EQ(flat[e], want[e]) << e << " of rank " << group.rank() << ", step " << step;
      }
    });
  }
}

TEST(InPlace, NothingIsThereTwice) {
  const Mesh mesh({.dp_shard = 4}, 4);
  const RankWorld world(mesh, 1);
  const StoreLayout layout(tensors(), shard_counts(mesh), DType::bf16);
  int64_t whole = 0, copies = 0, norm = 0;
  for (size_t i = 0; i < layout.size(); ++i) {
    const int64_t n = StoreLayout::aligned(layout.padded_shape(i).count());
    whole += n;
    (layout.read_format(i) == ReadFormat::bf16_copy ? copies : norm) += n;
  }
  const auto bytes = [&](const ParameterStore::Options& options) {
    return ParameterStore(Device::meta(), tensors(), world, options).bytes();
  };
  const ParameterStore::Bytes b = bytes({.compute = DType::bf16});
  EXPECT_EQ(b.gradients, 4 * (whole + 128)) << "room to move a 64th of the largest shard";
  EXPECT_EQ(b.copies, 2 * copies);
  EXPECT_EQ(b.gathered, 4 * norm) << "what kernels read of a norm is its master";
  // Gathered while they are used only, copies have memory of their own.
  EXPECT_EQ(bytes({.compute = DType::bf16, .reshard = true}).copies, 2 * layout.elements());
  EXPECT_EQ(bytes({.compute = DType::bf16, .offload = Offload::moments}).copies,
            2 * layout.elements());
  // One rank has nothing that is divided.
  EXPECT_EQ(ParameterStore(Device::meta(), tensors(), {.compute = DType::bf16}).bytes().gathered,
            0);
}

}  // namespace
}  // namespace nereus
