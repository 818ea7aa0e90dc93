#include "train/probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <tuple>

#include "base/error.h"
#include "base/log.h"
#include "tensor/safetensors.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

std::vector<double> values(const SafetensorsEntry& e) {
  const std::vector<float> x = e.values<float>();
  return {x.begin(), x.end()};
}

// The tolerances of tests/golden/README.md for an f32 engine.
constexpr double kActivations = 1e-4, kGradients = 5e-4, kLoss = 2e-5;

struct Golden {
  const char* name;
  const char* folder;   // with model.safetensors, inputs, golden, grads
  const char* weights;  // --hf
};
void PrintTo(const Golden& g, std::ostream* out) { *out << g.name; }

class GoldenProbe : public testing::TestWithParam<std::tuple<Golden, Device>> {};

TEST_P(GoldenProbe, EqualsTheReference) {
  const auto& [which, device] = GetParam();
  const std::string folder = test::source_path(std::string("tests/golden/") + which.folder);
  const test::TemporaryFolder out;
  Stream stream(device, &test::pool());
  const log::Capture quiet;
  probe(stream, {.model = test::source_path(std::string("tests/golden/") + which.weights),
                 .tokens = folder + "/inputs.safetensors",
                 .output = out.file("out.safetensors"),
                 .grads = out.file("grads.safetensors")});
  const SafetensorsFile golden = SafetensorsFile::open(folder + "/golden.safetensors");
  const SafetensorsFile mine = SafetensorsFile::open(out.file("out.safetensors"));
  for (const SafetensorsEntry& want : golden.entries()) {
    if (want.name == "nll") continue;
    const SafetensorsEntry& got = mine.require(want.name);
    ASSERT_EQ(got.shape, want.shape) << want.name;
    if (want.dtype == FileDType::i64) {
      EXPECT_EQ(got.values<int64_t>(), want.values<int64_t>()) << want.name;
    } else if (want.name == "loss") {
      EXPECT_NEAR(values(got)[0], values(want)[0], kLoss);
    } else {
      EXPECT_LT(test::normwise_error(values(got), values(want)), kActivations) << want.name;
    }
  }
  const SafetensorsFile golden_grads = SafetensorsFile::open(folder + "/grads.safetensors");
  const SafetensorsFile my_grads = SafetensorsFile::open(out.file("grads.safetensors"));
  for (const SafetensorsEntry& want : golden_grads.entries()) {
    const SafetensorsEntry& got = my_grads.require(want.name);
    ASSERT_EQ(got.shape, want.shape) << want.name;
    EXPECT_LT(test::normwise_error(values(got), values(want)), kGradients) << want.name;
  }
  EXPECT_EQ(my_grads.entries().size(), golden_grads.entries().size());
}

INSTANTIATE_TEST_SUITE_P(
    EveryFolder, GoldenProbe,
    testing::Combine(testing::Values(Golden{"v3", "hf_tiny/v3", "hf_tiny/v3"},
                                     Golden{"v3_sharded", "hf_tiny/v3", "hf_tiny/v3/sharded"},
                                     Golden{"no_q_lora", "hf_tiny/no_q_lora", "hf_tiny/no_q_lora"},
                                     Golden{"no_yarn", "hf_tiny/no_yarn", "hf_tiny/no_yarn"},
                                     Golden{"eps", "hf_tiny/eps", "hf_tiny/eps"},
                                     Golden{"debug_small", "torchtitan_debug/debug_small/step",
                                            "torchtitan_debug/debug_small/step"},
                                     Golden{"v3_small", "torchtitan_debug/v3_small/step",
                                            "torchtitan_debug/v3_small/step"},
                                     Golden{"v3_small_yarn_doc",
                                            "torchtitan_debug/v3_small_yarn_doc/step",
                                            "torchtitan_debug/v3_small_yarn_doc/step"}),
                     testing::ValuesIn(test::devices())),
    [](const auto& each) {
      return std::string(std::get<0>(each.param).name) +
             (std::get<1>(each.param).kind == Device::Kind::cuda ? "_cuda" : "_cpu");
    });

