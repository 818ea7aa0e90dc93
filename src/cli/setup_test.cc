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
using testing::Not;

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

TEST_F(SetupCommand, AnInstallationIsRenewedWithWhatItHas) {
  EXPECT_EQ(call(run_setup_command, from_play()), 0);
  const std::string config = test::read_file(llmb() + "/cluster_config.yaml");
  std::ofstream(llmb() + "/cluster_config.yaml") << config + "site: here\n";
  const std::vector<std::string> renew = {"--install",     llmb(),   "--yes",
                                          "--no-download", "--repo", test::source_path("")};
  EXPECT_EQ(call(run_setup_command, renew), 0);
  EXPECT_EQ(test::read_file(llmb() + "/cluster_config.yaml"), config + "site: here\n");
  // Of the data set it has nothing, and without being asked to it fetches nothing.
  std::vector<std::string> download = renew;
  download[3] = "--dry-run";
  testing::internal::CaptureStdout();
  EXPECT_EQ(call(run_setup_command, download), 0);
  EXPECT_THAT(testing::internal::GetCapturedStdout(),
              AllOf(HasSubstr("tokenizer: downloads"), Not(HasSubstr("dataset: downloads"))));
}

TEST_F(SetupCommand, ATokenInAFileIsToldAndKeptInNone) {
  const std::string config = llmb() + "/cluster_config.yaml";
  const std::string system = folder_.file(".config/llmb/system_config.yaml");
  const auto told = [&](const std::vector<std::string>& words, const std::string& place) {
    unsetenv("HF_TOKEN");
    testing::internal::CaptureStdout();
    EXPECT_EQ(call(run_setup_command, words), 0);
    const std::string out = testing::internal::GetCapturedStdout();
    EXPECT_THAT(out, HasSubstr("note: " + place +
                               " holds HF_TOKEN. The downloads of this setup may use it; it is "
                               "written to no file. Export it in the shell that downloads or "
                               "submits.\n"));
    EXPECT_THAT(out, Not(HasSubstr("hf_secret")));
    EXPECT_STREQ(getenv("HF_TOKEN"), "hf_secret");
    unsetenv("HF_TOKEN");
    EXPECT_THAT(test::read_file(config), Not(HasSubstr("hf_secret")));
    EXPECT_THAT(test::read_file(system), Not(HasSubstr("hf_secret")));
  };
  const std::vector<std::string> more = {"--yes", "--no-download", "--repo", test::source_path("")};
  const auto with_more = [&](std::vector<std::string> words) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  std::vector<std::string> words = from_play();
  std::ofstream(words[1], std::ios::app) << "environment_vars: {HF_TOKEN: hf_secret, A: b}\n";
  told(words, words[1]);

  std::string text = test::read_file(config);
  text.replace(text.find("  A: "), 0, "  HF_TOKEN: hf_secret\n");
  std::ofstream(config) << text;
  told(with_more({"--install", llmb()}), config);
  // The answers that are recorded do not have it either.
  std::ofstream(config) << text;
  EXPECT_EQ(call(run_setup_command,
                 {"--install", llmb(), "--yes", "--record", folder_.file("recorded.yaml")}),
            0);
  EXPECT_THAT(test::read_file(folder_.file("recorded.yaml")),
              AllOf(HasSubstr("A: b"), Not(HasSubstr("hf_secret"))));
  fs::remove_all(llmb());

  text = test::read_file(system);
  text.replace(text.find("  A: "), 0, "  HF_TOKEN: hf_secret\n");
  std::ofstream(system) << text;
  told(with_more({"express", llmb()}), system);
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
            "the recipe's files are not next to " + folder_.path() +
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
