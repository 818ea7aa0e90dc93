// Weights that a run starts from: are they of its model?
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "base/error.h"
#include "control/local_world.h"
#include "test/test_tensor.h"
#include "train/checkpoint_start.h"
#include "train/shared_folder.h"
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
  const auto weights = [&](const Arguments& more) {
    TrainFlags flags;
    find_checkpoint_start(load_config(saving(f.file("run"), more), flags).config, RunState());
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

// Two hosts with a folder of that name each.
TEST(RunCheckpoint, AFolderThatIsNotSharedIsRefusedByHost) {
  const test::TemporaryFolder f;
  const auto check = [&](const std::string& second) {
    std::filesystem::create_directories(f.file("first"));
    std::filesystem::create_directories(f.file(second));
    ThreadPool threads(1);
    run_thread_world(2, {.timeout = std::chrono::seconds(60)}, [&](Communicator& all, World&) {
      Stream stream(Device::cpu(), &threads);
      check_shared_folder(f.file(all.rank() == 0 ? "first" : second), all, stream,
                          std::chrono::milliseconds(100));
    });
  };
  check("first");
  EXPECT_TRUE(std::filesystem::is_empty(f.file("first")));
  EXPECT_THAT([&] { check("second"); },
              ThrowsMessage<Error>(
                  AllOf(HasSubstr(f.file("second") + " is not the same folder on all hosts: rank 1 "
                                                     "on "),
                        HasSubstr(" does not see there what rank 0 wrote."))));
}

TEST(RunCheckpoint, ARankThatDoesNotSeeRank0sWeightsSaysWhere) {
  const test::TemporaryFolder f;
  f.write("given", "");
  f.write("own/manifest.json", "");
  std::filesystem::create_directories(f.file("stale"));
  using Kind = CheckpointStart::Kind;
  struct Case {
    Kind kind;
    std::string path;
    bool own;
    std::string key;
    Arguments more;
  };
  for (const Case& c :
       std::vector<Case>{{Kind::resume, f.file("stale"), true, "job.dump_folder", {}},
                         {Kind::hugging_face,
                          f.file("none"),
                          false,
                          "checkpoint.initial_load_path",
                          {"--checkpoint.initial_load_path=" + f.file("given"),
                           "--checkpoint.initial_load_in_hf"}},
                         {Kind::hugging_face, f.file("none"), false, "model.hf_assets_path", {}},
                         {Kind::hugging_face, f.file("given"), false, "", {}},
                         {Kind::resume, f.file("own"), true, "", {}},
                         {Kind::seed, "", false, "", {}}}) {
    TrainFlags flags;
    const LoadedConfig loaded = load_config(saving(f.file("rank1"), c.more), flags);
    const LocalWorld world(2, std::chrono::seconds(1));
    const auto check = [&] {
      check_seen({.kind = c.kind, .path = c.path, .own = c.own}, loaded.config, world.rank(1),
                 std::chrono::milliseconds(50));
    };
    if (c.key.empty()) {
      check();
      continue;
    }
    EXPECT_THAT(check, ThrowsMessage<Error>(
                           AllOf(HasSubstr("Rank 1 on "),
                                 HasSubstr(" does not see the weights that rank 0 starts from, " +
                                           c.path + " (by " + c.key + "), not within 0.05 s. "))));
  }
}

// As on a network file system whose client has not looked since another one wrote.
TEST(RunCheckpoint, ACheckpointThatARankSeesLateIsWaitedFor) {
  const test::TemporaryFolder f;
  TrainFlags flags;
  const LoadedConfig loaded = load_config(saving(f.file("run")), flags);
  const LocalWorld world(2, std::chrono::seconds(1));
  CheckpointStart start{.kind = CheckpointStart::Kind::resume, .path = f.file("late"), .own = true};
  start.manifest.files = {{.name = "shard", .bytes = 3}};
  const auto check = [&](int limit) {
    check_seen(start, loaded.config, world.rank(1), std::chrono::milliseconds(limit));
  };
  f.write("late/manifest.json", "");
  f.write("late/shard", "1");
  EXPECT_THAT([&] { check(50); },
              ThrowsMessage<Error>(HasSubstr("late: " + f.file("late/shard") +
                                             ": it has 1 bytes and should have 3 (by ")));
  std::filesystem::remove_all(f.file("late"));
  std::thread writer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    f.write("late/manifest.json", "");
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    f.write("late/shard", "123");
  });
  check(60'000);
  writer.join();
}

}  // namespace
}  // namespace nereus
