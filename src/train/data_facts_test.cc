#include "train/data_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::HasSubstr;

std::string facts(const std::string& dataset, const std::optional<std::string>& path) {
  JobConfig c;
  c.training.dataset = dataset;
  c.training.dataset_path = path;
  return data_facts(c);
}

TEST(DataFacts, AreOfTheFilesThatAreThere) {
  const test::TemporaryFolder folder;
  folder.write("a.jsonl", "{\"text\": \"one\"}\n");
  EXPECT_EQ(facts("c4", folder.path()),
            "Training data\n  " + folder.path() + ": 1 shard, a.jsonl, 16 bytes\n");
  folder.write("b.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n");
  const std::string said = facts("c4", folder.path());
  EXPECT_THAT(said, HasSubstr(": 2 shards, a.jsonl to b.jsonl, 79 bytes\n  1 of 2 cannot be read "
                              "as lines of JSON"));
  EXPECT_THAT(said, HasSubstr("Git LFS pointer"));
  EXPECT_EQ(facts("random", std::nullopt), "Training data\n  random ids, no files\n");
  EXPECT_THAT(facts("tokens", folder.file("a.jsonl")), HasSubstr("a.jsonl: token ids, 16 bytes\n"));
  EXPECT_THAT(facts("tokens", folder.file("b.jsonl")),
              HasSubstr("b.jsonl: this is a Git LFS pointer, not the file itself"));
  // As the run finds it: tokens too may come with the program.
  EXPECT_THAT(facts("TOKENS", "assets/sample/README.md"),
              HasSubstr("assets/sample/README.md: token ids, "));
}

TEST(DataFacts, AreOneLineWhereThereAreNone) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(facts("c4", std::nullopt),
            "Training data\n  c4: training.dataset_path names no files; a run needs them\n");
  EXPECT_EQ(facts("c4", folder.file("none")),
            "Training data\n  " + folder.file("none") +
                ": it is not there (training.dataset_path); a run needs it\n");
  const std::string empty = facts("c4", folder.path());
  EXPECT_EQ(std::count(empty.begin(), empty.end(), '\n'), 2) << empty;
  JobConfig c;
  c.validation.enable = true;
  c.validation.dataset = "c4_validation";
  EXPECT_THAT(data_facts(c), HasSubstr("Validation data\n  c4_validation: validation.dataset_path "
                                       "names no files; a run needs them\n"));
}

}  // namespace
}  // namespace nereus
