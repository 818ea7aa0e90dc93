#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "data/tokenizer/tokenizer.h"
#include "test/test_tensor.h"

namespace nereus::data {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::ThrowsMessage;
using Ids = std::vector<int32_t>;

// The printable code points that stand for bytes.
std::string name_of_byte(int byte) {
  static const std::vector<int> points = [] {
    std::vector<int> out;
    int extra = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      out.push_back(printable ? b : extra++);
    }
    return out;
  }();
  const int c = points[static_cast<size_t>(byte)];
  if (c < 0x80) return {static_cast<char>(c)};
  return {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3F))};
}

// A small byte-level file: 256 byte tokens, "ab" from a and b, and the added token <end>.
json small_file() {
  json file;
  for (int b = 0; b < 256; ++b) file["model"]["vocab"][name_of_byte(b)] = b;
  file["model"]["vocab"]["ab"] = 256;
  file["model"]["type"] = "BPE";
  file["model"]["merges"] = {"a b"};
  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  file["decoder"] = {{"type", "ByteLevel"}};
  file["added_tokens"] = {
      {{"id", 257}, {"content", "<end>"}, {"special", true}, {"normalized", false}}};
  return file;
}

json with_added(const json& flags = json::object()) {
  json file = small_file();
  file["added_tokens"][0].update(flags);
  return file;
}

Ids encode(const json& file, const std::string& text) {
  const auto t = Tokenizer::parse(file.dump(), "", "small");
  Tokenizer::Encoder encoder(*t);
  Ids ids;
  encoder.encode(text, ids);
  return ids;
}

TEST(TokenizerJson, ReadsOtherByteLevelFiles) {
  const auto t = Tokenizer::parse(small_file().dump(2), R"({"eos_token": "<end>"})", "small");
  Tokenizer::Encoder encoder(*t);
  Ids ids;
  encoder.encode("abab<end>b", ids);
  EXPECT_EQ(ids, (Ids{256, 256, 257, 'b'}));
  EXPECT_EQ(t->eos_id(), 257);
  EXPECT_EQ(t->bos_id(), std::nullopt);
  EXPECT_EQ(t->vocab_size(), 258);
  EXPECT_EQ(t->decode(ids, true), "ababb");
  EXPECT_EQ(t->decode(ids, false), "abab<end>b");
}

TEST(TokenizerJson, ReadsMergesAsPairsToo) {
  json file = small_file();
  file["model"]["merges"] = json::array({json::array({"a", "b"})});
  EXPECT_EQ(encode(file, "xab"), (Ids{'x', 256}));
}

// All ids below are those of Hugging Face tokenizers 0.23.2.
TEST(TokenizerJson, TheLastOfRepeatedMergesCounts) {
  const log::Capture quiet;
  json file = small_file();
  file["model"]["vocab"]["bc"] = 257;
  file["model"]["merges"] = {"a b", "b c", "a b"};
  EXPECT_EQ(encode(file, "abc"), (Ids{'a', 257}));
}

TEST(TokenizerJson, AByteThatIsNoTokenIsLeftOut) {
  const log::Capture quiet;
  json file = small_file();
  file["model"]["vocab"].erase("b");
  file["model"]["vocab"].erase("ab");
  file["model"]["vocab"]["ac"] = 256;
  file["model"]["merges"] = {"a c"};
  EXPECT_EQ(encode(file, "abc"), (Ids{256}));
}

TEST(TokenizerJson, AnAddedTokenHasTheIdThatHuggingFaceGivesIt) {
  log::Capture capture;
  EXPECT_EQ(encode(with_added({{"id", 300}}), "ab<end>"), (Ids{256, 257}));
  EXPECT_THAT(capture.text(), HasSubstr("added token \"<end>\" says id 300, but has 257"));
  EXPECT_EQ(encode(with_added({{"content", "ab"}}), "xab"), (Ids{'x', 256}));
}

TEST(TokenizerJson, AddedTokensTakeWhiteSpaceAlongAndStandAloneAsFlagged) {
  const std::string text = "a <end>  <end>b";
  EXPECT_EQ(encode(with_added(), text), (Ids{'a', ' ', 257, ' ', ' ', 257, 'b'}));
  EXPECT_EQ(encode(with_added({{"lstrip", true}}), text), (Ids{'a', 257, 257, 'b'}));
  EXPECT_EQ(encode(with_added({{"rstrip", true}}), text), (Ids{'a', ' ', 257, 257, 'b'}));
  EXPECT_EQ(encode(with_added({{"lstrip", true}}), "a \u2003<end>"), (Ids{'a', 257}));
  const json single = with_added({{"content", "zz"}, {"single_word", true}});
  EXPECT_EQ(encode(single, "zz zza"), (Ids{257, ' ', 'z', 'z', 'a'}));
  EXPECT_EQ(encode(single, "_zz"), (Ids{'_', 'z', 'z'}));
  EXPECT_EQ(encode(single, "-zz."), (Ids{'-', 257, '.'}));
}

