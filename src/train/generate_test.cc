#include "train/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/hf_names.h"
#include "checkpoint/hf_weights.h"
#include "data/tokenizer/tokenizer.h"
#include "data/utf8.h"
#include "engine/compose_formula_test.h"
#include "model/parameters.h"
#include "tensor/safetensors.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;
using Ids = std::vector<int32_t>;

std::string golden(const std::string& name) { return test::source_path("tests/golden/" + name); }
std::string digits() { return golden("cases/tokenizer_digits"); }

GenerateOptions greedy(const std::string& checkpoint, std::vector<int64_t> prompt, int64_t tokens) {
  return {.checkpoint = checkpoint,
          .prompt = {},
          .prompt_ids = std::move(prompt),
          .tokenizer = {},
          .text = false,
          .max_tokens = tokens,
          .sampling = {.temperature = 0}};
}

Ids run(const GenerateOptions& o, Device device = Device::cpu()) {
  const log::Capture quiet;
  Stream stream(device, &test::pool());
  return generate(stream, o, [](std::string_view) {});
}

// A folder of weights as the formula takes them.
compose::Weights weights_of(const std::string& folder, const ModelArgs& args) {
  const HfWeights weights = HfWeights::open(folder);
  std::vector<Parameter> all = parameters(args);
  for (int64_t layer = 0; layer < args.n_layers; ++layer)
    if (args.is_moe_layer(layer))
      all.push_back(
          {.name = expert_bias_name(layer), .shape = {args.moe.num_experts}, .initial = {}});
  compose::Weights out;
  for (const Parameter& p : all)
    for (const std::string& name :
         hf_names_of(p.name, ConstTensorView(nullptr, DType::f32, p.shape))) {
      std::vector<float> values(static_cast<size_t>(weights.find(name)->count()));
      weights.read_f32(name, values.data());
      out[p.name].insert(out[p.name].end(), values.begin(), values.end());
    }
  return out;
}

class Golden : public testing::TestWithParam<std::tuple<const char*, Device>> {};

// The judge is the model by its formulas in double, without a cache, which is itself held against
// Hugging Face's logits first.
TEST_P(Golden, GreedyIsTheArgmaxOfTheLogitsStepByStep) {
  const auto& [name, device] = GetParam();
  const std::string folder = golden(std::string("hf_tiny/") + name);
  const auto input =
      SafetensorsFile::open(folder + "/inputs.safetensors").require("input_ids").values<int64_t>();
  const auto logits =
      SafetensorsFile::open(folder + "/golden.safetensors").require("logits").values<float>();
  const ModelArgs args = model_args_from_hf_config(folder + "/config.json");
  const auto V = static_cast<size_t>(args.vocab_size);
  const compose::Weights weights = weights_of(folder, args);
  const auto by_formula = [&](const Ids& text) {
    const Ids labels(text.size(), -100);
    Ids chosen;
    const auto all = compose::Formula(args, text.size(), -1).run(weights, text, labels, chosen);
    const auto last = all.logits.end() - static_cast<std::ptrdiff_t>(V);
    return static_cast<int32_t>(std::max_element(last, all.logits.end()) - last);
  };
  for (const size_t length : {size_t{1}, size_t{9}}) {
    const auto row = logits.begin() + static_cast<std::ptrdiff_t>((length - 1) * V);
    const auto first =
        static_cast<int32_t>(std::max_element(row, row + static_cast<std::ptrdiff_t>(V)) - row);
    Ids text(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(length)), want;
    for (int i = 0; i < 9 && (want.empty() || want.back() != 1); ++i) {
      want.push_back(by_formula(text));
      text.push_back(want.back());
    }
    EXPECT_EQ(want[0], first) << "Hugging Face's own";
    EXPECT_EQ(run(greedy(folder, {input.begin(), input.begin() + static_cast<int64_t>(length)}, 9),
                  device),
              want);
  }
}

INSTANTIATE_TEST_SUITE_P(EveryModel, Golden,
                         testing::Combine(testing::Values("v3", "no_q_lora", "no_yarn", "eps"),
                                          testing::ValuesIn(test::devices())),
                         [](const auto& each) {
                           return std::string(std::get<0>(each.param)) +
                                  (std::get<1>(each.param).kind == Device::Kind::cuda ? "_cuda"
                                                                                      : "_cpu");
                         });

