#include "observe/device_info.h"

#include <gtest/gtest.h>

#include "test/test_tensor.h"

namespace nereus {
namespace {

TEST(PeakFlops, AreTorchTitansByName) {
  EXPECT_EQ(peak_flops("NVIDIA A100-SXM4-80GB"), 312e12);
  EXPECT_EQ(peak_flops("NVIDIA H100 80GB HBM3"), 989e12);
  EXPECT_EQ(peak_flops("NVIDIA H100 PCIe"), 756e12);
  EXPECT_EQ(peak_flops("NVIDIA H100 NVL"), 835e12);
  EXPECT_EQ(peak_flops("NVIDIA H200"), 989e12);
  EXPECT_EQ(peak_flops("NVIDIA GB200"), 2.25e15);
  EXPECT_EQ(peak_flops("NVIDIA GB300"), std::nullopt);
}

TEST(MemoryUse, IsTheProcessPeakOnACpu) {
  Stream stream(Device::cpu(), &test::pool());
  const double before = memory_use(stream).peak_gib;
  std::vector<char> block(size_t{256} << 20, 1);
  EXPECT_GT(memory_use(stream).peak_gib, before + 0.2);
  EXPECT_GT(memory_use(stream).peak_percent, 0);
  EXPECT_EQ(block[12345], 1);
}

}  // namespace
}  // namespace nereus
