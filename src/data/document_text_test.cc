#include "data/document_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nereus::data {
namespace {

using testing::HasSubstr;
using enum DocumentText::Skipped;

TEST(DocumentText, IsReadPastWhatPythonAcceptsElsewhere) {
  for (const char* line :
       {R"({"text": "a", "score": NaN})", R"({"score": -Infinity, "text": "a"})",
        R"({"m": [1, Infinity, {"x": NaN}], "text": "a"})", R"({"text": "a", "big": 1e999})",
        R"({"text": "a", "n": 123456789012345678901234567890, "x": NaN})"}) {
    const DocumentText read = read_document(line);
    EXPECT_EQ(read.text, "a") << line;
    EXPECT_EQ(read.skipped, no);
    EXPECT_EQ(read.replaced, 0);
  }
  EXPECT_EQ(read_document(R"({"text": "NaN, -Infinity and 1e999 \" NaN", "x": NaN})").text,
            "NaN, -Infinity and 1e999 \" NaN");
}

TEST(DocumentText, HasTheReplacementCharacterForALoneSurrogate) {
  const auto expect = [](const std::string& line, const char* text, int64_t replaced) {
    const DocumentText read = read_document(line);
    EXPECT_EQ(read.text, text) << line << " " << read.why;
    EXPECT_EQ(read.replaced, replaced) << line;
  };
  expect(R"({"text": "a\ud83db"})", "a\uFFFDb", 1);
  expect(R"({"text": "a\ude00"})", "a\uFFFD", 1);
  expect(R"({"text": "\ud83d\ud83d\ude00\\ud83d"})", "\uFFFD\U0001F600\\ud83d", 1);
  expect(R"({"text": "\ud83d\u0041 \uD83D\uDE00"})", "\uFFFDA \U0001F600", 1);
  expect("{\"text\": \"\xff\\ud83d\"}", "\uFFFD\uFFFD", 2);
}

TEST(DocumentText, IsMissedWithTheReason) {
  const auto expect = [](const std::string& line, DocumentText::Skipped skipped, const char* why) {
    const DocumentText read = read_document(line);
    EXPECT_EQ(read.text, std::nullopt);
    EXPECT_EQ(read.skipped, skipped) << line;
    EXPECT_THAT(read.why, HasSubstr(why)) << line;
  };
  expect(R"({"text": "a)", not_json, "parse error at line 1, column");
  expect(R"({"text": "a", "x": nan})", not_json, "parse error");
  expect("", not_json, "parse error");
  expect(R"({"text": "a", "x": 01})", not_json, "parse error");
  expect(R"({"url": "u", "content": "c"})", no_text, "the keys that are there: content, url");
  expect("{}", no_text, "the keys that are there: none");
  expect(R"({"text": null})", no_text, "its \"text\" is of type null");
  expect(R"({"text": ["a"]})", no_text, "its \"text\" is of type array");
  expect("[1]", no_text, "it is no object but of type array");
}

}  // namespace
}  // namespace nereus::data
