#include "cli/setup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "cli/doctor.h"
#include "cli/download.h"
#include "doctor/doctor.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

using Command = int (*)(int, char**);

int call(Command command, std::vector<std::string> words) {
  words.insert(words.begin(), "nereus");
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  return command(static_cast<int>(argv.size()), argv.data());
}

std::string refusal(Command command, const std::vector<std::string>& words) {
  try {
    call(command, words);
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 2);
    return e.what();
  }
  return "no error";
}

class SetupCommand : public testing::Test {
 protected:
  SetupCommand() {
    setenv("HOME", folder_.path().c_str(), 1);
    unsetenv("LLMB_INSTALL");
  }
  std::string play() const {
    folder_.write("play.yaml", "install_path: " + llmb() +
                                   "\ngpu_type: h100\nslurm: {account: a, gpu_partition: batch}\n");
    return folder_.file("play.yaml");
  }
  std::string llmb() const { return folder_.file("llmb"); }
  // This program is a test: the recipe's files are named.
  std::vector<std::string> from_play(std::vector<std::string> more = {}) const {
    std::vector<std::string> words = {"--play", play(), "--no-download", "--repo",
                                      test::source_path("")};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  test::TemporaryFolder folder_;
};

TEST_F(SetupCommand, PlaysAFileAndIsExpressFromThenOn) {
  EXPECT_EQ(call(run_setup_command, from_play()), 0);
  EXPECT_TRUE(fs::exists(llmb() + "/cluster_config.yaml"));
  EXPECT_TRUE(fs::exists(llmb() + "/llmb_repo/recipes/deepseek_v3/launch.sh"));
  EXPECT_THAT(refusal(run_setup_command, from_play()),
              HasSubstr("Existing LLMB installation found at " + llmb()));
  const std::string other = folder_.file("other");
  EXPECT_EQ(
      call(run_setup_command, {"express", other, "--no-download", "--repo", test::source_path("")}),
      0);
  EXPECT_TRUE(fs::exists(other + "/cluster_config.yaml"));
}

TEST_F(SetupCommand, ADryRunWritesNothing) {
  EXPECT_EQ(call(run_setup_command, from_play({"--dry-run"})), 0);
  EXPECT_FALSE(fs::exists(llmb()));
  EXPECT_FALSE(fs::exists(folder_.file(".config")));
}

TEST_F(SetupCommand, RefusesWhatContradicts) {
  EXPECT_EQ(refusal(run_setup_command, from_play({"--account", "b"})),
            "nereus setup: --play takes all answers from its file: leave --account out");
  EXPECT_EQ(refusal(run_setup_command, from_play({"--record", "f"})),
            "nereus setup: --play installs from a file and --record writes one: give one of them");
  EXPECT_THAT(refusal(run_setup_command, {"--acount", "b"}), HasSubstr("did you mean --account?"));
  EXPECT_THAT(refusal(run_setup_command, {"express", llmb()}),
              HasSubstr("system_config.yaml: is not there, and express takes the answers"));
  EXPECT_EQ(refusal(run_setup_command, {"--play", play(), "--repo", folder_.path()}),
            "the recipe's files are not beside " + folder_.path() +
                ": name the folder that has recipes/deepseek_v3 with --repo");
}

TEST_F(SetupCommand, DownloadRefusesWhatItCannotAskFor) {
  EXPECT_EQ(refusal(run_download_command, {"dataset", "--shards", "2000"}),
            "--shards 2000: it must be a whole number from 1 to 1024, or all");
  EXPECT_EQ(refusal(run_download_command, {"model", "--repo", "gpt2"}),
            "--repo gpt2: it must be OWNER/NAME, like deepseek-ai/DeepSeek-V3.1-Base");
  EXPECT_EQ(refusal(run_download_command, {"dataset", "--shards", "2", "--include", "*"}),
            "nereus download dataset: --shards are C4's; --repo and --include name files by "
            "themselves. Leave one out.");
  EXPECT_THAT(refusal(run_download_command, {"tokeniser"}), HasSubstr("did you mean tokenizer?"));
  setenv("HF_ENDPOINT", "hub", 1);
  EXPECT_THAT(refusal(run_download_command, {"tokenizer"}), HasSubstr("HF_ENDPOINT: it must be"));
  unsetenv("HF_ENDPOINT");
}

TEST_F(SetupCommand, DoctorsExitCodeSaysWhetherACheckFailed) {
  const std::string folder = folder_.path();
  doctor::Options same;
  same.folders = {folder};
  same.write_bytes = 1 << 20;
  same.peers = false;
  const bool well = doctor::examine(same).count(doctor::Verdict::failed) == 0;
  EXPECT_EQ(call(run_doctor, {"--no-hub", "--no-peers", "--write-mib", "1", "--folder", folder}),
            well ? 0 : 3);
  EXPECT_EQ(call(run_doctor, {"--no-hub", "--no-peers", "--json", "--folder", folder + "/none"}),
            3);
  EXPECT_THAT(refusal(run_doctor, {"--gpus", "many"}), HasSubstr("--gpus"));
}

}  // namespace
}  // namespace nereus
