#include "train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/log.h"
#include "config/load.h"
#include "engine/engine_options.h"
#include "engine/memory_table.h"
#include "tensor/safetensors.h"
#include "test/test_tensor.h"
#include "train/dry_run.h"
#include "train/run_folder.h"
#include "train/whole_run_test.h"

namespace nereus {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;

using test::Arguments;
using test::operator+;

LoadedConfig load(const Arguments& arguments) {
  TrainFlags flags;
  return load_config(arguments, flags);
}

// Trains as `nereus train ARGUMENTS` does; returns the exit code.
int train(const Arguments& arguments, int threads = 2, Device device = Device::cpu()) {
  const LoadedConfig loaded = load(arguments);
  ThreadPool pool(threads);
  Stream stream(device, &pool);
  const OneRank one;
  Trainer trainer(loaded, stream, *one.all, one.world.rank(0));
  trainer.set_up();
  return trainer.run();
}

Arguments small(const std::string& folder, const Arguments& more = {}) {
  return test::small_model(folder) + Arguments{"--model_overrides.n_layers=3"} + more;
}

std::vector<json> metrics(const std::string& folder) {
  std::vector<json> out;
  std::istringstream in(test::read_file(folder + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line));
  return out;
}

std::vector<double> losses(const std::string& folder) {
  std::vector<double> out;
  for (const json& m : metrics(folder)) out.push_back(m["loss"]);
  return out;
}

struct Golden {
  std::string name;
  std::string local_batch;  // 2: the whole batch; 1: two microbatches
  Device device = Device::cpu();
};
void PrintTo(const Golden& g, std::ostream* out) { *out << g.name << "/" << g.local_batch; }
class GoldenTrajectory : public testing::TestWithParam<Golden> {};

// The tolerances of tests/golden/README.md.
TEST_P(GoldenTrajectory, EqualsTorchTitans) {
  const std::string golden =
      test::source_path("tests/golden/torchtitan_debug/" + GetParam().name + "/train/");
  const test::TemporaryFolder folder;
  {
    const log::Capture quiet;
    ASSERT_EQ(
        train({"--model.torchtitan_args=" + golden + "torchtitan_args.json",
               "--training.mixed_precision_param=float32", "--training.dataset=tokens",
               "--training.dataset_path=" + golden + "batches.safetensors",
               "--checkpoint.initial_load_path=" + golden + "init.safetensors",
               "--checkpoint.initial_load_in_hf=true", "--training.steps=20",
               "--training.local_batch_size=" + GetParam().local_batch,
               "--training.global_batch_size=2", "--training.seq_len=32", "--optimizer.lr=2.2e-4",
               "--lr_scheduler.warmup_steps=2", "--lr_scheduler.decay_ratio=0.8",
               "--lr_scheduler.decay_type=cosine", "--lr_scheduler.min_lr_factor=0.1",
               "--metrics.log_freq=1", "--checkpoint.enable=true",
               "--checkpoint.last_save_in_hf=true", "--job.dump_folder=" + folder.path()},
              2, GetParam().device),
        0);
  }
  const std::vector<json> mine = metrics(folder.path());
  std::istringstream csv(test::read_file(golden + "trajectory.csv"));
  std::string line;
  std::getline(csv, line);
  for (const json& m : mine) {
    ASSERT_TRUE(std::getline(csv, line));
    double step = 0, loss = 0, grad_norm = 0, lr = 0;
    ASSERT_EQ(std::sscanf(line.c_str(), "%lf,%lf,%lf,%lf", &step, &loss, &grad_norm, &lr), 4);
    EXPECT_EQ(m["step"], step);
    EXPECT_NEAR(m["loss"], loss, 1e-4);
    EXPECT_NEAR(m["grad_norm"], grad_norm, 1e-3 * grad_norm);
    EXPECT_EQ(m["lr"].get<double>(), lr);
  }
  EXPECT_EQ(mine.size(), 20u);

  const SafetensorsFile want = SafetensorsFile::open(golden + "final.safetensors");
  const SafetensorsFile got =
      SafetensorsFile::open(folder.path() + "/checkpoint/step-20/model.safetensors");
  ASSERT_EQ(got.entries().size(), want.entries().size());
  for (const SafetensorsEntry& w : want.entries()) {
    const std::vector<float> a = got.require(w.name).values<float>(), b = w.values<float>();
    ASSERT_EQ(a.size(), b.size());
    const float tolerance = w.name.ends_with("e_score_correction_bias") ? 1e-6f : 2e-5f;
    for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], tolerance) << w.name;
  }
}

