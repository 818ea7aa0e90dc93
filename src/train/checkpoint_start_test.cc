// What a run finds in its folder of checkpoints, and does with it.
#include <fstream>

#include "train/resume_test.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using test::Arguments;
using test::copy_step;
using test::exists;
using test::figures;
using test::from_step;
using test::saving_run;
using test::step_of;
using test::train_on;
using test::operator+;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// One run, from which tests copy checkpoints.
class Start : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    all_ = new test::TemporaryFolder();
    train_on(2, saving_run(whole()));
    train_on(2, saving_run(other(), {"--training.seed=3"}));
  }
  static void TearDownTestSuite() {
    delete all_;
    all_ = nullptr;
  }
  static std::string whole() { return all_->file("whole"); }
  static std::string other() { return all_->file("other"); }

  Arguments args(const Arguments& more = {}) const { return saving_run(folder_.path(), more); }
  void take(int64_t step) { copy_step(whole(), step, folder_.path()); }
  std::string refused(const Arguments& more = {}) const {
    return test::error_of([&] { train_on(2, args(more)); });
  }
  std::string step(int64_t n) const { return step_of(folder_.path(), n); }
  // It goes on after a step as the whole run did.
  void expect_goes_on(const test::WholeRun& run, int64_t after) {
    EXPECT_EQ(run.code, 0);
    EXPECT_EQ(figures(folder_.path()), from_step(figures(whole()), after + 1));
  }
  void change(const std::string& file, const std::function<void(std::string&)>& how) {
    std::string text = test::read_file(folder_.file(file));
    how(text);
    folder_.write(file, text);
  }

  test::TemporaryFolder folder_;
  static test::TemporaryFolder* all_;
};
test::TemporaryFolder* Start::all_ = nullptr;

constexpr const char* kShard = "checkpoint/step-4/shard-00001-of-00002.safetensors";

TEST_F(Start, DamagedCheckpointsAreSetAsideAndPassedOver) {
  const std::vector<std::pair<std::string, std::function<void()>>> damages = {
      {"it has no manifest.json", [&] { fs::remove(step(4) + "/manifest.json"); }},
      {"it cannot be read as a checkpoint's manifest",
       [&] { change("checkpoint/step-4/manifest.json", [](auto& t) { t.resize(t.size() / 2); }); }},
      {"bytes and should have", [&] { change(kShard, [](auto& t) { t.resize(t.size() - 4); }); }},
      {"No such file", [&] { fs::remove(folder_.file(kShard)); }},
      {"has checksum",
       [&] {
         change(kShard,
                [](auto& t) { t[t.size() - 1000] = static_cast<char>(t[t.size() - 1000] ^ 1); });
       }},
      {"it was saved as step 2",
       [&] {
         fs::remove_all(step(4));
         fs::copy(step(2), step(4), fs::copy_options::recursive);
       }},
  };
  for (const auto& [why, damage] : damages) {
    SCOPED_TRACE(why);
    fs::remove_all(folder_.file("checkpoint"));
    take(2);
    take(4);
    damage();
    const test::WholeRun run = train_on(2, args({"--checkpoint.interval=100"}));
    expect_goes_on(run, 2);
    EXPECT_THAT(run.log, AllOf(HasSubstr(step(4) + " is incomplete or damaged, and is now " +
                                         step(4) + ".damaged; the one before it is taken."),
                               HasSubstr(why)));
    EXPECT_TRUE(exists(step(4) + ".damaged"));
    EXPECT_FALSE(exists(step(4)));
  }
}

TEST_F(Start, WithNothingButDamagedOnesTheRunBeginsAnew) {
  take(4);
  change(kShard, [](auto& t) { t[t.size() - 9] = static_cast<char>(t[t.size() - 9] ^ 8); });
  expect_goes_on(train_on(2, args()), 0);
  EXPECT_TRUE(exists(step(4) + ".damaged"));
}

TEST_F(Start, WeightsAloneArePassedOver) {
  for (const Arguments& last :
       {Arguments{"--checkpoint.last_save_model_only"},
        Arguments{"--checkpoint.last_save_model_only", "--checkpoint.last_save_in_hf"}}) {
    fs::remove_all(folder_.file("checkpoint"));
    const Arguments short_run = last + Arguments{"--training.steps=3"};
    const test::WholeRun first = train_on(2, args(short_run));
    EXPECT_THAT(
        first.log,
        AllOf(HasSubstr("Saving a model only checkpoint in float32 at last step, step 3."),
              HasSubstr("The last save, of step 3, will hold weights alone, of which no run "
                        "can go on: checkpoint.last_save_model_only = true")));
    EXPECT_THAT(train_on(2, args(short_run)).log, HasSubstr("The run is at its last step: 3"));
    const test::WholeRun second = train_on(2, args());
    EXPECT_THAT(second.log,
                AllOf(HasSubstr(step(3) + " holds weights alone, of which no run can go on: it is "
                                          "passed over."),
                      HasSubstr("Resuming after step 2")));
    fs::remove_all(step(2));
    fs::remove_all(step(4));
    fs::remove_all(step(6));
    EXPECT_THAT(refused(), AllOf(HasSubstr("no checkpoint that this run can go on from: " +
                                           step(3) + " holds weights alone"),
                                 HasSubstr("--checkpoint.initial_load_path=" + step(3))));
  }
}

