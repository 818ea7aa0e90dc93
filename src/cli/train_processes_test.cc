// `nereus train` as processes that a launcher starts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <sstream>

#include "base/check.h"
#include "cli/train.h"
#include "test/child_process.h"
#include "train/broken_shard_test.h"

namespace nereus {
namespace {

using testing::HasSubstr;

// Its arguments are lines of WORDS; what it writes goes into the file FILE with its rank.
const test::ChildFunction trains("train", [] {
  const std::string file = test::given("FILE") + std::to_string(test::this_child_rank().rank);
  if (std::freopen(file.c_str(), "w", stdout) == nullptr ||
      std::freopen(file.c_str(), "a", stderr) == nullptr)
    return test::tell("no file");
  std::vector<std::string> words = {"train"};
  std::istringstream lines(test::given("WORDS"));
  for (std::string line; std::getline(lines, line);) words.push_back(line);
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  try {
    test::tell(std::to_string(run_train(static_cast<int>(argv.size()), argv.data())));
  } catch (const Error& e) {
    test::tell(std::to_string(e.exit_code()) + ": " + e.what());
  }
});

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++n;
  return n;
}

// As in threads (train/run_data_test.cc), but that each process has an exit code of its own.
TEST(TrainProcesses, OfWhichOneHasABrokenShardEndTogetherWithOneMessage) {
  const test::TemporaryFolder folder;
  test::write_shards_of_which_the_last_breaks(folder);
  struct Case {
    int ranks;
    const char* arguments;
  };
  for (const Case& c :
       {Case{2, "--data.order=torchtitan"}, Case{2, "--parallelism.pipeline_parallel_degree=2"},
        Case{2, "--parallelism.tensor_parallel_degree=2"}}) {
    SCOPED_TRACE(c.arguments);
    std::string words;
    for (const std::string& word :
         test::run_on_these_shards(folder, test::source_path("tests/golden/cases/")))
      words += word + "\n";
    words += fmt::format(
        "{}\n--training.steps=1000\n--checkpoint.interval=1000\n"
        "--job.dump_folder={}\n",
        c.arguments, folder.file("run"));
    std::vector<test::Child> ranks =
        test::start_ranks("train", c.ranks, {{"WORDS", words}, {"FILE", folder.file("out")}});
    std::string all;
    for (int r = 0; r < c.ranks; ++r) {
      EXPECT_EQ(ranks[static_cast<size_t>(r)].wait(), "74\n") << r;
      all += test::read_file(folder.file("out" + std::to_string(r)));
    }
    EXPECT_EQ(count(all, "error: "), 1u) << all;
    EXPECT_EQ(count(all, "b.json.gz: is truncated: "), 1u) << all;
    EXPECT_THAT(all, HasSubstr("The data set cannot be read on: stopped after step "));
    EXPECT_EQ(count(all, "Report: " + folder.file("run/report.html")), 1u) << all;
    EXPECT_TRUE(std::filesystem::exists(folder.file("run/report.html")));
    EXPECT_THAT(test::only_entry(folder.file("run/checkpoint")), HasSubstr("step-"));
    std::filesystem::remove_all(folder.file("run"));
  }
}

}  // namespace
}  // namespace nereus
