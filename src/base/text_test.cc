#include "base/text.h"

#include <gtest/gtest.h>

namespace nereus {
namespace {

TEST(Text, ChangesTheCaseOfAsciiLettersOnly) {
  EXPECT_EQ(lower("Interleaved1F1B_[Ä]"), "interleaved1f1b_[Ä]");
  EXPECT_EQ(upper("gpu-type_ä z{"), "GPU-TYPE_ä Z{");
  EXPECT_EQ(lower(""), "");
}

TEST(Text, SaysASizeInTheUnitThatFits) {
  EXPECT_EQ(size_text(0), "0 bytes");
  EXPECT_EQ(size_text(999), "999 bytes");
  EXPECT_EQ(size_text(1500), "1.5 kB");
  EXPECT_EQ(size_text(45'230'000), "45.2 MB");
  EXPECT_EQ(size_text(305'240'000'000), "305.2 GB");
}

TEST(Text, TrimsTheBlanksThatAreNamed) {
  EXPECT_EQ(trimmed(" \ta b\t "), "a b");
  EXPECT_EQ(trimmed("a\r", " \t\r\n"), "a");
  EXPECT_EQ(trimmed("a\r"), "a\r");
  EXPECT_EQ(trimmed(" \t "), "");
  EXPECT_EQ(trimmed(""), "");
}

}  // namespace
}  // namespace nereus