TEST_F(Start, GoingBackSetsLaterStepsAside) {
  for (const int64_t s : {2, 4, 6}) take(s);
  EXPECT_THAT(
      refused({"--checkpoint.load_step=3"}),
      AllOf(HasSubstr("--checkpoint.load_step=3 but checkpoint " + step(3) + " is not found."),
            HasSubstr("Steps that are there: 2, 4, 6.")));
  const test::WholeRun run =
      train_on(2, args({"--checkpoint.load_step=2", "--checkpoint.interval=3"}));
  expect_goes_on(run, 2);
  EXPECT_THAT(run.log, HasSubstr("The run goes back to step 2 (checkpoint.load_step): " + step(4) +
                                 " is now " + step(4) + ".abandoned-"));
  EXPECT_TRUE(exists(step(3)));
  EXPECT_FALSE(exists(step(4)));
  EXPECT_THAT(train_on(2, args({"--training.steps=8"})).log, HasSubstr("Resuming after step 6"));
}

TEST_F(Start, TheDataOfStepsCanBePassedOver) {
  for (const int64_t s : {2, 4}) take(s);
  const Arguments skip = {"--training.skip_steps=3,5", "--optimizer.lr=1e-30"};
  const test::WholeRun run = train_on(2, args(skip + Arguments{"--checkpoint.load_step=2"}));
  EXPECT_THAT(run.log, HasSubstr("The data of steps 3 to 5 is passed over (training.skip_steps): "
                                 "step 3 has that of step 6."));
  const auto passed = figures(folder_.path());
  // With a rate that moves nothing the loss is that of the data.
  test::TemporaryFolder plain;
  copy_step(whole(), 2, plain.path());
  train_on(2, saving_run(plain.path(), {"--optimizer.lr=1e-30", "--training.steps=9"}));
  for (const int64_t n : {3, 4, 5, 6})
    EXPECT_NEAR(passed.at(n).loss, figures(plain.path()).at(n + 3).loss, 1e-3) << n;
  EXPECT_EQ(passed.at(6).tokens, 6 * 8 * 16);
  const test::WholeRun again = train_on(2, args(skip + Arguments{"--training.steps=8"}));
  EXPECT_THAT(again.log, HasSubstr("the run goes on after step 6, and has done so."));
}

TEST_F(Start, OldOnesAreDeleted) {
  take(2);
  const Arguments more = {"--training.steps=11", "--checkpoint.interval=1",
                          "--checkpoint.keep_latest_k=3", "--checkpoint.keep_every=4"};
  EXPECT_EQ(train_on(2, args(more)).code, 0);
  std::vector<std::string> names;
  for (const auto& e : fs::directory_iterator(folder_.file("checkpoint")))
    names.push_back(e.path().filename());
  EXPECT_THAT(names,
              testing::UnorderedElementsAre("step-4", "step-8", "step-9", "step-10", "step-11"));
}

TEST_F(Start, AChangeThatMakesItMeaninglessIsRefused) {
  take(4);
  const std::string text = refused({"--training.seq_len=32", "--optimizer.name=Adam",
                                    "--model_overrides.top_k=1", "--model_overrides.dim=64"});
  EXPECT_THAT(text, AllOf(HasSubstr(step(4) + ": this checkpoint cannot go on"),
                          HasSubstr("\n  model dim: 32 there, 64 here"),
                          HasSubstr("\n  model top_k: 2 there, 1 here"),
                          HasSubstr("\n  optimizer.name: \"AdamW\" there, \"Adam\" here"),
                          HasSubstr("\n  training.seq_len: 16 there, 32 here")));
  EXPECT_THAT(refused({"--training.dataset=c4_test"}),
              HasSubstr("training.dataset: \"random\" there, \"c4_test\" here"));
  EXPECT_FALSE(exists(folder_.file("metrics.jsonl")));
  const test::WholeRun run = train_on(
      2, args({"--optimizer.lr=2e-3", "--training.seed=9", "--training.global_batch_size=4"}));
  EXPECT_EQ(run.code, 0);
  EXPECT_THAT(run.log, AllOf(HasSubstr("since step-4: optimizer.lr: 0.001 there, 0.002 here"),
                             HasSubstr("since step-4: training.seed: None there, 9 here"),
                             HasSubstr("since step-4: global batch: 8 there, 4 here")));
}

TEST_F(Start, ANewerFormatIsRefusedAndStays) {
  take(2);
  take(4);
  change("checkpoint/step-4/manifest.json",
         [](auto& t) { t.replace(t.find("\"version\":1"), 11, "\"version\":2"); });
  EXPECT_THAT(refused(), HasSubstr("this checkpoint is of format version 2, and this program reads "
                                   "versions up to 1: a newer program wrote it"));
  EXPECT_TRUE(exists(step(4)));
}