TEST(Generate, EndsAfterTheTokenThatEndsAText) {
  const std::string folder = golden("hf_tiny/eps");
  const Ids all = run(greedy(folder, {5, 9, 2}, 6));
  ASSERT_EQ(all.size(), 6u);
  const test::TemporaryFolder changed;
  std::filesystem::copy_file(folder + "/model.safetensors", changed.file("model.safetensors"));
  std::string config = test::read_file(folder + "/config.json");
  const std::string was = "\"eos_token_id\": 1";
  ASSERT_NE(config.find(was), std::string::npos);
  config.replace(config.find(was), was.size(),
                 "\"eos_token_id\": [510, " + std::to_string(all[2]) + "]");
  changed.write("config.json", config);
  const auto end = std::find(all.begin(), all.end(), all[2]);
  EXPECT_EQ(run(greedy(changed.path(), {5, 9, 2}, 6)), Ids(all.begin(), end + 1));
}

TEST(Generate, ASeedAlwaysDrawsTheSameText) {
  GenerateOptions o = greedy(golden("hf_tiny/eps"), {5, 9, 2}, 8);
  o.sampling = {.temperature = 1, .top_p = 0.9, .seed = 3};
  const Ids first = run(o);
  EXPECT_EQ(run(o), first);
  o.sampling.seed = 4;
  EXPECT_NE(run(o), first);
  // The nucleus of one token.
  o.sampling.top_p = 1e-9;
  EXPECT_EQ(run(o), run(greedy(golden("hf_tiny/eps"), {5, 9, 2}, 8)));
}

// The model is not trained: what it draws is bytes in disorder, many of them parts of characters.
TEST(Generate, TextComesInWholeCharacters) {
  GenerateOptions o = greedy(golden("hf_tiny/v3"), {5, 9, 2}, 60);
  o.sampling.temperature = 1;
  o.text = true;
  o.tokenizer = digits();
  const log::Capture quiet;
  Stream stream(Device::cpu(), &test::pool());
  std::string text;
  int pieces = 0;
  const Ids ids = generate(stream, o, [&](std::string_view piece) {
    EXPECT_TRUE(data::is_valid_utf8(piece)) << piece;
    text += piece;
    ++pieces;
  });
  EXPECT_GT(pieces, 5) << "it streams";
  EXPECT_EQ(text, data::Tokenizer::load(digits())->decode(ids, true));
  int parts = 0;
  for (const int32_t id : ids) {
    std::string bytes;
    data::Tokenizer::load(digits())->append_bytes(id, true, bytes);
    parts += data::is_valid_utf8(bytes) ? 0 : 1;
  }
  EXPECT_GT(parts, 0);
}

TEST(Generate, ATextIsEncodedWithItsBosInFront) {
  GenerateOptions o = greedy(golden("hf_tiny/eps"), {}, 4);
  const auto tokenizer = data::Tokenizer::load(digits());
  Ids ids;
  data::Tokenizer::Encoder(*tokenizer).encode("31", ids);
  std::vector<int64_t> with_bos{*tokenizer->bos_id()};
  with_bos.insert(with_bos.end(), ids.begin(), ids.end());
  const Ids want = run(greedy(o.checkpoint, with_bos, 4));
  o.prompt_ids.reset();
  o.prompt = "31";
  o.tokenizer = digits();
  EXPECT_EQ(run(o), want);
}

TEST(Generate, NamesWhatIsWrong) {
  const std::string eps = golden("hf_tiny/eps");
  const test::TemporaryFolder empty;
  const auto refuses = [](GenerateOptions o, const std::string& message) {
    EXPECT_THAT([&] { run(o); }, ThrowsMessage<Error>(HasSubstr(message)));
  };
  refuses(greedy(empty.file("none"), {1}, 1),
          "--checkpoint " + empty.file("none") +
              ": there is no such file or folder (nereus download fetches weights)");
  refuses(greedy(empty.path(), {1}, 1), empty.file("config.json"));
  const auto vocabulary = model_args_from_hf_config(eps + "/config.json").vocab_size;
  refuses(greedy(eps, {1, vocabulary}, 1),
          fmt::format("--prompt-ids: {} is not a token of the model: its vocabulary has {} ids",
                      vocabulary, vocabulary));
  refuses(greedy(eps, {-1}, 1), "--prompt-ids: -1 is not a token of the model");
  GenerateOptions text = greedy(eps, {1}, 1);
  text.text = true;
  refuses(text, "--checkpoint " + eps + ": it has no tokenizer.json, which text needs");
  text.tokenizer = empty.path();
  refuses(text, empty.path());
  // Weights of another model than config.json's.
  std::filesystem::copy_file(golden("hf_tiny/no_yarn/model.safetensors"),
                             empty.file("model.safetensors"));
  std::filesystem::copy_file(eps + "/config.json", empty.file("config.json"));
  refuses(greedy(empty.path(), {1}, 1), "these weights are not the model's");
}

}  // namespace
}  // namespace nereus
