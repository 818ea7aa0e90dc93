#include "train/data_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

JobConfig config(const std::string& dataset, const std::optional<std::string>& path) {
  JobConfig c;
  c.model.hf_assets_path = test::source_path("tests/golden/cases/eos_of_config");
  c.training.dataset = dataset;
  c.training.dataset_path = path;
  return c;
}
DataFacts all_facts(const JobConfig& c, bool masked = false) {
  ModelArgs args;
  args.vocab_size = 129280;
  args.attn_mask_type = masked ? MaskType::block_causal : MaskType::causal;
  return data_facts(c, args);
}
std::string facts(const std::string& dataset, const std::optional<std::string>& path) {
  return all_facts(config(dataset, path)).text;
}
std::vector<std::string> missing(const JobConfig& c) {
  std::vector<std::string> out;
  for (const DataFacts::Missing& m : all_facts(c).missing) out.push_back(m.text);
  return out;
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
            "Training data\n  c4: training.dataset_path names no files\n");
  EXPECT_EQ(facts("c4", folder.file("none")), "Training data\n  " + folder.file("none") +
                                                  ": it is not there (training.dataset_path)\n");
  const std::string empty = facts("c4", folder.path());
  EXPECT_EQ(std::count(empty.begin(), empty.end(), '\n'), 2) << empty;
  JobConfig c = config("random", std::nullopt);
  c.validation.enable = true;
  c.validation.dataset = "c4_validation";
  EXPECT_THAT(all_facts(c).text, HasSubstr("Validation data\n  c4_validation: "
                                           "validation.dataset_path names no files\n"));
  EXPECT_THAT(missing(c), ElementsAre("validation.dataset = c4_validation needs "
                                      "validation.dataset_path"));
}

TEST(DataFacts, ListWhatARunHereWouldEndFor) {
  const test::TemporaryFolder folder;
  folder.write("good/a.jsonl", "{\"text\": \"one\"}\n");
  folder.write("bad/a.jsonl", "{\"text\": \"one\"}\n");
  folder.write("bad/b.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n");
  std::filesystem::create_directories(folder.file("empty"));
  const auto of = [&](const std::string& name) { return config("c4", folder.file(name)); };
  EXPECT_THAT(missing(of("good")), ElementsAre());
  EXPECT_THAT(missing(of("none")),
              ElementsAre("the data set " + folder.file("none") +
                          " (training.dataset_path): it is not there; `nereus download dataset "
                          "--dir " +
                          folder.file("none") + "` fetches C4 there"));
  EXPECT_THAT(missing(of("empty")), ElementsAre(HasSubstr(folder.file("empty"))));
  EXPECT_THAT(missing(of("bad")), ElementsAre(HasSubstr("1 of its 2 shards cannot be read")));
  JobConfig c = of("bad");
  c.data.on_broken_shard = BrokenShard::skip;
  EXPECT_THAT(missing(c), ElementsAre());
  c = of("good");
  c.model.hf_assets_path = folder.file("good");
  EXPECT_THAT(missing(c), ElementsAre(HasSubstr("there is no tokenizer.json")));
  c.training.dataset = "random";
  EXPECT_THAT(missing(c), ElementsAre());
}

TEST(DataFacts, RefuseWhatNoFileWouldMend) {
  const test::TemporaryFolder folder;
  EXPECT_THAT([&] { facts("wikitext", folder.path()); },
              ThrowsMessage<Error>(HasSubstr("training.dataset = \"wikitext\"")));
  ModelArgs small;
  small.vocab_size = 9;
  EXPECT_THAT([&] { data_facts(config("c4", folder.path()), small); },
              ThrowsMessage<Error>(HasSubstr("the model's vocabulary only 9")));
  EXPECT_THAT([&] { all_facts(config("random", std::nullopt), true); },
              ThrowsMessage<Error>(HasSubstr("nothing says which token ends a document")));
  EXPECT_NO_THROW(all_facts(config("c4", std::nullopt), true));
}

}  // namespace
}  // namespace nereus