// bf16 arithmetic, against the same golden data: statistically, as the golden README says (2-6 %).
class Bf16Probe : public testing::TestWithParam<Device> {};
TEST_P(Bf16Probe, StaysNearTheReference) {
  const std::string folder = test::source_path("tests/golden/hf_tiny/v3");
  const test::TemporaryFolder out;
  Stream stream(GetParam(), &test::pool());
  const log::Capture quiet;
  probe(stream, {.model = folder,
                 .tokens = folder + "/inputs.safetensors",
                 .output = out.file("out.safetensors"),
                 .compute = DType::bf16});
  const auto want = values(SafetensorsFile::open(folder + "/golden.safetensors").require("logits"));
  const auto got = values(SafetensorsFile::open(out.file("out.safetensors")).require("logits"));
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  EXPECT_LT(std::sqrt(difference / size), 0.12);
  EXPECT_GT(std::sqrt(difference / size), 1e-4);  // it did compute in bf16
}
INSTANTIATE_TEST_SUITE_P(EveryDevice, Bf16Probe, testing::ValuesIn(test::devices()));

// Losses of the references (transformers 5.23; TorchTitan for the last).
TEST(Probe, ReadsOtherFormsOfTheSameTensors) {
  struct Case {
    const char* name;
    double loss;
    bool args;
  };
  for (const Case& c :
       {Case{"fused_experts", 4.396408, false}, Case{"fp8_scales_e8m0", 4.514250, false},
        Case{"no_balancing_bias", 4.388290, true}}) {
    const std::string folder = test::source_path(std::string("tests/golden/hf_forms/") + c.name);
    const test::TemporaryFolder out;
    Stream stream(Device::cpu(), &test::pool());
    const log::Capture quiet;
    ProbeOptions options{.model = folder,
                         .tokens = folder + "/tokens.safetensors",
                         .output = out.file("out.safetensors")};
    if (c.args) options.args = folder + "/torchtitan_args.json";
    probe(stream, options);
    const SafetensorsFile mine = SafetensorsFile::open(out.file("out.safetensors"));
    EXPECT_NEAR(values(mine.require("loss"))[0], c.loss, kLoss) << c.name;
  }
}

TEST(Probe, NamesWeightsThatCannotBeLookedAt) {
  const test::TemporaryFolder folder;
  const std::string loop = folder.file("loop"), none = folder.file("none");
  std::filesystem::create_symlink(loop, loop);
  Stream stream(Device::cpu(), &test::pool());
  for (const auto& [path, what] : std::vector<std::pair<std::string, std::string>>{
           {none, "there is no such file or folder"}, {loop, "Too many levels of symbolic links"}})
    EXPECT_THAT(
        ([&, path = path] {
          probe(stream, {.model = path,
                         .tokens = test::source_path("tests/golden/hf_tiny/v3/inputs.safetensors"),
                         .output = folder.file("out.safetensors")});
        }),
        ThrowsMessage<Error>("--hf " + path + ": " + what + " (nereus download fetches weights)"));
}

TEST(Probe, NamesATokenBeyondTheVocabulary) {
  const std::string folder = test::source_path("tests/golden/hf_tiny/v3");
  const test::TemporaryFolder out;
  {
    SafetensorsWriter writer(out.file("in.safetensors"), {{"input_ids", FileDType::i64, {1, 2}}});
    const int64_t ids[] = {3, 512};
    writer.append(0, std::as_bytes(std::span(ids)));
    writer.finish();
  }
  Stream stream(Device::cpu(), &test::pool());
  EXPECT_THAT(
      [&] {
        probe(stream, {.model = folder,
                       .tokens = out.file("in.safetensors"),
                       .output = out.file("out.safetensors")});
      },
      ThrowsMessage<Error>(HasSubstr("input_ids[0, 1] = 512 is not a token of the model")));
  EXPECT_FALSE(std::filesystem::exists(out.file("out.safetensors")));
}

}  // namespace
}  // namespace nereus
