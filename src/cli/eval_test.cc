#include "cli/eval.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/subcommand_test.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::HasSubstr;

const test::Subcommand eval("eval", run_eval);

const std::string& model() {
  static const std::string folder = test::source_path("tests/golden/hf_tiny/eps");
  return folder;
}

// Model and loss are the checkpoint's, with a flavor's name nowhere.
TEST(EvalCommand, TakesTheModelFromTheCheckpoint) {
  std::string out = eval.output({"--checkpoint", model(), "--training.dataset=random",
                                 "--validation.steps=2", "--validation.local_batch_size=1",
                                 "--training.seq_len=16", "--training.local_batch_size=1", "--json",
                                 "--device.kind=cpu", "--cpu.threads=2"});
  EXPECT_THAT(out, HasSubstr("random: loss "));
  out.pop_back();
  const auto last = nlohmann::json::parse(out.substr(out.rfind('\n') + 1));
  EXPECT_EQ(last["tokens"], 32);
  EXPECT_NEAR(last["perplexity"].get<double>(), std::exp(last["loss"].get<double>()), 1e-6);
  const std::string config = eval.output({"--checkpoint=" + model(), "--print-config"});
  EXPECT_THAT(config, HasSubstr("hf_config = \"" + model() + "/config.json\""));
}

TEST(EvalCommand, NamesWhatIsWrong) {
  EXPECT_THAT(eval.refusal({}), HasSubstr("nereus eval: --checkpoint DIR is needed"));
  EXPECT_THAT(eval.refusal({"--checkpoint"}), HasSubstr("--checkpoint: a value is missing"));
  EXPECT_THAT(eval.refusal({"--checkpoint=a", "--checkpoint=b"}), HasSubstr("is given twice"));
  EXPECT_THAT(eval.refusal({"--checkpoint=/none"}),
              HasSubstr("--checkpoint /none: there is no such file or folder"));
  EXPECT_THAT(eval.refusal({"--checkpoint", model(), "--dry-run"}),
              HasSubstr("are nereus train's"));
  EXPECT_THAT(eval.refusal({"--checkpoint", model(), "--training.dataste=c4"}),
              HasSubstr("there is no such option"));
}

}  // namespace
}  // namespace nereus
