#include "cli/tokenize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/log.h"
#include "cli/subcommand_test.h"
#include "test/sha256.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::ThrowsMessage;

int tokenize(std::vector<std::string> args, bool with_tokenizer = true) {
  if (with_tokenizer) {
    args.emplace_back("--tokenizer");
    args.push_back(test::source_path("assets/tokenizer"));
  }
  return test::Subcommand("tokenize", run_tokenize)(std::move(args));
}

std::vector<json> lines_of(const std::string& path) {
  std::vector<json> out;
  std::istringstream in(test::read_file(path));
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line));
  return out;
}

TEST(Tokenize, EncodesAndDecodesEveryGoldenLine) {
  const test::TemporaryFolder folder;
  const std::string golden = test::source_path("tests/golden/tokenizer/vectors.jsonl");
  const std::string encoded = folder.file("ids.jsonl"), decoded = folder.file("text.jsonl");
  EXPECT_EQ(tokenize({"encode", "--input", golden, "--output", encoded}), 0);
  EXPECT_EQ(tokenize({"decode", "--input", golden, "--output", decoded}), 0);
  const std::vector<json> want = lines_of(golden), ids = lines_of(encoded),
                          texts = lines_of(decoded);
  ASSERT_EQ(ids.size(), want.size());
  ASSERT_EQ(texts.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(ids[i], (json{{"ids", want[i]["ids"]}}));
    EXPECT_EQ(texts[i], (json{{"decoded", want[i]["decoded"]},
                              {"decoded_skip_special", want[i]["decoded_skip_special"]}}));
  }
}

TEST(Tokenize, StreamsTheCorpusToTheReferencesIds) {
  const test::TemporaryFolder folder;
  const std::string out = folder.file("ids.u32");
  EXPECT_EQ(tokenize({"stream", "--input", test::source_path("tests/golden/tokenizer/corpus.txt"),
                      "--output", out}),
            0);
  const json want = json::parse(
      test::read_file(test::source_path("tests/golden/tokenizer/corpus.json")))["corpus"];
  const std::string bytes = test::read_file(out);
  EXPECT_EQ(test::sha256(std::as_bytes(std::span(bytes))),
            want["ids_sha256_le_u32"].get<std::string>());
}

TEST(Tokenize, NamesTheLineThatIsWrongAndLeavesNothing) {
  const test::TemporaryFolder folder;
  const auto expect = [&](const char* command, const std::string& text, const char* message) {
    const std::string in = folder.write("in.jsonl", text), out = folder.file("out.jsonl");
    EXPECT_THAT(
        [&] {
          tokenize({command, "--input", in, "--output", out});
        },
        ThrowsMessage<Error>(HasSubstr(message)));
    for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
      EXPECT_EQ(entry.path().filename(), "in.jsonl");
  };
  expect("encode", "{\"text\": \"a\"}\n\n{\"text\"", "in.jsonl:3: is not a JSON object");
  expect("encode", "{\"text\": \"a\\ud800b\"}\n", "surrogate U+D800..U+DBFF must be followed by");
  expect("encode", "[]\n", "in.jsonl:1: is not a JSON object");
  expect("encode", "{\"text\": 1}\n", "in.jsonl:1: has no string \"text\"");
  expect("decode", "{\"text\": \"a\"}\n", "in.jsonl:1: has no list \"ids\"");
  for (const char* id : {"128815", "-1", "1.5", "\"a\"", "18446744073709551615"})
    expect("decode", "{\"ids\": [5, " + std::string(id) + "]}\n", "is not in the vocabulary");
}

TEST(Tokenize, NamesFilesThatAreNotThere) {
  const test::TemporaryFolder folder;
  const std::string missing = folder.file("missing"), in = folder.write("in.jsonl", "");
  EXPECT_THAT(
      [&] {
        tokenize({"encode", "--input", missing, "--output", folder.file("o")});
      },
      ThrowsMessage<Error>(HasSubstr("missing: cannot be read")));
  EXPECT_THAT(
      [&] {
        tokenize({"encode", "--input", in, "--output", missing + "/o"});
      },
      ThrowsMessage<Error>(HasSubstr("cannot be written: No such file or directory")));
  EXPECT_THAT(
      [&] {
        tokenize({"encode", "--tokenizer", missing, "--input", in, "--output", folder.file("o")},
                 /*with_tokenizer=*/false);
      },
      ThrowsMessage<Error>(HasSubstr("there is no tokenizer.json; there is no such folder")));
}

TEST(Tokenize, ReadsInvalidUtf8AsReplacementCharactersAndSaysSo) {
  const test::TemporaryFolder folder;
  const log::Capture capture;
  const std::string in = folder.write("in.jsonl", "{\"text\": \"a\xFF\"}\n{\"text\": \"\xFE\"}\n");
  const std::string out = folder.file("out.jsonl"), text = folder.file("text.jsonl");
  EXPECT_EQ(tokenize({"encode", "--input", in, "--output", out}), 0);
  EXPECT_EQ(tokenize({"decode", "--input", out, "--output", text}), 0);
  EXPECT_EQ(lines_of(text)[0]["decoded"], "a\uFFFD");
  EXPECT_THAT(capture.text(), HasSubstr("in.jsonl:1: invalid UTF-8 is read as U+FFFD"));
  EXPECT_THAT(capture.text(), testing::Not(HasSubstr("in.jsonl:2:")));
}

TEST(Tokenize, SuggestsTheNearestOption) {
  EXPECT_THAT(
      [] {
        tokenize({"encode", "--inputs", "x"});
      },
      ThrowsMessage<Error>(HasSubstr("did you mean --input?")));
}

}  // namespace
}  // namespace nereus
