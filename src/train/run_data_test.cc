// Data sets and tokenizers as users bring them, through whole runs (tests/golden/cases/README.md).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "train/broken_shard_test.h"
#include "train/resume_test.h"
#include "train/whole_run_test.h"

namespace nereus {
namespace {

using test::Arguments;
using test::operator+;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;

std::string of_case(const std::string& name) {
  return test::source_path("tests/golden/cases/" + name);
}

// The losses in metrics.jsonl.
std::vector<double> losses(const std::string& folder) {
  std::vector<double> out;
  std::istringstream in(test::read_file(folder + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);)
    out.push_back(nlohmann::json::parse(line)["loss"]);
  return out;
}

// The losses and the log of a run of a case's configuration.
struct CaseRun {
  std::vector<double> losses;
  std::string log;
};
CaseRun train_case(const Arguments& arguments) {
  const test::TemporaryFolder folder;
  CaseRun out;
  out.log = test::train_on(1, arguments + Arguments{"--job.dump_folder=" + folder.path()}).log;
  out.losses = losses(folder.path());
  return out;
}

void expect_losses(const CaseRun& run, const std::vector<double>& wanted) {
  ASSERT_EQ(run.losses.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(run.losses[i], wanted[i], 2e-6) << i;
}

Arguments end_of_document_case() {
  const std::string at = of_case("eos_of_config/");
  return {at + "run.toml", "--model.hf_config=" + at + "config.json",
          "--model.hf_assets_path=" + at, "--training.dataset_path=" + at + "docs.jsonl"};
}

TEST(EndOfDocument, IsTheTokenThatTheDataSetsTokenizerPutsThere) {
  const CaseRun run = train_case(end_of_document_case());
  expect_losses(run, {7.465211, 7.481108});  // of a config.json with eos_token_id 1
  EXPECT_THAT(run.log, HasSubstr("Token 1 ends a document, as tokenizer_config.json in " +
                                 of_case("eos_of_config/") +
                                 " says and the data set has it; "
                                 "config.json's eos_token_id (586) is not used"));
}

TEST(EndOfDocument, MayBeOneOfAList) {
  const test::TemporaryFolder folder;
  nlohmann::json config =
      nlohmann::json::parse(test::read_file(of_case("eos_of_config/config.json")));
  const auto with = [&](const nlohmann::json& ids) {
    config["eos_token_id"] = ids;
    return end_of_document_case() +
           Arguments{"--model.hf_config=" + folder.write("config.json", config.dump())};
  };
  const CaseRun several = train_case(with({586, 1}));
  expect_losses(several, {7.465211, 7.481108});
  EXPECT_THAT(several.log, HasSubstr("config.json's eos_token_id (586, 1) is not used"));
  EXPECT_THAT(train_case(with(1)).log, Not(HasSubstr("ends a document")));
  const CaseRun none = train_case(with({3, 586}) + Arguments{"--training.dataset=random"});
  EXPECT_THAT(none.log, HasSubstr("Token 3 ends a document, the first of config.json's "
                                  "eos_token_id (3, 586): data set random has no tokenizer"));
}

TEST(EndOfDocument, IsMissedInATokenizerWithoutOne) {
  const test::TemporaryFolder folder;
  folder.write("tokenizer.json", test::read_file(of_case("eos_of_config/tokenizer.json")));
  const Arguments without =
      end_of_document_case() + Arguments{"--model.hf_assets_path=" + folder.path()};
  EXPECT_THAT([&] { train_case(without); },
              ThrowsMessage<Error>(AllOf(
                  HasSubstr("attn_mask_type is block_causal, but no token ends a document: "
                            "tokenizer_config.json in model.hf_assets_path = " +
                            folder.path() + " is not there or has no eos_token. Add the file"),
                  HasSubstr("--model_overrides.attn_mask_type=causal"))));
  const CaseRun causal = train_case(without + Arguments{"--model_overrides.attn_mask_type=causal"});
  EXPECT_THAT(causal.log, HasSubstr("Documents follow one another without a token between them"));
}

// TorchTitan's 16B configuration with a tokenizer of the form that it names
// (deepseek-moe-16b-base's: Splits, Digits, ByteLevel), at other widths.
TEST(DataSet, IsReadByTheTokenizerThatThe16BConfigurationNames) {
  const CaseRun run =
      train_case({test::source_path("configs/deepseek_v3_16b.toml"),
                  "--model.hf_assets_path=" + of_case("tokenizer_digits"),
                  "--training.dataset_path=" + of_case("data_nan"), "--training.steps=2",
                  "--training.seq_len=32", "--training.local_batch_size=2", "--metrics.log_freq=1",
                  "--model_overrides.vocab_size=912", "--model_overrides.dim=32",
                  "--model_overrides.inter_dim=64", "--model_overrides.moe_inter_dim=16",
                  "--model_overrides.n_layers=2", "--model_overrides.n_heads=2"});
  ASSERT_EQ(run.losses.size(), 2u);
  EXPECT_NEAR(run.losses[0], std::log(912.0), 0.6);
  EXPECT_THAT(run.log, HasSubstr("Model deepseek_v3 16B size"));
}

// 40 documents, as files of five kinds; the losses are those of the documents read whole.
TEST(DataSet, IsReadAsUsersBringIt) {
  const auto train = [](const std::string& name) {
    return train_case({of_case("minimal.toml"),
                       "--model.hf_assets_path=" + of_case("eos_of_config"),
                       "--training.dataset_path=" + of_case(name)});
  };
  for (const char* name : {"data_nan", "data_stray_json", "data_hidden_files"}) {
    SCOPED_TRACE(name);
    const CaseRun run = train(name);
    expect_losses(run, {7.349824, 7.179368, 7.307105});
    EXPECT_THAT(run.log, Not(HasSubstr("WARNING - Data:")));
  }
  EXPECT_THAT(train("data_stray_json").log,
              HasSubstr("1 shard, c4-train.00000-of-01024.json.gz, "));
  EXPECT_THAT([&] { train("data_json_array"); },
              ThrowsMessage<Error>(AllOf(
                  HasSubstr("1 of 1 shards cannot be read as lines of JSON\n  docs.json: one JSON "
                            "array, not a document a line"),
                  HasSubstr("jq -c '.[]' IN > OUT.jsonl"))));
}

TEST(DataSet, OfWhichMuchIsSkippedSaysSoAgainAtTheEnd) {
  const test::TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 30; ++i)
    text += "{\"text\": \"to be or not to be\"}\n{\"content\": 1}\n{broken\n";
  folder.write("a.jsonl", text);
  const CaseRun run =
      train_case({of_case("minimal.toml"), "--model.hf_assets_path=" + of_case("eos_of_config"),
                  "--training.dataset_path=" + folder.path()});
  EXPECT_THAT(
      run.log,
      HasSubstr("a.jsonl:2: no \"text\" that is a string (the keys that are there: content)"));
  EXPECT_THAT(run.log, HasSubstr("without a \"text\"); 0 ill-formed parts of text"));
}

// A shard that is whole at its start and breaks after some steps, on every rank or on one. All
// ranks end together, and no step is made that a run of as many steps would not make.
TEST(DataSet, ThatBreaksLeavesTheWeightsOfTheStepsBefore) {
  const test::TemporaryFolder folder;
  test::write_shards_of_which_the_last_breaks(folder);
  struct Case {
    int ranks;
    Arguments arguments;
  };
  for (const Case& c : {
           Case{1, {"--metrics.log_freq=1"}},     // what is said with a step is known at once
           Case{1, {"--metrics.log_freq=1000"}},  // or a step late
           Case{2, {"--metrics.log_freq=1000", "--data.workers=2"}},
           Case{2,
                {"--metrics.log_freq=1000", "--data.order=torchtitan"}},  // breaks on rank 1 alone
           Case{2, {"--metrics.log_freq=3", "--parallelism.pipeline_parallel_degree=2"}},
           Case{2, {"--metrics.log_freq=1000", "--parallelism.tensor_parallel_degree=2"}},
           Case{4,
                {"--metrics.log_freq=1000", "--parallelism.pipeline_parallel_degree=2",
                 "--data.order=torchtitan"}},
       }) {
    const Arguments same = test::run_on_these_shards(folder, of_case("")) + c.arguments;
    SCOPED_TRACE(fmt::format("{} ranks, {}", c.ranks, fmt::join(c.arguments, " ")));
    const test::WholeRun run = test::train_on(
        c.ranks, same + Arguments{"--training.steps=1000", "--checkpoint.interval=1000",
                                  "--job.dump_folder=" + folder.file("run")});
    EXPECT_EQ(run.code, 74);
    EXPECT_THAT(run.data_error,
                AllOf(HasSubstr(folder.file("data/b.json.gz") +
                                ": is truncated: the compressed data end in the middle, after "),
                      HasSubstr(" bytes. Download or copy it again.\n  It was read up to line "),
                      HasSubstr("data.on_broken_shard = \"skip\" passes over what is left")));
    EXPECT_EQ(run.data_error.starts_with("rank "), c.arguments.back() == "--data.order=torchtitan");
    EXPECT_THAT(run.log, HasSubstr("The data set cannot be read on: stopped after step "));
    const std::string saved = test::only_entry(folder.file("run/checkpoint"));
    const std::string steps = saved.substr(5);
    EXPECT_GT(std::stoi(steps), 5);
    EXPECT_EQ(test::train_on(c.ranks, same + Arguments{"--training.steps=" + steps,
                                                       "--checkpoint.interval=" + steps,
                                                       "--job.dump_folder=" + folder.file("whole")})
                  .code,
              0);
    EXPECT_TRUE(test::shards(folder.file("run"), std::stoll(steps)) ==
                test::shards(folder.file("whole"), std::stoll(steps)))
        << "weights and moments";
    for (const char* name : {"run", "whole"}) std::filesystem::remove_all(folder.file(name));
  }
}

TEST(DataSet, ThatBreaksIsPassedOverWhereThatIsAskedFor) {
  const test::TemporaryFolder folder;
  test::write_shards_of_which_the_last_breaks(folder);
  const test::WholeRun run = test::train_on(
      2, test::run_on_these_shards(folder, of_case("")) +
             Arguments{"--training.steps=15", "--checkpoint.enable=false",
                       "--data.on_broken_shard=skip", "--job.dump_folder=" + folder.file("run")});
  EXPECT_EQ(run.code, 0);
  // Both ranks read it, and the first speaks.
  const std::string what = "data/b.json.gz: is truncated: the compressed data end in the middle";
  const size_t at = run.log.find(what);
  ASSERT_NE(at, std::string::npos) << run.log;
  EXPECT_EQ(run.log.find(what, at + 1), std::string::npos) << run.log;
  EXPECT_THAT(run.log, HasSubstr("1 broken shards passed over"));
}

}  // namespace
}  // namespace nereus