TEST(TokenizerJson, TheLongestOfSeveralAddedTokensWins) {
  const log::Capture quiet;
  json file = small_file();
  for (const char* more : {"<end>>", "<e", "x"})
    file["added_tokens"].push_back({{"id", 0}, {"content", more}, {"normalized", false}});
  EXPECT_EQ(encode(file, "<end>>x<end><en"), (Ids{258, 'x', 257, 259, 'n'}));
}

TEST(TokenizerJson, AddsAPrefixSpaceToEachPiece) {
  json file = small_file();
  file["pre_tokenizer"]["add_prefix_space"] = true;
  EXPECT_EQ(encode(file, "ab<end>c d"), (Ids{' ', 256, 257, ' ', 'c', ' ', 'd'}));
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", "-"}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, file["pre_tokenizer"]}}};
  EXPECT_EQ(encode(file, "a- b"), (Ids{' ', 'a', ' ', '-', ' ', 'b'}));
}

TEST(TokenizerJson, IgnoresMergesForAPieceThatIsAToken) {
  json file = small_file();
  file["model"]["vocab"]["abc"] = 257;
  file["added_tokens"] = json::array();
  EXPECT_EQ(encode(file, "abc"), (Ids{256, 'c'}));
  file["model"]["ignore_merges"] = true;
  EXPECT_EQ(encode(file, "abc"), (Ids{257}));
}

TEST(TokenizerJson, ReadsEscapesAndTokensOutsideTheByteAlphabet) {
  json file = small_file();
  file["model"]["vocab"]["中"] = 257;
  file["added_tokens"] = {{{"id", 258}, {"content", "\U0001F600\""}, {"special", false}}};
  const auto t = Tokenizer::parse(file.dump(-1, ' ', /*ensure_ascii=*/true), "", "small");
  EXPECT_EQ(t->decode(Ids{257, 258}, true), "中\U0001F600\"");
}

void expect_error(const std::string& text, const std::string& message) {
  EXPECT_THAT([&] { Tokenizer::parse(text, "", "t.json"); },
              ThrowsMessage<Error>(HasSubstr(message)));
}

TEST(TokenizerJson, NamesWhatIsUnsupported) {
  const auto expect = [](const std::function<void(json&)>& change, const std::string& message) {
    json file = small_file();
    change(file);
    expect_error(file.dump(), message);
  };
  expect([](json& f) { f["model"]["type"] = "Unigram"; },
         "t.json: model type Unigram is not supported; supported: BPE");
  expect([](json& f) { f["model"]["dropout"] = 0.1; }, "model BPE with dropout is not supported");
  expect([](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; },
         "model BPE with end_of_word_suffix is not supported");
  expect(
      [](json& f) {
        f["normalizer"] = {{"type", "Strip"}};
      },
      "normalizer type Strip is not supported; supported: Sequence, NFC, NFD, NFKC, NFKD, or none");
  expect(
      [](json& f) {
        f["pre_tokenizer"] = {{"type", "Metaspace"}};
      },
      "pre_tokenizer type Metaspace is not supported; supported: Sequence, Split, Digits, "
      "Punctuation, ByteLevel");
  expect([](json& f) { f.erase("pre_tokenizer"); }, "t.json: has no pre_tokenizer");
  expect(
      [](json& f) {
        f["decoder"] = {{"type", "WordPiece"}};
      },
      "decoder type WordPiece is not supported; supported: ByteLevel");
  expect(
      [](json& f) {
        f["model"]["unk_token"] = "ab";
        f["model"]["vocab"].erase("c");
      },
      "model BPE with unk_token or byte_fallback and not all bytes");
  const auto split = [](const json& pattern, const char* behavior) {
    return [=](json& f) {
      f["pre_tokenizer"] = {{"type", "Sequence"},
                            {"pretokenizers",
                             {{{"type", "Split"}, {"pattern", pattern}, {"behavior", behavior}},
                              {{"type", "ByteLevel"}, {"use_regex", false}}}}};
    };
  };
  expect(split({{"Regex", "(unclosed"}}, "Isolated"), "pattern (unclosed does not compile");
  expect(split({{"Regex", "a"}}, "Sideways"),
         "with behavior \"Sideways\" is not supported; supported: Isolated, Removed");
  expect(split("a", "Isolated"), "has the pattern \"a\"; it must be a Regex or a String");
}