INSTANTIATE_TEST_SUITE_P(EveryFolder, GoldenTrajectory, testing::ValuesIn([] {
                           std::vector<Golden> out;
                           for (const Device device : test::devices()) {
                             out.push_back({"debug_small", "2", device});
                             out.push_back({"v3_small", "2", device});
                             out.push_back({"v3_small", "1", device});
                           }
                           return out;
                         }()));

TEST(Trainer, IsRepeatableToTheBitAndDependsOnTheSeed) {
  const test::TemporaryFolder a, b, c;
  const log::Capture quiet;
  train(small(a.path()));
  train(small(b.path()), /*threads=*/5);
  train(small(c.path(), {"--training.seed=7"}));
  EXPECT_EQ(losses(a.path()), losses(b.path()));
  EXPECT_NE(losses(a.path()), losses(c.path()));
}

TEST(Trainer, TrainsInBf16NearF32) {
  const test::TemporaryFolder a, b;
  const log::Capture quiet;
  train(small(a.path(), {"--training.steps=10"}));
  train(small(b.path(), {"--training.steps=10", "--training.mixed_precision_param=bfloat16"}));
  const auto f32 = losses(a.path()), bf16 = losses(b.path());
  EXPECT_NE(f32, bf16);
  for (size_t i = 0; i < f32.size(); ++i) EXPECT_NEAR(bf16[i], f32[i], 0.02 * f32[i]);
}

TEST(Trainer, KeepsStatesInPartsAndInHostMemoryWithoutChangingABit) {
  for (const Device device : test::devices()) {
    const test::TemporaryFolder plain, split, both;
    const log::Capture quiet;
    const auto run = [&](const test::TemporaryFolder& folder, const Arguments& more) {
      Arguments all = {"--training.mixed_precision_param=bfloat16", "--training.steps=5",
                       "--checkpoint.enable", "--checkpoint.last_save_in_hf"};
      all.insert(all.end(), more.begin(), more.end());
      EXPECT_EQ(train(small(folder.path(), all), 2, device), 0);
      return test::read_file(folder.file("checkpoint/step-5/model.safetensors"));
    };
    const std::string weights = run(plain, {});
    EXPECT_EQ(run(split, {"--optimizer.master_dtype=split"}), weights);
    EXPECT_EQ(run(both, {"--optimizer.master_dtype=split", "--optimizer.offload=states"}), weights);
    EXPECT_EQ(losses(split.path()), losses(plain.path()));
    EXPECT_EQ(losses(both.path()), losses(plain.path()));
  }
}

TEST(Trainer, TheLossFallsOnTextThatRepeats) {
  const test::TemporaryFolder folder;
  std::string shard;
  for (int i = 0; i < 64; ++i)
    shard += "{\"text\": \"to be or not to be, that is the question\"}\n";
  folder.write("text/a.json", shard);
  const log::Capture capture;
  train(small(folder.file("run"),
              {"--model_overrides.vocab_size=129280",
               "--model_overrides.attn_mask_type=block_causal", "--training.dataset=c4",
               "--training.dataset_path=" + folder.file("text"), "--training.local_batch_size=1",
               "--training.steps=15", "--optimizer.lr=1e-2", "--lr_scheduler.warmup_steps=2",
               "--model.hf_assets_path=" + test::source_path("assets/tokenizer")}));
  const auto l = losses(folder.file("run"));
  EXPECT_LT(l.back(), l.front() - 3);
  EXPECT_THAT(capture.text(), HasSubstr("the text was seen"));
  EXPECT_THAT(capture.text(), HasSubstr("Run folder: " + folder.file("run")));
}

