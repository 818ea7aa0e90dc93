#include "data/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "test/sha256.h"
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

// Of ids as little-endian 32-bit words.
std::string hash_of(const std::vector<int32_t>& ids) {
  return test::sha256(std::as_bytes(std::span(ids)));
}

json corpus_info() {
  return json::parse(test::read_file(test::source_path("tests/golden/tokenizer/corpus.json")));
}

std::string corpus_text() {
  return test::read_file(test::source_path("tests/golden/tokenizer/corpus.txt"));
}

TEST(Tokenizer, EncodesTheWholeCorpusToTheReferencesIds) {
  Tokenizer::Encoder encoder(deepseek());
  std::vector<int32_t> ids;
  encoder.encode(corpus_text(), ids);
  const json want = corpus_info()["corpus"];
  ASSERT_EQ(ids.size(), want["n_ids"].get<size_t>());
  EXPECT_EQ(hash_of(ids), want["ids_sha256_le_u32"].get<std::string>());
}

TEST(Tokenizer, EncodesTheCorpusDocumentByDocumentToTheReferencesIds) {
  Tokenizer::Encoder encoder(deepseek());
  const json shards = corpus_info()["shards"];
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    const std::string path = test::source_path("tests/golden/tokenizer/c4/en/c4-train.0000" +
                                               std::to_string(shard) + "-of-00002.json.gz");
    const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
    ASSERT_NE(file, nullptr);
    std::vector<int32_t> ids;
    std::vector<char> line(1 << 20);
    while (gzgets(file.get(), line.data(), static_cast<int>(line.size())) != nullptr) {
      ids.push_back(*deepseek().bos_id());
      encoder.encode(json::parse(line.data())["text"].get<std::string>(), ids);
      ids.push_back(*deepseek().eos_id());
    }
    EXPECT_EQ(ids.size(), shards[shard]["n_ids_bos_eos"].get<size_t>());
    EXPECT_EQ(hash_of(ids), shards[shard]["ids_sha256_le_u32"].get<std::string>());
  }
}

// The hash of the whole corpus is the one-thread answer.
TEST(Tokenizer, ThreadsShareATokenizer) {
  const std::string text = corpus_text();
  std::array<std::vector<int32_t>, 3> ids;
  std::vector<std::thread> threads;
  for (auto& own : ids)
    threads.emplace_back([&own, &text] {
      Tokenizer::Encoder encoder(deepseek());
      encoder.encode(text, own);
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& own : ids)
    EXPECT_EQ(hash_of(own), corpus_info()["corpus"]["ids_sha256_le_u32"].get<std::string>());
}

TEST(Tokenizer, ReadsInvalidUtf8AsReplacementCharacters) {
  Tokenizer::Encoder encoder(deepseek());
  std::vector<int32_t> ids, want;
  encoder.encode("a\xFF\xE4\xB8z", ids);
  encoder.encode("a\uFFFD\uFFFDz", want);
  EXPECT_EQ(ids, want);
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

// A piece longer than what is remembered goes through a heap, a shorter one through an array. The
// judge merges as the definition says: the lowest-ranked pair, the leftmost of equals, until none.
TEST(Tokenizer, MergesLongAndShortPiecesByTheDefinition) {
  const json file =
      json::parse(test::read_file(test::source_path("assets/tokenizer/tokenizer.json")));
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (const json& merge : file["model"]["merges"]) {
    const auto text = merge.get<std::string>();
    const size_t space = text.find(' ');
    ranks.emplace(std::pair(text.substr(0, space), text.substr(space + 1)), ranks.size());
  }
  Tokenizer::Encoder encoder(deepseek());
  for (const char* unit : {"a", "ab", "the", "Hello", "xyzzy", "internationalisation"}) {
    for (const size_t length : {1u, 2u, 7u, 63u, 64u, 65u, 66u, 200u}) {
      std::string word;
      while (word.size() < length) word += unit;
      word.resize(length);
      std::vector<std::string> parts;
      for (const char c : word) parts.emplace_back(1, c);
      for (;;) {
        size_t best = ranks.size(), at = 0;
        for (size_t i = 0; i + 1 < parts.size(); ++i) {
          const auto found = ranks.find({parts[i], parts[i + 1]});
          if (found == ranks.end() || found->second >= best) continue;
          best = found->second;
          at = i;
        }
        if (best == ranks.size()) break;
        parts[at] += parts[at + 1];
        parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at + 1));
      }
      std::vector<int32_t> want, ids;
      for (const std::string& part : parts)
        want.push_back(file["model"]["vocab"][part].get<int32_t>());
      encoder.encode(word, ids);
      EXPECT_EQ(ids, want) << word;
    }
  }
}

// More pieces than an encoder remembers: it forgets all and goes on.
TEST(Tokenizer, ForgetsAndGoesOn) {
  Tokenizer::Encoder encoder(deepseek());
  std::string text;
  for (int i = 0; i < 120000; ++i) {
    text += ' ';
    for (int rest = i; rest > 0; rest /= 26) text += static_cast<char>('a' + rest % 26);
  }
  std::vector<int32_t> ids, again;
  encoder.encode(text, ids);
  encoder.encode(text, again);
  EXPECT_EQ(ids, again);
  EXPECT_EQ(deepseek().decode(ids, false), text);
}

}  // namespace
}  // namespace nereus::data
