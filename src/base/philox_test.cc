#include "base/philox.h"

#include <gtest/gtest.h>

namespace nereus {
namespace {

// The known answers of the authors' distribution (Random123, kat_vectors: philox4x32 10).
TEST(Philox, GivesTheAuthorsKnownAnswers) {
  const Philox4 zero = philox(0, 0);
  EXPECT_EQ(zero.v[0], 0x6627e8d5u);
  EXPECT_EQ(zero.v[1], 0xe169c58du);
  EXPECT_EQ(zero.v[2], 0xbc57ac4cu);
  EXPECT_EQ(zero.v[3], 0x9b00dbd8u);
  const Philox4 ones = philox(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0});
  EXPECT_EQ(ones.v[0], 0x408f276du);
  EXPECT_EQ(ones.v[1], 0x41c83b0eu);
  EXPECT_EQ(ones.v[2], 0xa20bc7c6u);
  EXPECT_EQ(ones.v[3], 0x6d5451fdu);
}

TEST(Philox, AnElementOfAStreamIsAWordOfItsBlock) {
  const Philox4 block = philox(7, 5, hash_name("norm.weight"));
  for (uint64_t i = 0; i < 4; ++i)
    EXPECT_EQ(philox_u32(7, hash_name("norm.weight"), 20 + i), block.v[i]);
}

}  // namespace
}  // namespace nereus