TEST(Trainer, PrintsTheLinesThatReadersOfTorchTitansLogsExpect) {
  const test::TemporaryFolder folder;
  const log::Capture capture;
  train(small(folder.path(),
              {"--job.description=a test", "--validation.enable", "--validation.dataset=random",
               "--validation.steps=2", "--validation.local_batch_size=2", "--validation.seq_len=16",
               "--validation.freq=2"}));
  const std::string text = capture.text();
  for (const char* line :
       {" - root - INFO - Starting job: a test\n",
        "Model deepseek_v3 671B size: ", " total parameters\n", "Total parameter count: dense ",
        "Trainer is initialized with local batch size 2, global batch size 2, gradient "
        "accumulation "
        "steps 1, sequence length 16, total steps 3 (warmup ",
        "validate step:  0  loss: ", "Training starts at step 1\n",
        "step:  1  loss: ", "  mfu: N/A\n", "validate step:  2  loss: ",
        "validate step:  3  loss: ", "Loss on held-out rows: ", "Training completed\n"})
    EXPECT_THAT(text, HasSubstr(line));
  EXPECT_EQ(metrics(folder.path()).size(), 6u);  // three steps, three validations
}

TEST(Trainer, SetsAnEarlierRunsMetricsAside) {
  const test::TemporaryFolder folder;
  const log::Capture quiet;
  train(small(folder.path()));
  train(small(folder.path(), {"--training.steps=2"}));
  EXPECT_EQ(metrics(folder.path()).size(), 2u);
  EXPECT_TRUE(std::filesystem::exists(folder.file("metrics.1.jsonl")));
}

TEST(Trainer, ASignalEndsTheRunAfterItsStep) {
  const test::TemporaryFolder folder;
  const log::Capture capture;
  const LoadedConfig loaded =
      load(small(folder.path(), {"--training.steps=1000000", "--checkpoint.enable",
                                 "--checkpoint.last_save_in_hf", "--checkpoint.interval=1000000"}));
  ThreadPool pool(1);
  Stream stream(Device::cpu(), &pool);
  const OneRank one;
  Trainer trainer(loaded, stream, *one.all, one.world.rank(0));
  trainer.set_up();
  std::thread sender([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    std::raise(SIGINT);
  });
  EXPECT_EQ(trainer.run(), 128 + SIGINT);
  sender.join();
  EXPECT_THAT(capture.text(), HasSubstr("SIGINT received: stopped after step "));
  EXPECT_THAT(capture.text(), HasSubstr("Saving the checkpoint (or staging if async is enabled)."));
  const std::vector<json> m = metrics(folder.path());
  EXPECT_TRUE(std::filesystem::exists(folder.file(
      "checkpoint/step-" + std::to_string(m.back()["step"].get<int64_t>()) + "/manifest.json")))
      << "all that a resume needs, whatever the last save is to be";
}