TEST(TokenizerJson, NamesWhatIsWrongWithItsLine) {
  expect_error("", "t.json: is not a tokenizer.json: it ends after 0 bytes");
  expect_error("{", "t.json: is not a tokenizer.json: it ends after 1 bytes");
  expect_error("{}", "t.json: has no model");
  expect_error("{\n\"a\": 1,\n\"model\": {\"vocab\": {}}, oops",
               "is not a tokenizer.json: line 3:");
  expect_error("{} x", "something follows the end");
  expect_error("{\"a\": " + std::string(1000, '['), "brackets nest deeper than 100");
  const std::string whole = small_file().dump(1);
  for (const size_t part : {4u, 3u, 2u})
    expect_error(whole.substr(0, whole.size() - whole.size() / part),
                 "It may have been cut short: copy or download it again.");
  const auto expect = [&](const std::string& from, const std::string& to,
                          const std::string& message) {
    std::string text = whole;
    ASSERT_NE(text.find(from), std::string::npos) << from;
    expect_error(text.replace(text.find(from), from.size(), to), message);
  };
  expect("\"a b\"", "\"a c\"", "merge \"a c\": it, or a part of it, is no token of model.vocab");
  expect("\"a b\"", "\"a b c\"", "model.merges must be a list of");
  expect("\"a b\"", "7", "model.merges must be a list of");
  expect("\"ab\": 256", "\"ab\": 255", "token \"\xC3\xBF\" has id 255, which another has too");
  expect("\"ab\": 256", "\"ab\": 99999999", "token \"ab\" has id 99999999; ids go from 0 to");
  expect("\"ab\": 256", "\"a\": 256", "has the token of id 256 twice");
  expect("\"ab\": 256", "\"ab\": \"x\"", "an integer is expected");
  expect("\"ab\": 256", "\"\\ud800\": 256", "half of a surrogate pair");
  expect("\"ab\": 256", "\"\xFF\": 256", "a string is not UTF-8");
  expect("\"content\"", "\"contents\"", "which has no id or no content");
}

TEST(TokenizerJson, BosAndEosMustBeTokens) {
  EXPECT_THAT(
      [] {
        Tokenizer::parse(small_file().dump(), R"({"bos_token": {"content": "<bos>"}})", "t.json",
                         "config.json");
      },
      ThrowsMessage<Error>(HasSubstr("config.json: bos_token is \"<bos>\", which is no token of "
                                     "t.json")));
  EXPECT_THAT([] { Tokenizer::parse(small_file().dump(), "[]", "t.json", "config.json"); },
              ThrowsMessage<Error>(HasSubstr("config.json: is not a JSON object")));
}

TEST(TokenizerJson, AMissingFileListsWhatTheFolderHas) {
  const test::TemporaryFolder folder;
  EXPECT_THAT([&] { Tokenizer::load(folder.path()); },
              ThrowsMessage<Error>(HasSubstr("there is no tokenizer.json; the folder is empty")));
  folder.write("vocab.json", "{}");
  for (const std::string& path : {folder.path(), folder.file("tokenizer.json")})
    EXPECT_THAT([&] { Tokenizer::load(path); },
                ThrowsMessage<Error>(
                    HasSubstr("there is no tokenizer.json; the folder has vocab.json\n  Set ")));
  EXPECT_THAT([&] { Tokenizer::load(folder.file("nowhere")); },
              ThrowsMessage<Error>(
                  AllOf(HasSubstr("there is no such folder"),
                        HasSubstr("`nereus download tokenizer --dir " + folder.file("nowhere") +
                                  "` fetches DeepSeek-V3.1's."))));
}

TEST(TokenizerJson, AFileThatWasNotFetchedIsNamed) {
  for (const char* name : {"tokenizer_config.json", "tokenizer.json"})
    for (const auto& [text, what] :
         {std::pair(
              "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
              ": this is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
          {"<!DOCTYPE html>\n<html>", ": this is a web page, not the file itself"}}) {
      const test::TemporaryFolder folder;
      folder.write("tokenizer.json", small_file().dump());
      folder.write(name, text);
      EXPECT_THAT([&] { Tokenizer::load(folder.path()); },
                  ThrowsMessage<Error>(HasSubstr(folder.file(name) + what)));
    }
}

}  // namespace
}  // namespace nereus::data
