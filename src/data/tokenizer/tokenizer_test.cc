#include "data/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "data/tokenizer/splitter.h"
#include "data/utf8.h"
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

// Real text only: PCRE2's own tables lack the newest code points.
TEST(Splitter, ByHandAgreesWithTheRegularExpressionsOnRealText) {
  const json file =
      json::parse(test::read_file(test::source_path("assets/tokenizer/tokenizer.json")));
  std::vector<SplitRule> rules;
  for (const json& part : file["pre_tokenizer"]["pretokenizers"])
    if (part["type"] == "Split") rules.push_back({.pattern = part["pattern"]["Regex"]});
  ASSERT_TRUE(are_deepseek_rules(rules));
  const auto by_hand = make_deepseek_splitter(), by_regex = make_regex_splitter(rules);
  const std::string text = test::read_file(test::source_path("tests/golden/tokenizer/corpus.txt"));
  std::vector<std::string_view> a, b;
  by_hand->split(text, a);
  by_regex->split(text, b);
  EXPECT_EQ(a, b);
}

// A small byte-level file: 256 byte tokens, and "ab" from a and b.
json small_file() {
  json file;
  json& vocab = file["model"]["vocab"];
  int id = 0, extra = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    const int c = printable ? b : extra++;
    std::string name;
    if (c < 0x80) {
      name += static_cast<char>(c);
    } else {
      name += static_cast<char>(0xC0 | (c >> 6));
      name += static_cast<char>(0x80 | (c & 0x3F));
    }
    vocab[name] = id++;
  }
  vocab["ab"] = 256;
  file["model"]["type"] = "BPE";
  file["model"]["merges"] = {"a b"};
  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  file["decoder"] = {{"type", "ByteLevel"}};
  file["added_tokens"] = {
      {{"id", 300}, {"content", "<end>"}, {"special", true}, {"normalized", false}}};
  return file;
}

TEST(Tokenizer, ReadsOtherByteLevelFiles) {
  const auto t = Tokenizer::parse(small_file().dump(), R"({"eos_token": "<end>"})", "small");
  Tokenizer::Encoder encoder(*t);
  std::vector<int32_t> ids;
  encoder.encode("abab<end>b", ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{256, 256, 300, 'b'}));
  EXPECT_EQ(t->eos_id(), 300);
  EXPECT_EQ(t->bos_id(), std::nullopt);
  EXPECT_EQ(t->decode(ids, true), "ababb");
}

TEST(Tokenizer, ReadsMergesAsPairsToo) {
  json file = small_file();
  file["model"]["merges"] = json::array({json::array({"a", "b"})});
  Tokenizer::Encoder encoder(*Tokenizer::parse(file.dump(), "", "small"));
  SUCCEED();
}

void expect_error(const std::string& text, const std::string& message) {
  EXPECT_THAT([&] { Tokenizer::parse(text, "", "t.json"); },
              ThrowsMessage<Error>(HasSubstr(message)));
}

TEST(Tokenizer, NamesWhatIsWrongOrUnsupported) {
  expect_error("{", "t.json: is not a tokenizer.json");
  expect_error(small_file().dump().substr(0, 900), "t.json: is not a tokenizer.json");
  expect_error("{}", "t.json: has no model");
  json f = small_file();
  f["model"]["type"] = "Unigram";
  expect_error(f.dump(), "model Unigram is not supported; supported: BPE");
  f = small_file();
  f["normalizer"] = {{"type", "NFKC"}};
  expect_error(f.dump(), "normalizer NFKC is not supported; supported: none, or an empty Sequence");
  f = small_file();
  f["pre_tokenizer"] = {{"type", "Metaspace"}};
  expect_error(f.dump(), "pre_tokenizer Metaspace is not supported");
  f = small_file();
  f["decoder"] = {{"type", "WordPiece"}};
  expect_error(f.dump(), "decoder WordPiece is not supported; supported: ByteLevel");
  f = small_file();
  f["model"]["merges"] = {"a b", "ab zz"};
  expect_error(f.dump(), "merge \"ab zz\": it, or a part of it, is no token");
  f = small_file();
  f["model"]["vocab"].erase("a");
  f["model"]["merges"] = json::array();
  expect_error(f.dump(), "byte 0x61 is no token");
  f = small_file();
  f["added_tokens"][0]["lstrip"] = true;
  expect_error(f.dump(), "added token \"<end>\" with lstrip is not supported");
  f = small_file();
  f["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", "(unclosed"}}}, {"behavior", "Isolated"}},
        {{"type", "ByteLevel"}, {"use_regex", false}}}}};
  expect_error(f.dump(), "pattern (unclosed does not compile");
}

TEST(Tokenizer, AMissingFileListsWhatTheFolderHas) {
  const test::TemporaryFolder folder;
  folder.write("vocab.json", "{}");
  EXPECT_THAT(
      [&] { Tokenizer::load(folder.path()); },
      ThrowsMessage<Error>(HasSubstr("there is no tokenizer.json; the folder has vocab.json")));
  EXPECT_THAT([&] { Tokenizer::load(folder.file("nowhere")); },
              ThrowsMessage<Error>(HasSubstr("there is no such folder")));
}

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
    EXPECT_EQ(replace_invalid_utf8(bytes), want);
    EXPECT_EQ(is_valid_utf8(bytes), bytes == want);
  }
}

}  // namespace
}  // namespace nereus::data