// The last validation was some steps before the run stopped, or there was none after a step.
TEST(Trainer, TheLossOnHeldOutRowsIsOfTheStepItWasTakenAfter) {
  for (const char* freq : {"50", "1000000"}) {
    const test::TemporaryFolder folder;
    const log::Capture capture;
    std::thread sender([&folder] {  // as soon as a step was validated that is not the last one
      const std::string file = folder.file("metrics.jsonl");
      for (int i = 0;
           i < 12000 && !(std::filesystem::exists(file) &&
                          test::read_file(file).find("\"step\":53") != std::string::npos);
           ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      std::raise(SIGTERM);
    });
    EXPECT_EQ(
        train(small(folder.path(), {"--training.steps=1000000", "--validation.enable",
                                    "--validation.dataset=random", "--validation.steps=2",
                                    "--validation.local_batch_size=2", "--validation.seq_len=16",
                                    std::string("--validation.freq=") + freq})),
        128 + SIGTERM);
    sender.join();
    int64_t validated = 0;
    for (const json& m : metrics(folder.path()))
      if (m.contains("validation_loss")) validated = m["step"];
    if (validated > 0) {
      EXPECT_THAT(capture.text(), HasSubstr(fmt::format(" after {} steps\n", validated)));
    } else {
      EXPECT_THAT(capture.text(), Not(HasSubstr("Loss on held-out rows")));
    }
    EXPECT_EQ(validated > 0, std::string(freq) == "50");
  }
}

TEST(Trainer, NamesTheFirstTensorThatIsNotFinite) {
  const test::TemporaryFolder folder;
  const log::Capture quiet;
  EXPECT_THAT(
      [&] {
        train(small(folder.path(), {"--optimizer.lr=1e30", "--lr_scheduler.warmup_steps=0"}));
      },
      ThrowsMessage<Error>(testing::AllOf(HasSubstr("training cannot go on"), HasSubstr("first: "),
                                          HasSubstr("among"),
                                          HasSubstr("The weights are those after step 1"))));
  // With split masters too, where gradients lie in the memory in which masters are put together.
  const auto message = [&](const char* masters) {
    try {
      train(small(folder.path(), {"--optimizer.lr=1e30", "--lr_scheduler.warmup_steps=0",
                                  "--training.mixed_precision_param=bfloat16",
                                  std::string("--optimizer.master_dtype=") + masters}));
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_THAT(message("split"), HasSubstr("training cannot go on"));
  EXPECT_EQ(message("split"), message("float32"));
}

// Bad input: what was asked, the rule, the remedy; nothing is trained.
void expect_refused(const Arguments& arguments, const std::string& message) {
  const log::Capture quiet;
  try {
    train(arguments);
    ADD_FAILURE() << "trained in spite of: " << message;
  } catch (const Error& e) {
    EXPECT_THAT(std::string(e.what()), HasSubstr(message));
    EXPECT_EQ(e.exit_code(), 2);
  }
}

TEST(TrainerErrors, DataSets) {
  const test::TemporaryFolder f;
  expect_refused(small(f.path(), {"--training.dataset=wiki"}),
                 "Dataset wiki is not supported. Supported datasets are: ['c4', 'c4_test'");
  expect_refused(small(f.path(), {"--training.dataset=c4"}),
                 "which `nereus download dataset` fetches");
  expect_refused(
      small(f.path(), {"--training.dataset=c4", "--training.dataset_path=" + f.file("none")}),
      "there is no such folder or file");
  expect_refused(small(f.path(), {"--training.dataset=tokens"}), "needs training.dataset_path");
  expect_refused(
      small(f.path(), {"--validation.enable", "--validation.seq_len=16", "--validation.dataset=c4",
                       "--validation.dataset_path=" + f.file("none")}),
      "validation.dataset_path = " + f.file("none") + ": there is no such folder");
  f.write("text/a.json", "{\"text\": \"a\"}\n");
  expect_refused(
      small(f.path(), {"--training.dataset=c4", "--training.dataset_path=" + f.file("text"),
                       "--model.hf_assets_path=" + f.file("text")}),
      "there is no tokenizer.json; the folder has a.json");
  expect_refused(
      small(f.path(), {"--training.dataset=c4", "--training.dataset_path=" + f.file("text"),
                       "--model.hf_assets_path=" + test::source_path("assets/tokenizer")}),
      "its tokenizer has 128815 ids, but the model's vocabulary only 64");
  expect_refused(small(f.path(), {"--model_overrides.attn_mask_type=block_causal"}),
                 "nothing says which token ends a document");
}

TEST(TrainerErrors, Folders) {
  const test::TemporaryFolder f;
  f.write("file", "");
  expect_refused(small(f.file("file")), "job.dump_folder = ");
  expect_refused(small("/proc/nereus"), "the folder cannot be made");
  expect_refused(small(f.path(), {"--checkpoint.initial_load_path=" + f.file("none"),
                                  "--checkpoint.initial_load_in_hf"}),
                 "checkpoint.initial_load_path is specified but the path is not valid.");
  expect_refused(small(f.path(), {"--checkpoint.initial_load_path=" + f.file("file"),
                                  "--checkpoint.initial_load_in_hf"}),
                 "file");
}

// Before the first step: a run that cannot save is worth nothing.
TEST(TrainerErrors, AFolderOfCheckpointsThatCannotBeMade) {
  const test::TemporaryFolder f;
  expect_refused(small(f.path(), {"--checkpoint.enable", "--checkpoint.last_save_in_hf",
                                  "--checkpoint.folder=/proc/none"}),
                 "checkpoint.folder = /proc/none: the folder cannot be made: ");
  EXPECT_FALSE(std::filesystem::exists(f.file("metrics.jsonl")));
}

TEST(TrainerErrors, AnotherRunsFolder) {
  const test::TemporaryFolder f;
  const LoadedConfig loaded = load(small(f.path()));
  {
    const RunFolder first(loaded.config);
    expect_refused(small(f.path()),
                   "another run is in it (process " + std::to_string(getpid()) + " on ");
    EXPECT_FALSE(std::filesystem::exists(f.file("metrics.jsonl")));
  }
  const RunFolder next(loaded.config);
}

// Neither a folder nor a lock, and nothing that was there before is touched.
TEST(TrainerErrors, ARefusedRunLeavesNothingBehind) {
  const test::TemporaryFolder f;
  const Arguments wrong{"--training.dataset=wiki", "--checkpoint.enable",
                        "--checkpoint.last_save_in_hf"};
  expect_refused(small(f.file("new/run"), wrong), "Dataset wiki is not supported");
  EXPECT_FALSE(std::filesystem::exists(f.file("new")));
  f.write("old/metrics.jsonl", "{}\n");
  expect_refused(small(f.file("old"), wrong), "Dataset wiki is not supported");
  std::vector<std::string> left;
  for (const auto& entry : std::filesystem::directory_iterator(f.file("old")))
    left.push_back(entry.path().filename().string());
  EXPECT_EQ(left, std::vector<std::string>{"metrics.jsonl"});
  EXPECT_EQ(train(small(f.file("old"))), 0) << "the lock is free";
}

TEST(TrainerErrors, AModelThatTheMachineCannotHold) {
  const test::TemporaryFolder f;
  expect_refused(small(f.path(), {"--model_overrides.vocab_size=2000000000"}),
                 "GiB and this machine has, for each of its ranks, ");
}

TEST(Trainer, SaysWhereNothingRunsBesideExperts) {
  const test::TemporaryFolder folder;
  const log::Capture capture;
  train(small(folder.path(), {"--parallelism.expert_overlap", "--training.steps=1"}));
  EXPECT_THAT(capture.text(),
              HasSubstr("Accepted, with nothing here to act on: parallelism.expert_overlap; it is "
                        "for GPUs and the device dispatcher, and this run's is local."));
}

TEST(TrainerErrors, MastersThatProductsReadStayOnTheDevice) {
  const test::TemporaryFolder f;
  const LoadedConfig loaded = load(small(f.path(), {"--optimizer.offload=states"}));
  const ModelArgs args = training_model_args(loaded.config);
  const RunLayout layout = run_layout(loaded.config, args, 1);
  const RankWorld alone;
  const auto offload = [&](bool gpu) {
    return engine_options(loaded.config, args, layout, alone, gpu).offload;
  };
  EXPECT_EQ(offload(false), Offload::none);
  EXPECT_THAT([&] { offload(true); },
              ThrowsMessage<Error>(HasSubstr("GEMMs read the masters themselves: set that to "
                                             "bfloat16, or optimizer.offload to moments.")));
}

TEST(DryRun, DescribesTheLargeModelWithoutAllocatingIt) {
  const LoadedConfig loaded =
      load({test::source_path("recipes/deepseek_v3/deepseek_v3_671b.toml")});
  const std::string text = dry_run(loaded.config, 512).text;
  EXPECT_THAT(text, HasSubstr("671,026,404,352 total parameters"));
  EXPECT_THAT(text, HasSubstr("653,908,770,816"));
  EXPECT_THAT(text, HasSubstr("241,245,235,200"));
  EXPECT_THAT(text, HasSubstr("281,158,232,064"));
  EXPECT_THAT(text, HasSubstr("Memory of rank 0 of 512: dp_shard 512"));
}

}  // namespace
}  // namespace nereus