TEST_F(Start, AnotherRunsCheckpointIsRefused) {
  take(2);
  copy_step(other(), 4, folder_.path());
  EXPECT_THAT(refused(), AllOf(HasSubstr(step(4) + " is of another run than " + step(2)),
                               HasSubstr("a folder holds the checkpoints of one run")));
}

TEST_F(Start, AnotherFoldersCheckpointIsBegunFrom) {
  const Arguments weights = {"--checkpoint.initial_load_path=" + step_of(whole(), 4)};
  test::WholeRun run = train_on(1, args(weights));
  EXPECT_EQ(figures(folder_.path()).begin()->first, 1);
  EXPECT_NE(figures(folder_.path()).at(1).loss, figures(whole()).at(1).loss);
  EXPECT_NE(figures(folder_.path()).at(5), figures(whole()).at(5));
  fs::remove_all(folder_.file("checkpoint"));
  run = train_on(2, args(weights + Arguments{"--checkpoint.initial_load_model_only=false"}));
  expect_goes_on(run, 4);
  run = train_on(2, args(weights + Arguments{"--training.steps=8"}));
  EXPECT_THAT(run.log,
              HasSubstr("checkpoint.initial_load_path is ignored: the run's own folder has "
                        "a checkpoint, " +
                        step(6)));
  fs::remove_all(folder_.file("checkpoint"));
  EXPECT_THAT(refused({"--checkpoint.initial_load_path=" + whole() + "/checkpoint"}),
              AllOf(HasSubstr("this is no checkpoint, it has no manifest.json"),
                    HasSubstr("It has steps 2, 4, 6: name one")));
}

TEST_F(Start, PartsCanBeginAnew) {
  take(4);
  test::WholeRun run = train_on(2, args({"--checkpoint.exclude_from_loading=lr_scheduler"}));
  EXPECT_EQ(run.code, 0);
  EXPECT_EQ(figures(folder_.path()).at(5).lr, figures(whole()).at(1).lr) << "warm-up";
  fs::remove_all(step(6));
  run = train_on(2, args({"--checkpoint.exclude_from_loading=dataloader"}));
  const double fifth = figures(folder_.path()).at(5).loss;
  fs::remove_all(step(6));
  run = train_on(2, args({"--checkpoint.exclude_from_loading=optimizer,dataloader"}));
  EXPECT_EQ(figures(folder_.path()).at(5).loss, fifth) << "the same weights and data";
  EXPECT_NE(figures(folder_.path()).at(6).loss, figures(whole()).at(6).loss);
  fs::remove_all(step(6));
  run = train_on(2, args({"--checkpoint.exclude_from_loading=train_state"}));
  EXPECT_EQ(figures(folder_.path()).begin()->first, 1);
  EXPECT_EQ(figures(folder_.path()).at(1).loss, figures(whole()).at(5).loss);
}

TEST_F(Start, ASeedCheckpointIsBegunFrom) {
  EXPECT_EQ(train_on(1, args({"--checkpoint.create_seed_checkpoint"})).code, 0);
  EXPECT_TRUE(exists(step(0) + "/manifest.json"));
  EXPECT_FALSE(exists(step(2)));
  const test::WholeRun run = train_on(2, args({"--training.seed=11"}));
  EXPECT_EQ(figures(folder_.path()).begin()->first, 1);
  EXPECT_THAT(run.log, HasSubstr("Loading the checkpoint from " + step(0)));
  EXPECT_THAT(test::error_of([&] {
                train_on(2,
                         saving_run(folder_.file("two"), {"--checkpoint.create_seed_checkpoint"}));
              }),
              HasSubstr("Must create seed checkpoint using a single device, to disable sharding."));
}

TEST_F(Start, WhatAKilledRunLeftIsRemoved) {
  take(2);
  folder_.write("checkpoint/step-4.partial/shard", "half");
  folder_.write("checkpoint/step-1.deleting/shard", "half");
  folder_.write("checkpoint/mine.partial", "not ours");
  expect_goes_on(train_on(2, args({"--checkpoint.interval=100"})), 2);
  EXPECT_FALSE(exists(step(4) + ".partial"));
  EXPECT_FALSE(exists(step(1) + ".deleting"));
  EXPECT_TRUE(exists(folder_.file("checkpoint/mine.partial")));
}

TEST_F(Start, TheFirstStepAndTimeSaveToo) {
  const test::WholeRun run = train_on(2, args({"--checkpoint.enable_first_step_checkpoint",
                                               "--checkpoint.interval=100", "--training.steps=3"}));
  EXPECT_TRUE(exists(step(1)));
  EXPECT_TRUE(exists(step(3)));
  EXPECT_FALSE(exists(step(2)));
  train_on(2, args({"--checkpoint.interval_minutes=1e-9", "--checkpoint.interval=100"}));
  EXPECT_TRUE(exists(step(4)));
  EXPECT_TRUE(exists(step(5)));
}

}  // namespace
}  // namespace nereus
