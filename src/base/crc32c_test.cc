#include "base/crc32c.h"

#include <gtest/gtest.h>

#include "base/little_endian.h"

namespace nereus {
namespace {

// The check value of CRC-32C ("123456789": E3069283), and TensorFlow's mask of it by hand.
TEST(MaskedCrc32c, IsThatOfTheStandard) {
  const uint32_t crc = 0xE3069283u;
  EXPECT_EQ(masked_crc32c("123456789"), ((crc >> 15) | (crc << 17)) + 0xA282EAD8u);
}

TEST(LittleEndian, HasTheLowestByteFirst) {
  std::string out;
  append_little_endian(out, uint32_t{0x89ABCDEF});
  append_little_endian(out, uint16_t{0x1234});
  EXPECT_EQ(out, "\xEF\xCD\xAB\x89\x34\x12");
  EXPECT_EQ(little_endian<uint32_t>(out.substr(0, 4)), 0x89ABCDEFu);
  EXPECT_EQ(little_endian<uint64_t>(out), 0x1234'89AB'CDEFu);
}

}  // namespace
}  // namespace nereus
