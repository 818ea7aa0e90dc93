#include "recipe/setup_questions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "base/error.h"
#include "recipe/node_gpus.h"

namespace nereus::recipe {
namespace {

using testing::HasSubstr;

TEST(ClusterSurvey, ReadsPartitionsAndTheirGpus) {
  const auto all = parse_partitions(
      "batch*|gpu:nvidia_h100_80gb_hbm3:8(S:0-1)|64\n"
      "batch*|gpu:4(S:0,1),mps:100|2\n"
      "cpu|(null)|10\n"
      "old|mib:100,gpu:8|3\n");
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].name, "batch");
  EXPECT_TRUE(all[0].is_default);
  EXPECT_EQ(all[0].nodes, 66);
  EXPECT_EQ(all[0].gpus, 8);
  EXPECT_EQ(recipe_gpu_type(all[0].gpu_type), "h100");
  EXPECT_EQ(all[1].gpus, std::nullopt);
  EXPECT_EQ(all[2].gpus, 8);
  EXPECT_EQ(all[2].gpu_type, "");
  EXPECT_EQ(recipe_gpu_type("gb200"), "gb200");
  EXPECT_EQ(recipe_gpu_type("a100"), "");
}

TEST(ClusterSurvey, CountsTheGpusOfAConfigurationsGres) {
  for (const char* four :
       {"4", "h100:4", "gpu:4", "gpu:h100:4", "gpu:h100:4(S:0-1)", "mps:100,gpu:h100:4"})
    EXPECT_EQ(gpus_of_gres(four), 4) << four;
  for (const char* none : {"", "0", "gpu", "h100", "mps:100,gpu"})
    EXPECT_EQ(gpus_of_gres(none), std::nullopt) << none;
}

ClusterSurvey cluster() {
  return {.cluster_name = "eos",
          .accounts = {"other", "research"},
          .partitions = parse_partitions("batch*|gpu:h100:8|64\ncpu|(null)|4\n")};
}

TEST(SetupQuestions, TakeSlurmsDefaultsAndAskAgainForWhatCannotBe) {
  std::istringstream in("/lustre/llmb\nreserch\nresearch\n\ncpuu\ncpu\n\n\n4\n");
  std::ostringstream out;
  const SetupAnswers a = ask_answers(cluster(), {}, nullptr, {in, out});
  EXPECT_EQ(a.install_path, "/lustre/llmb");
  EXPECT_EQ(a.account, "research");
  EXPECT_EQ(a.gpu_partition, "batch");
  EXPECT_EQ(a.cpu_partition, "cpu");
  EXPECT_EQ(a.gpus_per_node, 8);
  EXPECT_EQ(a.gpu_type, "h100");
  EXPECT_EQ(a.dataset_shards, "4");
  EXPECT_THAT(out.str(), HasSubstr("Your accounts: other, research\n"));
  EXPECT_THAT(out.str(), HasSubstr("  partition batch (default): 64 nodes, 8 GPUs h100\n"));
  EXPECT_THAT(out.str(), HasSubstr("  reserch: there is no such account; did you mean research? "
                                   "Known are: other, research.\n"));
  EXPECT_THAT(out.str(), HasSubstr("  cpuu: there is no such partition; did you mean cpu?"));
  EXPECT_THAT(out.str(), HasSubstr("GPU type (h100, h200, b200, gb200) [h100]: "));
}

TEST(SetupQuestions, WithoutSlurmEveryAnswerIsTaken) {
  std::istringstream in("/l\n\nmine\n\n\nb200\n\n");
  std::ostringstream out;
  const SetupAnswers a = ask_answers({}, {}, nullptr, {in, out});
  EXPECT_EQ(a.account, "");
  EXPECT_EQ(a.gpu_partition, "mine");
  EXPECT_EQ(a.cpu_partition, "mine");
  EXPECT_EQ(a.gpus_per_node, std::nullopt);
  EXPECT_EQ(a.gpu_type, "b200");
  EXPECT_EQ(a.dataset_shards, "all");
}

TEST(SetupQuestions, WhatIsGivenIsNotAskedFor) {
  std::istringstream in("");
  std::ostringstream out;
  Given given = {{"install", "/l"},        {"account", "research"}, {"gpu-partition", "batch,cpu"},
                 {"cpu-partition", "cpu"}, {"gpus-per-node", "4"},  {"gpu-type", "gb200"},
                 {"shards", "none"}};
  const SetupAnswers a = ask_answers(cluster(), given, nullptr, {in, out});
  EXPECT_EQ(a.gpu_partition, "batch,cpu");
  EXPECT_EQ(a.gpus_per_node, 4);
  EXPECT_EQ(a.node_architecture, "aarch64");
  const auto refusal = [&](const char* option, const char* value) {
    Given wrong = given;
    wrong[option] = value;
    try {
      ask_answers(cluster(), wrong, nullptr, {in, out});
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(refusal("gpu-partition", "batsh"),
            "--gpu-partition batsh: there is no such partition; did you mean batch? Known are: "
            "batch, cpu.");
  EXPECT_EQ(refusal("shards", "some"),
            "--shards some: it must be all, none, or a number from 1 to 1024.");
  given.erase("gpu-type");
  given.erase("account");
  try {
    ask_answers(cluster(), given, nullptr, {in, out});
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(),
                 "setup: the input ended at \"Slurm account\". Give the answer with --account, or "
                 "all of them with --play FILE.");
  }
}

TEST(SetupQuestions, YesTakesEveryDefault) {
  std::istringstream in("");
  std::ostringstream out;
  ClusterSurvey one = cluster();
  one.accounts = {"research"};
  const SetupAnswers a = ask_answers(one, {{"install", "/l"}}, nullptr, {in, out, true});
  EXPECT_EQ(a.account, "research");
  EXPECT_EQ(a.gpu_type, "h100");
  EXPECT_EQ(a.dataset_shards, "all");
}

TEST(SetupQuestions, AnEarlierSetupsAnswersStandBeforeSlurms) {
  std::istringstream in("");
  std::ostringstream out;
  const SetupAnswers before = {.install_path = "/l",
                               .account = "other",
                               .gpu_partition = "batch",
                               .cpu_partition = "batch",
                               .gpu_type = "h200",
                               .node_architecture = "aarch64",
                               .gpus_per_node = 4,
                               .cpu_gres = 1,
                               .dataset_shards = "8",
                               .environment = {{"A", "b"}}};
  const SetupAnswers a = ask_answers(cluster(), {}, &before, {in, out, true});
  EXPECT_EQ(a.account, "other");
  EXPECT_EQ(a.cpu_partition, "batch");
  EXPECT_EQ(a.gpu_type, "h200");
  EXPECT_EQ(a.node_architecture, "aarch64");
  EXPECT_EQ(a.gpus_per_node, 4);
  EXPECT_EQ(a.cpu_gres, 1);
  EXPECT_EQ(a.dataset_shards, "8");
  EXPECT_EQ(a.environment, before.environment);
  // Another partition is Slurm's to describe.
  SetupAnswers elsewhere = before;
  elsewhere.gpu_partition = "cpu";
  const SetupAnswers b =
      ask_answers(cluster(), {{"gpu-partition", "batch"}}, &elsewhere, {in, out, true});
  EXPECT_EQ(b.gpus_per_node, 8);
  EXPECT_EQ(b.gpu_type, "h100");
}

}  // namespace
}  // namespace nereus::recipe
