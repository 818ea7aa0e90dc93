#include "train/evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "tensor/safetensors.h"
#include "train/conversion.h"
#include "train/whole_run_test.h"

namespace nereus {
namespace {

using test::Arguments;
using testing::HasSubstr;
using testing::ThrowsMessage;
using test::operator+;

struct Evaluated {
  EvaluationResult result;
  std::string log;
};

// As `nereus eval --checkpoint CHECKPOINT ARGUMENTS --nproc RANKS` does on the CPU.
Evaluated evaluate(int ranks, const std::string& checkpoint, Arguments arguments,
                   bool training = false) {
  if (ranks > 1) arguments.push_back("--nproc=" + std::to_string(ranks));
  TrainFlags flags;
  const LoadedConfig loaded = load_config(arguments, flags);
  ThreadPool threads(2);
  const SavedModel model(checkpoint, "--checkpoint");
  const DataSet set = training ? training_set(loaded.config) : validation_set(loaded.config);
  Evaluated out;
  const log::Capture capture;
  const auto rank = [&](Communicator& all, World& world) {
    if (all.size() > 1) log::set_rank(all.rank(), all.rank() == 0);
    Stream stream(Device::cpu(), &threads);
    const EvaluationResult mine =
        evaluate_checkpoint(loaded.config, model, set, stream, all, world);
    if (all.rank() == 0) out.result = mine;
  };
  if (ranks == 1) {
    const OneRank one;
    rank(*one.all, one.world.rank(0));
  } else {
    run_thread_world(ranks, {.timeout = std::chrono::seconds(60)},
                     [&](Communicator& all, World& world) { rank(all, world); });
  }
  out.log = capture.text();
  return out;
}

double last_validation_loss(const std::string& folder) {
  double out = 0;
  std::istringstream in(test::read_file(folder + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);) {
    const auto all = nlohmann::json::parse(line);
    if (all.contains("validation_loss")) out = all["validation_loss"];
  }
  return out;
}

TEST(Evaluation, EqualsTheValidationOfTheRunOnEveryLayout) {
  const test::TemporaryFolder f;
  const Arguments run =
      test::small_model(f.file("run")) + Arguments{"--training.steps=4",
                                                   "--training.local_batch_size=2",
                                                   "--training.global_batch_size=8",
                                                   "--validation.enable",
                                                   "--validation.dataset=random",
                                                   "--validation.steps=5",
                                                   "--validation.local_batch_size=1",
                                                   "--validation.seq_len=16"};
  ASSERT_EQ(test::train_on(1, run + Arguments{"--checkpoint.enable", "--checkpoint.last_save_in_hf",
                                              "--checkpoint.export_dtype=float32"})
                .code,
            0);
  const double trained = last_validation_loss(f.file("run"));
  const std::string weights = f.file("run/checkpoint/step-4");
  const Evaluated one = evaluate(1, weights, run);
  EXPECT_EQ(one.result.loss, trained);
  EXPECT_EQ(one.result.tokens, 5 * 16);
  EXPECT_EQ(one.result.labels, 5 * 16);
  EXPECT_DOUBLE_EQ(one.result.perplexity(), std::exp(trained));
  EXPECT_FALSE(std::filesystem::exists("outputs")) << "an evaluation leaves no folder";
  for (const Arguments& layout : {Arguments{}, Arguments{"--parallelism.tensor_parallel_degree=2"},
                                  Arguments{"--parallelism.pipeline_parallel_degree=2"},
                                  Arguments{"--parallelism.expert_parallel_degree=2"},
                                  Arguments{"--parallelism.context_parallel_degree=2"}})
    EXPECT_NEAR(evaluate(2, weights, run + layout).result.loss, trained, 2e-6)
        << fmt::format("{}", fmt::join(layout, " "));
  // The training set is another one.
  const Evaluated other =
      evaluate(1, weights, run + Arguments{"--training.dataset=random", "--training.seed=5"},
               /*training=*/true);
  EXPECT_NE(other.result.loss, trained);
}

// The same of a native checkpoint, and of what it is converted to.
TEST(Evaluation, ReadsNativeCheckpoints) {
  const test::TemporaryFolder f;
  const Arguments run =
      test::small_model(f.file("run")) + Arguments{"--training.steps=4",
                                                   "--training.local_batch_size=2",
                                                   "--training.global_batch_size=8",
                                                   "--validation.enable",
                                                   "--validation.dataset=random",
                                                   "--validation.steps=5",
                                                   "--validation.local_batch_size=1",
                                                   "--validation.seq_len=16"};
  ASSERT_EQ(test::train_on(2, run + Arguments{"--checkpoint.enable"}).code, 0);
  const double trained = last_validation_loss(f.file("run"));
  const std::string native = f.file("run/checkpoint/step-4");
  const SavedModel model(native, "--checkpoint");
  ASSERT_TRUE(model.is_native());
  TrainFlags flags;
  const ModelArgs of_run = resolve_model_args(load_config(run, flags).config);
  EXPECT_EQ(model_facts(model.args()), model_facts(of_run)) << "with nothing but the checkpoint";
  EXPECT_NEAR(evaluate(1, native, run).result.loss, trained, 2e-6);
  EXPECT_EQ(evaluate(2, native, run).result.loss, trained) << "the layout that wrote it";
  ConvertRequest request{.from = native, .to = f.file("hf")};
  describe_model(request, "test");
  {
    const log::Capture quiet;
    convert_weights(request, [](const auto&) {});
  }
  EXPECT_EQ(evaluate(2, f.file("hf"), run).result.loss, trained);
  EXPECT_THAT(test::read_file(f.file("hf/config.json")), HasSubstr("DeepseekV3ForCausalLM"));
}

// The mean loss that transformers has of the same tokens.
TEST(Evaluation, EqualsHuggingFacesLoss) {
  const std::string folder = test::source_path("tests/golden/hf_tiny/v3");
  const test::TemporaryFolder f;
  const SafetensorsFile inputs = SafetensorsFile::open(folder + "/inputs.safetensors");
  const SafetensorsEntry& entry = inputs.require("input_ids");
  const std::vector<int64_t> ids = entry.values<int64_t>();
  const int64_t S = entry.shape[1];
  std::vector<int64_t> labels(ids.begin() + 1, ids.end());
  labels.push_back(-100);
  for (size_t i = 0; i < ids.size(); i += static_cast<size_t>(S))
    labels[i + static_cast<size_t>(S) - 1] = -100;
  const std::string tokens = f.file("tokens.safetensors");
  {
    SafetensorsWriter writer(
        tokens, {{"inputs", FileDType::i64, entry.shape}, {"labels", FileDType::i64, entry.shape}});
    writer.append(0, std::as_bytes(std::span(ids)));
    writer.append(1, std::as_bytes(std::span(labels)));
    writer.finish();
  }
  const double want =
      SafetensorsFile::open(folder + "/golden.safetensors").require("loss").values<float>()[0];
  const Arguments arguments = {"--model.hf_config=" + folder + "/config.json",
                               "--training.dataset=tokens",
                               "--training.dataset_path=" + tokens,
                               "--training.seq_len=" + std::to_string(S),
                               "--training.local_batch_size=1",
                               "--training.mixed_precision_param=float32",
                               "--cpu.threads=2"};
  const Evaluated one = evaluate(1, folder, arguments, /*training=*/true);
  EXPECT_NEAR(one.result.loss, want, 2e-5);
  EXPECT_EQ(one.result.tokens, static_cast<int64_t>(ids.size()));
  EXPECT_EQ(one.result.labels, static_cast<int64_t>(ids.size()) - 2);
  EXPECT_NEAR(evaluate(2, folder, arguments, /*training=*/true).result.loss, want, 2e-5);
}

TEST(Evaluation, NamesWhatIsWrong) {
  const std::string folder = test::source_path("tests/golden/hf_tiny/eps");
  const test::TemporaryFolder f;
  const Arguments model = {"--model.hf_config=" + folder + "/config.json", "--training.seq_len=16",
                           "--training.local_batch_size=1"};
  for (const int ranks : {1, 2}) {
    const auto refuses = [&](const Arguments& more, const std::string& message) {
      EXPECT_THAT([&] { evaluate(ranks, folder, model + more, /*training=*/true); },
                  ThrowsMessage<Error>(HasSubstr(message)));
    };
    refuses({"--training.dataset=tokens"}, "training.dataset = tokens needs training.dataset_path");
    refuses({"--training.dataset=tokens", "--training.dataset_path=" + f.file("none.npy")},
            "training.dataset_path = " + f.file("none.npy") + ": there is no such file");
    refuses({"--training.dataset=random"}, "training.dataset = random has no end");
    refuses({"--training.dataset=random", "--validation.steps=1", "--model_overrides.n_layers=2",
             "--model_overrides.n_dense_layers=2"},
            "these weights are not the model's");
  }
}

// Other weights' config.json is said to differ, as in training.
TEST(Evaluation, SaysThatTheModelIsAnother) {
  const std::string folder = test::source_path("tests/golden/hf_tiny/eps");
  const Evaluated e =
      evaluate(1, folder,
               {"--model.hf_config=" + folder + "/config.json", "--training.seq_len=16",
                "--training.local_batch_size=1", "--training.dataset=random",
                "--validation.steps=1", "--model_overrides.rope_theta=5000"},
               /*training=*/true);
  EXPECT_THAT(e.log, HasSubstr("are of another model than the configuration's"));
  EXPECT_THAT(e.log, HasSubstr("rope_theta"));
}

}  // namespace
}  // namespace nereus
