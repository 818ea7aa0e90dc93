#include "data/utf8.h"

#include <gtest/gtest.h>

namespace nereus::data {
namespace {

// Python: bytes([...]).decode("utf-8", errors="replace")
TEST(Utf8, IsMendedAsPythonDoes) {
  const std::pair<std::string, std::string> cases[] = {
      {"plain", "plain"},
      {"\xff", "\xEF\xBF\xBD"},
      {"a\xC3(", "a\xEF\xBF\xBD("},
      {"\xE2\x82", "\xEF\xBF\xBD"},                              // cut short: one
      {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},  // a surrogate: three
      {"\xF0\x9F\x98x", "\xEF\xBF\xBDx"},
      {"\xC0\xAF", "\xEF\xBF\xBD\xEF\xBF\xBD"},
      {"\xF4\x90\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
  };
  for (const auto& [bytes, want] : cases) {
    int64_t replaced = 0;
    EXPECT_EQ(replace_invalid_utf8(bytes, &replaced), want);
    EXPECT_EQ(replaced > 0, bytes != want);
    EXPECT_EQ(is_valid_utf8(bytes), bytes == want);
  }
}

}  // namespace
}  // namespace nereus::data
