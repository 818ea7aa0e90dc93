// The normalizers and pre-tokenizers that published models put around a byte-level BPE model: ids
// are those of Hugging Face tokenizers 0.23.3 (scripts/make_tokenizer_forms.py), on texts in more
// than twenty scripts. The model's merges cross every boundary, so that each piece shows.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/log.h"
#include "data/tokenizer/normalizer.h"
#include "data/tokenizer/tokenizer.h"
#include "test/test_tensor.h"

namespace nereus::data {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::ThrowsMessage;
using Ids = std::vector<int32_t>;

std::vector<json> read_lines(const std::string& path) {
  std::vector<json> out;
  std::istringstream in(test::read_file(test::source_path("tests/golden/" + path)));
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line));
  return out;
}

Ids encode(const Tokenizer& tokenizer, const std::string& text) {
  Tokenizer::Encoder encoder(tokenizer);
  Ids ids;
  encoder.encode(text, ids);
  return ids;
}

json base_file() {
  return json::parse(test::read_file(test::source_path("tests/golden/tokenizer/forms/base.json")));
}

TEST(TokenizerForms, EncodeAsHuggingFaceDoes) {
  log::Capture capture;
  json file = base_file();
  const std::vector<json> texts = read_lines("tokenizer/forms/texts.jsonl");
  const std::vector<json> forms = read_lines("tokenizer/forms/forms.jsonl");
  ASSERT_EQ(forms.size(), 18u);
  for (const json& form : forms) {
    SCOPED_TRACE(form["name"]);
    for (const char* key : {"normalizer", "pre_tokenizer"}) file[key] = form[key];
    const auto tokenizer = Tokenizer::parse(file.dump(), "", "the/tokenizer.json");
    ASSERT_EQ(form["ids"].size(), texts.size());
    for (size_t i = 0; i < texts.size(); ++i)
      EXPECT_EQ(encode(*tokenizer, texts[i]["text"]), form["ids"][i].get<Ids>()) << texts[i];
  }
  EXPECT_THAT(capture.text(), HasSubstr("the/tokenizer.json: truncation is set and not applied: "
                                        "documents are read whole"));
  EXPECT_THAT(capture.text(), HasSubstr("padding is set and not applied"));
}

TEST(TokenizerForms, OfTheCasesAreHuggingFaces) {
  const log::Capture quiet;
  for (const std::string name : {"cases/tokenizer_digits", "cases/tokenizer_nfc"}) {
    const auto tokenizer = Tokenizer::load(test::source_path("tests/golden/" + name));
    const std::vector<json> texts = read_lines(name + "/texts.jsonl");
    const std::vector<json> expected = read_lines(name + "/expected.jsonl");
    ASSERT_EQ(texts.size(), expected.size());
    for (size_t i = 0; i < texts.size(); ++i)
      EXPECT_EQ(encode(*tokenizer, texts[i]["text"]), expected[i]["ids"].get<Ids>()) << texts[i];
  }
}

TEST(TokenizerForms, ThatAreNotThereAreNamedWithTheirFile) {
  const log::Capture quiet;
  const auto parse = [](const char* key, const json& part) {
    json file = base_file();
    file["pre_tokenizer"] = {{"type", "ByteLevel"}};
    file[key] = part;
    Tokenizer::parse(file.dump(), "", "some/tokenizer.json");
  };
  const auto expect = [&](const char* key, const json& part, const char* message) {
    EXPECT_THAT([&] { parse(key, part); }, ThrowsMessage<Error>(HasSubstr(message)));
  };
  const json byte_level = {{"type", "ByteLevel"}};
  expect("normalizer", {{"type", "Lowercase"}},
         "some/tokenizer.json: normalizer type Lowercase is not supported; supported: Sequence, "
         "NFC, NFD, NFKC, NFKD, or none");
  expect("pre_tokenizer", {{"type", "Digits"}},
         "pre_tokenizer type Digits is not supported; supported: ByteLevel, or a Sequence with a "
         "ByteLevel in it");
  expect("pre_tokenizer",
         {{"type", "Sequence"}, {"pretokenizers", {byte_level, {{"type", "Metaspace"}}}}},
         "pre_tokenizer type Metaspace is not supported; supported: Sequence, Split, Digits, "
         "Punctuation, ByteLevel");
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", "[&&a]" + std::string(300, 'x')}}},
                      {"behavior", "Isolated"}};
  expect("pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}},
         "some/tokenizer.json: the pre_tokenizer pattern [&&a]xxx");
  expect("pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}},
         "xxx... has an intersection of nothing at offset 1, which is not supported");
}

// UAX 15: marks in the order of their classes, what lies between starters, Hangul.
TEST(Normalizer, ComposesAndDecomposes) {
  const auto in = [](NormalForm form, std::string_view text) {
    std::string out;
    return std::string(Normalizer(form).run(text, out));
  };
  using enum NormalForm;
  EXPECT_EQ(in(nfc, "e\u0301"), "\u00e9");
  EXPECT_EQ(in(nfd, "\u1ec7"), "e\u0323\u0302");
  EXPECT_EQ(in(nfc, "e\u0302\u0323"), "\u1ec7");
  EXPECT_EQ(in(nfc, "a\u0316\u0301"), "\u00e1\u0316");   // not blocked: another class
  EXPECT_EQ(in(nfc, "a\u0305\u0301"), "a\u0305\u0301");  // blocked: the same class
  EXPECT_EQ(in(nfc, "\u0958"), "\u0915\u093c");          // excluded from composition
  EXPECT_EQ(in(nfc, "\u2126\u212b"), "\u03a9\u00c5");    // singletons
  EXPECT_EQ(in(nfc, "\u1112\u1161\u11ab"), "\ud55c");    // three jamo
  EXPECT_EQ(in(nfd, "\uac01"), "\u1100\u1161\u11a8");
  EXPECT_EQ(in(nfc, "\uac00\u11a8"), "\uac01");
  EXPECT_EQ(in(nfc, "\u09c7\u09be"), "\u09cb");  // two starters
  EXPECT_EQ(in(nfkc, "\ufb01\u2460\uff21"), "fi1A");
  EXPECT_EQ(in(nfkd, "\u1e9b\u0323"), "s\u0323\u0307");
  EXPECT_EQ(in(nfkc, "\u1e9b\u0323"), "\u1e69");
  EXPECT_EQ(in(nfc, "\ufb01"), "\ufb01");
  EXPECT_EQ(in(nfc, ""), "");
}

}  // namespace
}  // namespace nereus::data
