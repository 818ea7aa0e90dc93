#include "base/text.h"

#include <gtest/gtest.h>

namespace nereus {
namespace {

TEST(Text, ChangesTheCaseOfAsciiLettersOnly) {
  EXPECT_EQ(lower("Interleaved1F1B_[Ä]"), "interleaved1f1b_[Ä]");
  EXPECT_EQ(upper("gpu-type_ä z{"), "GPU-TYPE_ä Z{");
  EXPECT_EQ(lower(""), "");
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
