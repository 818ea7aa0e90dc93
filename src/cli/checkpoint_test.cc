#include "cli/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "test/test_tensor.h"
#include "train/whole_run_test.h"

namespace nereus {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

struct Said {
  int code = 0;
  std::string out;
};
Said checkpoint(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "checkpoint");
  std::vector<char*> argv;
  for (std::string& a : arguments) argv.push_back(a.data());
  testing::internal::CaptureStdout();
  Said said;
  try {
    said.code = run_checkpoint(static_cast<int>(argv.size()), argv.data());
  } catch (const Error& e) {
    said = {e.exit_code(), e.what()};
    testing::internal::GetCapturedStdout();
    return said;
  }
  said.out = testing::internal::GetCapturedStdout();
  return said;
}

TEST(CheckpointCommand, ShowsVerifiesAndCompares) {
  const test::TemporaryFolder f;
  const auto run = [&](const std::string& name, int ranks, const test::Arguments& more) {
    test::Arguments all = test::small_model(f.file(name));
    all.insert(all.end(), {"--checkpoint.enable", "--checkpoint.no_last_save_model_only",
                           "--training.global_batch_size=4", "--checkpoint.interval=2"});
    all.insert(all.end(), more.begin(), more.end());
    EXPECT_EQ(test::train_on(ranks, all).code, 0);
    return f.file(name + "/checkpoint");
  };
  const std::string a = run("a", 2, {}), b = run("b", 1, {}),
                    c = run("c", 1, {"--training.seed=5", "--optimizer.lr=2e-3"});

  Said said = checkpoint({"show", a});
  EXPECT_EQ(said.code, 0);
  EXPECT_THAT(said.out, AllOf(HasSubstr(a + "/step-3: step 3, 192 tokens"),
                              HasSubstr("dp_shard 2 (2 ranks)"), HasSubstr("in 2 files"),
                              HasSubstr("exp_avg_sq"), HasSubstr("data of rank 1: ")));
  EXPECT_THAT(checkpoint({"show", a + "/step-2", "--tensors"}).out,
              HasSubstr("model      layers.1.moe.experts.w1 f32 [4, 16, 32], 2 slices"));
  const json shown = json::parse(checkpoint({"show", a, "--json"}).out);
  EXPECT_EQ(shown["run"]["step"], 3);
  EXPECT_EQ(shown["tensors"][0]["name"], "tok_embeddings.weight");

  EXPECT_THAT(checkpoint({"verify", a}).out, HasSubstr("step-3: whole, "));
  EXPECT_EQ(json::parse(checkpoint({"verify", a, "--json"}).out)["whole"], true);
  // Two layouts: by rounding, if at all; the configuration is one.
  said = checkpoint({"diff", a, b});
  EXPECT_THAT(said.out, testing::Not(HasSubstr("optimizer.")));
  EXPECT_EQ(checkpoint({"diff", a, a}).out, "the same\n");
  said = checkpoint({"diff", b, c});
  EXPECT_EQ(said.code, 1);
  EXPECT_THAT(
      said.out,
      AllOf(HasSubstr("optimizer.lr: 0.0008 and 0.002\n"), HasSubstr("training.seed: None and 5\n"),
            HasSubstr("model of output.weight: 2048 of 2048 elements differ, by ")));
  const json differing = json::parse(checkpoint({"diff", b, c, "--json"}).out);
  EXPECT_EQ(differing["same"], false);
  EXPECT_EQ(differing["tensors"][0]["elements"], (std::vector<int64_t>{2048, 2048}));
  EXPECT_THAT(checkpoint({"diff", a + "/step-2", a}).out, HasSubstr("step: 2 and 3\n"));

  const std::string shard = a + "/step-3/shard-00000-of-00002.safetensors";
  std::string bytes = test::read_file(shard);
  bytes[bytes.size() - 70] = static_cast<char>(bytes[bytes.size() - 70] ^ 2);
  f.write("a/checkpoint/step-3/shard-00000-of-00002.safetensors", bytes);
  said = checkpoint({"verify", a});
  EXPECT_EQ(said.code, 74);
  EXPECT_THAT(said.out, AllOf(HasSubstr("step-3 is damaged:\n  " + shard + ": "),
                              HasSubstr(" when it was written")));
  const json damaged = json::parse(checkpoint({"verify", a, "--json"}).out);
  EXPECT_EQ(damaged["whole"], false);
  EXPECT_EQ(damaged["damage"].size(), 1u);
  said = checkpoint({"show", f.path()});
  EXPECT_EQ(said.code, 2);
  EXPECT_THAT(said.out, HasSubstr("this is no native checkpoint, and no folder of them"));
}

}  // namespace
}  // namespace nereus
