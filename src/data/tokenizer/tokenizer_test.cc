#include "data/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "test/test_tensor.h"

namespace nereus::data {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::ThrowsMessage;

const Tokenizer& deepseek() {
  static const auto tokenizer = Tokenizer::load(test::source_path("assets/tokenizer"));
  return *tokenizer;
}

std::vector<json> json_lines(const std::string& path) {
  std::vector<json> out;
  std::istringstream in(test::read_file(test::source_path(path)));
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line));
  return out;
}

TEST(Tokenizer, EqualsHuggingFaceOnEveryVector) {
  Tokenizer::Encoder encoder(deepseek());
  const std::vector<json> vectors = json_lines("tests/golden/tokenizer/vectors.jsonl");
  ASSERT_EQ(vectors.size(), 406u);
  for (int pass = 0; pass < 2; ++pass) {  // the second from what the encoder remembers
    for (const json& v : vectors) {
      const auto text = v["text"].get<std::string>();
      const auto want = v["ids"].get<std::vector<int32_t>>();
      std::vector<int32_t> ids;
      encoder.encode(text, ids);
      EXPECT_EQ(ids, want) << v["category"] << ": " << text;
      EXPECT_EQ(deepseek().decode(want, false), v["decoded"].get<std::string>());
      EXPECT_EQ(deepseek().decode(want, true), v["decoded_skip_special"].get<std::string>());
    }
  }
}

TEST(Tokenizer, DecodesArbitraryIdsAsHuggingFaceDoes) {
  for (const json& v : json_lines("tests/golden/tokenizer/decode.jsonl")) {
    const auto ids = v["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(deepseek().decode(ids, false), v["decoded"].get<std::string>());
    EXPECT_EQ(deepseek().decode(ids, true), v["decoded_skip_special"].get<std::string>());
  }
}

TEST(Tokenizer, EncodesTheWholeCorpusToTheReferencesIds) {
  Tokenizer::Encoder encoder(deepseek());
  std::vector<int32_t> ids;
  encoder.encode(test::read_file(test::source_path("tests/golden/tokenizer/corpus.txt")), ids);
  const json want = json::parse(
      test::read_file(test::source_path("tests/golden/tokenizer/corpus.json")))["corpus"];
  ASSERT_EQ(ids.size(), want["n_ids"].get<size_t>());
  const auto first = want["first_ids"].get<std::vector<int32_t>>();
  const auto last = want["last_ids"].get<std::vector<int32_t>>();
  EXPECT_TRUE(std::equal(first.begin(), first.end(), ids.begin()));
  EXPECT_TRUE(std::equal(last.rbegin(), last.rend(), ids.rbegin()));
}

TEST(Tokenizer, KnowsTheSpecialTokensOfItsConfig) {
  EXPECT_EQ(deepseek().bos_id(), 0);
  EXPECT_EQ(deepseek().eos_id(), 1);
  EXPECT_EQ(deepseek().vocab_size(), 128815);
}

TEST(Tokenizer, NamesAnIdThatIsNoToken) {
  const std::vector<int32_t> ids = {5, 128815};
  EXPECT_THAT([&] { deepseek().decode(ids, false); },
              ThrowsMessage<Error>(HasSubstr("token id 128815 is not in the vocabulary")));
}

// A piece longer than what is remembered goes through the heap, a shorter one through the array:
// the same merges.
TEST(Tokenizer, MergesLongAndShortPiecesAlike) {
  Tokenizer::Encoder encoder(deepseek());
  for (const char* unit : {"a", "ab", "the", "aA", "\xC3\xA9"}) {
    for (size_t repeats : {10u, 40u, 70u}) {
      std::string word;
      while (word.size() < repeats) word += unit;
      std::vector<int32_t> ids;
      encoder.encode(word, ids);
      EXPECT_EQ(deepseek().decode(ids, false), word);
    }
  }
}

}  // namespace
}  // namespace nereus::data
