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

// However the bytes are cut, the pieces are characters and together what the whole is mended to.
TEST(Utf8, PiecesAreWholeCharacters) {
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80 \xFF\xE2\x82(\xC0\xF0\x9F\x98";
  for (size_t size = 1; size <= text.size(); ++size) {
    Utf8Pieces pieces;
    std::string all;
    const auto take = [&](const std::string& piece) {
      EXPECT_TRUE(is_valid_utf8(piece));
      all += piece;
    };
    for (size_t at = 0; at < text.size(); at += size) take(pieces.add(text.substr(at, size)));
    take(pieces.finish());
    EXPECT_EQ(all, replace_invalid_utf8(text)) << size;
  }
  Utf8Pieces pieces;
  EXPECT_EQ(pieces.add("x\xF0\x9F"), "x");
  EXPECT_EQ(pieces.add("\x98\x80y"), "\xF0\x9F\x98\x80y");
  EXPECT_EQ(pieces.finish(), "");
}

}  // namespace
}  // namespace nereus::data
