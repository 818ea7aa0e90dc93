// Weights that a run starts from: are they of its model?
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "control/local_world.h"
#include "test/test_tensor.h"
#include "train/run_folder.h"
#include "train/whole_run_test.h"

namespace nereus {
namespace {

using test::Arguments;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;
using test::operator+;

Arguments saving(const std::string& folder, const Arguments& more = {}) {
  return test::small_model(folder) +
         Arguments{"--training.steps=1", "--checkpoint.enable", "--checkpoint.last_save_in_hf"} +
         more;
}

// Of the same shapes.
const Arguments kOther = {"--model_overrides.top_k=1", "--model_overrides.route_scale=1.5",
                          "--model_overrides.score_func=softmax",
                          "--model_overrides.rope_theta=5000"};
const char* const kDifferences =
    "\n  top_k (num_experts_per_tok): 2 there, 1 here"
    "\n  score_func (scoring_func): sigmoid there, softmax here"
    "\n  route_scale (routed_scaling_factor): 2.5 there, 1.5 here"
    "\n  rope_theta: 10000 there, 5000 here\n";

TEST(RunCheckpoint, RefusesAnotherModelInItsOwnFolder) {
  for (const int ranks : {1, 2}) {
    const test::TemporaryFolder f;
    EXPECT_EQ(test::train_on(ranks, saving(f.path())).code, 0);
    const std::string metrics = test::read_file(f.file("metrics.jsonl")),
                      weights = test::read_file(f.file("checkpoint/step-1/model.safetensors"));
    EXPECT_THAT([&] { test::train_on(ranks, saving(f.path(), kOther)); },
                ThrowsMessage<Error>(
                    AllOf(HasSubstr(f.file("checkpoint/step-1") +
                                    " is the last save of this run's own folder, and of another "
                                    "model than this run's ("),
                          HasSubstr(kDifferences), HasSubstr("--job.dump_folder="))));
    EXPECT_EQ(test::read_file(f.file("metrics.jsonl")), metrics);
    EXPECT_EQ(test::read_file(f.file("checkpoint/step-1/model.safetensors")), weights);
    EXPECT_FALSE(std::filesystem::exists(f.file("metrics.1.jsonl")));
    // The model as it was goes on, with longer sequences and without files of metrics too.
    EXPECT_EQ(test::train_on(ranks, saving(f.path())).code, 0);
    EXPECT_EQ(test::train_on(ranks, saving(f.path(), {"--training.seq_len=32"})).code, 0);
  }
}

TEST(RunCheckpoint, WarnsOfWeightsOfAnotherModel) {
  const test::TemporaryFolder f;
  EXPECT_EQ(test::train_on(1, saving(f.file("first"))).code, 0);
  const std::string weights = f.file("first/checkpoint/step-1");
  const Arguments from = {"--checkpoint.initial_load_in_hf",
                          "--checkpoint.initial_load_path=" + weights};
  const test::WholeRun other = test::train_on(2, saving(f.file("other"), from + kOther));
  EXPECT_EQ(other.code, 0);
  const std::string text = "The weights of " + weights + " are of another model than this run's (";
  const size_t at = other.log.find(text);
  ASSERT_NE(at, std::string::npos) << other.log;
  EXPECT_EQ(other.log.find(text, at + 1), std::string::npos) << "one warning";
  EXPECT_THAT(other.log, HasSubstr(kDifferences));
  EXPECT_THAT(other.log, HasSubstr("--model.hf_config=" + weights + "/config.json takes"));
  const test::WholeRun same = test::train_on(1, saving(f.file("same"), from));
  EXPECT_THAT(same.log, Not(HasSubstr("another model")));
  // Of a config.json that is not such a model's nothing can be said.
  f.write("first/checkpoint/step-1/config.json", "{\"model_type\": \"other\"}");
  EXPECT_THAT(test::train_on(1, saving(f.file("unknown"), from)).log,
              AllOf(HasSubstr("Whether the weights are of this model was not checked: "),
                    Not(HasSubstr("another model"))));
}

TEST(RunCheckpoint, NamesWeightsThatCannotBeLookedAt) {
  const test::TemporaryFolder f;
  const std::string loop = f.file("loop");
  std::filesystem::create_symlink(loop, loop);
  std::filesystem::create_directory(f.file("run"));
  const LocalWorld alone(1, std::chrono::seconds(1));
  const auto weights = [&](const Arguments& more) {
    TrainFlags flags;
    return initial_weights(load_config(saving(f.file("run"), more), flags).config, alone.rank(0));
  };
  EXPECT_THAT(
      [&] {
        weights({"--checkpoint.initial_load_path=" + loop, "--checkpoint.initial_load_in_hf"});
      },
      ThrowsMessage<Error>(HasSubstr("checkpoint.initial_load_path = " + loop +
                                     ": Too many levels of symbolic links.")));
  EXPECT_THAT([&] { weights({"--checkpoint.folder=../loop"}); },
              ThrowsMessage<Error>(AllOf(HasSubstr("/../loop: cannot be read: Too many levels of"),
                                         HasSubstr("choose another folder with "))));
}

// Two hosts with a folder of that name each: a rank that looked into its own would start from seed.
TEST(RunCheckpoint, AllRanksStartFromTheWeightsThatRank0Finds) {
  const test::TemporaryFolder f;
  const auto arguments = [&](const std::string& folder) {
    return saving(f.file(folder), {"--training.global_batch_size=4", "--nproc=2"});
  };
  const auto loss_of_two = [&](const std::string& folder0, const std::string& folder1) {
    TrainFlags flags;
    const LoadedConfig loaded[] = {load_config(arguments(folder0), flags),
                                   load_config(arguments(folder1), flags)};
    ThreadPool threads(2);
    const log::Capture quiet;
    run_thread_world(2, {.timeout = std::chrono::seconds(60)},
                     [&](Communicator& all, World& world) {
                       Stream stream(Device::cpu(), &threads);
                       Trainer trainer(loaded[all.rank()].config, stream, all, world);
                       trainer.set_up();
                       trainer.run();
                     });
    return nlohmann::json::parse(test::read_file(f.file(folder0 + "/metrics.jsonl")))["loss"]
        .get<double>();
  };
  const double first = loss_of_two("shared", "shared");
  std::filesystem::copy(f.file("shared"), f.file("rank0"),
                        std::filesystem::copy_options::recursive);
  const double second = loss_of_two("shared", "shared");
  EXPECT_NE(second, first);
  EXPECT_EQ(loss_of_two("rank0", "rank1"), second);
  EXPECT_EQ(loss_of_two("new0", "shared"), first) << "rank 1 has saved weights, rank 0 has none";
}

TEST(RunCheckpoint, ARankThatDoesNotSeeRank0sWeightsSaysWhere) {
  const test::TemporaryFolder f;
  std::filesystem::create_directories(f.file("rank0/checkpoint/step-1"));  // a stale view of it
  f.write("given", "");
  struct Case {
    std::string decided, key;
    bool seen;
    Arguments more;
  };
  const std::string own = f.file("rank0/checkpoint/step-1");
  for (const Case& c :
       std::vector<Case>{{"own " + own, "job.dump_folder", false, {}},
                         {"given " + f.file("none"),
                          "checkpoint.initial_load_path",
                          false,
                          {"--checkpoint.initial_load_path=" + f.file("given"),
                           "--checkpoint.initial_load_in_hf"}},
                         {"given " + f.file("none"), "model.hf_assets_path", false, {}},
                         {"given " + f.file("given"), "", true, {}},
                         {"", "", false, {}}}) {
    SCOPED_TRACE(c.decided + " by " + c.key);
    TrainFlags flags;
    const LoadedConfig loaded = load_config(saving(f.file("rank1"), c.more), flags);
    const LocalWorld world(2, std::chrono::seconds(1));
    world.rank(0).set("initial weights", c.decided);
    const auto get = [&] { return initial_weights(loaded.config, world.rank(1)); };
    if (!c.key.empty()) {
      EXPECT_THAT(get, ThrowsMessage<Error>(
                           AllOf(HasSubstr("Rank 1 on "),
                                 HasSubstr(" does not see the weights that rank 0 starts from, " +
                                           c.decided.substr(c.decided.find(' ') + 1) + " (by " +
                                           c.key + "). "))));
      continue;
    }
    const std::optional<InitialWeights> weights = get();
    ASSERT_EQ(weights.has_value(), c.seen);
    if (c.seen) {
      EXPECT_EQ(weights->path, f.file("given"));
      EXPECT_FALSE(weights->own);
    }
  }
}

}  // namespace
}  // namespace nereus
