#include "cli/eval.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::HasSubstr;

int eval_command(std::vector<std::string> args) {
  args.insert(args.begin(), "eval");
  std::vector<char*> argv;
  argv.reserve(args.size());
  for (std::string& arg : args) argv.push_back(arg.data());
  return run_eval(static_cast<int>(argv.size()), argv.data());
}

std::string output_of(const std::vector<std::string>& args) {
  testing::internal::CaptureStdout();
  try {
    EXPECT_EQ(eval_command(args), 0);
  } catch (const std::exception& e) {
    ADD_FAILURE() << e.what();
  }
  return testing::internal::GetCapturedStdout();
}

std::string refusal(const std::vector<std::string>& args) {
  try {
    eval_command(args);
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 2);
    return e.what();
  }
  return "no error";
}

const std::string& model() {
  static const std::string folder = test::source_path("tests/golden/hf_tiny/eps");
  return folder;
}

// Model and loss are the checkpoint's, with a flavor's name nowhere.
TEST(EvalCommand, TakesTheModelFromTheCheckpoint) {
  std::string out = output_of({"--checkpoint", model(), "--training.dataset=random",
                               "--validation.steps=2", "--validation.local_batch_size=1",
                               "--training.seq_len=16", "--training.local_batch_size=1", "--json",
                               "--device.kind=cpu", "--cpu.threads=2"});
  EXPECT_THAT(out, HasSubstr("random: loss "));
  out.pop_back();
  const auto last = nlohmann::json::parse(out.substr(out.rfind('\n') + 1));
  EXPECT_EQ(last["tokens"], 32);
  EXPECT_NEAR(last["perplexity"].get<double>(), std::exp(last["loss"].get<double>()), 1e-6);
  const std::string config = output_of({"--checkpoint=" + model(), "--print-config"});
  EXPECT_THAT(config, HasSubstr("hf_config = \"" + model() + "/config.json\""));
}

TEST(EvalCommand, NamesWhatIsWrong) {
  EXPECT_THAT(refusal({}), HasSubstr("nereus eval: --checkpoint DIR is needed"));
  EXPECT_THAT(refusal({"--checkpoint"}), HasSubstr("--checkpoint: a value is missing"));
  EXPECT_THAT(refusal({"--checkpoint=a", "--checkpoint=b"}), HasSubstr("is given twice"));
  EXPECT_THAT(refusal({"--checkpoint=/none"}),
              HasSubstr("--checkpoint /none: there is no such file or folder"));
  EXPECT_THAT(refusal({"--checkpoint", model(), "--dry-run"}), HasSubstr("are nereus train's"));
  EXPECT_THAT(refusal({"--checkpoint", model(), "--training.dataste=c4"}),
              HasSubstr("there is no such option"));
}

}  // namespace
}  // namespace nereus
