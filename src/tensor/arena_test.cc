#include "tensor/arena.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"

namespace nereus {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Arena, AMeasuringArenaTellsWhatARealOneNeeds) {
  const auto use = [](Arena& arena) {
    arena.take(DType::f32, {10, 10}, "x");
    {
      const Arena::Scope scope(arena);
      arena.take(DType::bf16, {1000}, "gate");
      arena.take(DType::bf16, {1000}, "gate");
    }
    arena.take(DType::f32, {3}, "y");
  };
  Arena measuring("scratch");
  use(measuring);
  EXPECT_EQ(measuring.peak_bytes(), 512 + 2 * 2048);
  EXPECT_STREQ(measuring.peak_entries()[0].what, "gate");
  EXPECT_EQ(measuring.peak_entries()[0].bytes, 4096);

  std::vector<std::byte> memory(static_cast<size_t>(measuring.peak_bytes()));
  Arena real("scratch", memory.data(), measuring.peak_bytes());
  use(real);
  EXPECT_EQ(real.peak_bytes(), measuring.peak_bytes());
  EXPECT_THAT([&] { real.take(DType::f32, {4096}, "dy"); },
              ThrowsMessage<Error>(HasSubstr("arena scratch: dy f32 [4096] needs 16384 bytes")));
}

TEST(TensorView, SlicesAreViewsOfTheSameMemory) {
  std::vector<float> data(24);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i);
  const TensorView x(reinterpret_cast<std::byte*>(data.data()), DType::f32, {4, 6});
  const TensorView right = x.columns(4, 6);
  EXPECT_EQ(right.as<float>()[right.row_stride()], 10.0f);
  EXPECT_FALSE(right.contiguous());
  const TensorView heads = x.split_last(3, 2);
  EXPECT_EQ(heads.shape, (Shape{4, 3, 2}));
  EXPECT_EQ(heads[2][1].as<float>()[0], 14.0f);
}

}  // namespace
}  // namespace nereus
