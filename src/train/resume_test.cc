// A run that is interrupted and goes on is the run that was not interrupted.
#include "train/resume_test.h"

namespace nereus {
namespace {

using test::Arguments;
using test::copy_step;
using test::figures;
using test::from_step;
using test::saving_run;
using test::train_on;
using test::operator+;
using testing::AllOf;
using testing::HasSubstr;

struct Layout {
  const char* name;
  int ranks;
  Arguments more;
};

const std::vector<Layout>& layouts() {
  static const std::vector<Layout> all = {
      {"one", 1, {}},
      {"fsdp", 4, {}},
      {"hsdp_tp",
       4,
       {"--parallelism.data_parallel_replicate_degree=2",
        "--parallelism.tensor_parallel_degree=2"}},
      {"pp_ep",
       4,
       {"--parallelism.pipeline_parallel_degree=2", "--parallelism.expert_parallel_degree=2",
        "--training.local_batch_size=2"}},
      {"cp_ep",
       4,
       {"--parallelism.context_parallel_degree=2", "--parallelism.expert_parallel_degree=4",
        "--parallelism.expert_dispatcher=host_counts"}},
      {"split",
       2,
       {"--training.mixed_precision_param=bfloat16", "--optimizer.master_dtype=split",
        "--optimizer.moment_dtype=bfloat16"}},
  };
  return all;
}

TEST(Resume, TheSameLayoutGoesOnBitForBit) {
  for (const Layout& l : layouts()) {
    SCOPED_TRACE(l.name);
    const test::TemporaryFolder f;
    const std::string whole = f.file("whole"), cut = f.file("cut");
    EXPECT_EQ(train_on(l.ranks, saving_run(whole, l.more)).code, 0);
    copy_step(whole, 2, cut);
    const test::WholeRun run = train_on(l.ranks, saving_run(cut, l.more));
    EXPECT_EQ(run.code, 0);
    EXPECT_EQ(figures(cut), from_step(figures(whole), 3));
    EXPECT_TRUE(test::shards(cut, 6) == test::shards(whole, 6)) << "weights and moments";
    EXPECT_THAT(run.log, AllOf(HasSubstr("Resuming after step 2 from " + test::step_of(cut, 2)),
                               HasSubstr("Layout that wrote it: "),
                               HasSubstr("Loading the checkpoint from " + test::step_of(cut, 2)),
                               HasSubstr("Training starts at step 3")));
  }
}

// Figures that differ by rounding.
void expect_near(const std::map<int64_t, test::Figures>& got,
                 const std::map<int64_t, test::Figures>& want, double tolerance = 2e-6) {
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [step, f] : want) {
    ASSERT_TRUE(got.contains(step)) << step;
    EXPECT_NEAR(got.at(step).loss, f.loss, tolerance * f.loss) << step;
    EXPECT_NEAR(got.at(step).grad_norm, f.grad_norm, 20 * tolerance * f.grad_norm) << step;
    EXPECT_EQ(got.at(step).lr, f.lr) << step;
    EXPECT_EQ(got.at(step).tokens, f.tokens) << step;
  }
}

TEST(Resume, AnyOtherLayoutGoesOnUpToRounding) {
  const test::TemporaryFolder f;
  const std::string whole = f.file("whole");
  const auto& all = layouts();
  EXPECT_EQ(train_on(1, saving_run(whole)).code, 0);
  // Each goes on from the one before it, the third time on a third layout.
  for (size_t i = 1; i < all.size(); ++i) {
    SCOPED_TRACE(all[i].name);
    const bool rounded = std::string(all[i].name) == "split";
    const std::string cut = f.file(all[i].name), twice = cut + "2";
    copy_step(whole, 2, cut);
    const Arguments first =
        all[i].more + Arguments{"--training.steps=4", "--lr_scheduler.decay_ratio=0.25"};
    EXPECT_EQ(train_on(all[i].ranks, saving_run(cut, first)).code, 0);
    copy_step(cut, 4, twice);
    const Layout& other = all[i == 1 ? 3 : i - 1];
    EXPECT_EQ(train_on(other.ranks, saving_run(twice, other.more)).code, 0);
    // The schedule of the middle part is a shorter one: its losses are not compared.
    const auto third = from_step(figures(whole), 5);
    if (!rounded) {
      EXPECT_NEAR(figures(twice).at(5).loss, third.at(5).loss, 1e-2) << "the same data";
    }
    const std::string again = cut + "3";
    copy_step(whole, 2, again);
    EXPECT_EQ(train_on(all[i].ranks, saving_run(again, all[i].more)).code, 0);
    expect_near(figures(again), from_step(figures(whole), 3), rounded ? 3e-3 : 2e-6);
  }
}

// Text in streams, which each layout reads in other parts: the very next token follows.
TEST(Resume, TextGoesOnWithTheNextToken) {
  const test::TemporaryFolder f;
  std::string lines;
  for (int i = 0; i < 40; ++i)
    lines += "{\"text\": \"" +
             std::string(static_cast<size_t>(7 + i * 5 % 23), static_cast<char>('a' + i % 26)) +
             " one two " + std::to_string(i * 37) + " three\"}\n";
  f.write("data/a.jsonl", lines);
  for (const char* order : {"global", "torchtitan"}) {
    SCOPED_TRACE(order);
    const Arguments text = {"--training.dataset=c4",
                            "--training.dataset_path=" + f.file("data"),
                            "--model.hf_assets_path=" + test::source_path("assets/tokenizer"),
                            "--model_overrides.vocab_size=129280",
                            "--model_overrides.dim=8",
                            std::string("--data.order=") + order};
    const std::string whole = f.file(std::string(order) + "/whole");
    EXPECT_EQ(train_on(2, saving_run(whole, text)).code, 0);
    const std::string same = f.file(std::string(order) + "/same");
    copy_step(whole, 2, same);
    EXPECT_EQ(train_on(2, saving_run(same, text)).code, 0);
    EXPECT_EQ(figures(same), from_step(figures(whole), 3));
    const std::string other = f.file(std::string(order) + "/other");
    copy_step(whole, 2, other);
    if (std::string(order) == "global") {
      EXPECT_EQ(train_on(4, saving_run(other, text)).code, 0);
      expect_near(figures(other), from_step(figures(whole), 3));
    } else {
      EXPECT_THAT(test::error_of([&] { train_on(4, saving_run(other, text)); }),
                  HasSubstr("The run was saved with 2 data-parallel ranks and has 4 now"));
    }
  }
}

// The copy is of the step that was saved, however much later it is written.
TEST(Resume, WhatIsSavedBesideStepsIsTheSame) {
  for (const Layout& l : {layouts()[0], layouts()[2], layouts()[5]}) {
    SCOPED_TRACE(l.name);
    const test::TemporaryFolder f;
    const Arguments beside = l.more + Arguments{"--checkpoint.async_mode=async_with_pinned_mem"};
    EXPECT_EQ(train_on(l.ranks, saving_run(f.file("in"), l.more)).code, 0);
    const test::WholeRun run = train_on(l.ranks, saving_run(f.file("beside"), beside));
    EXPECT_EQ(run.code, 0);
    EXPECT_EQ(figures(f.file("beside")), figures(f.file("in")));
    for (const int64_t step : {2, 4, 6})
      EXPECT_TRUE(test::shards(f.file("beside"), step) == test::shards(f.file("in"), step)) << step;
    EXPECT_THAT(run.log, HasSubstr("The checkpoint of step 4 is complete, "));
  }
}

TEST(Resume, FilesAndCountersGoOn) {
  const test::TemporaryFolder f;
  const Arguments validated = {"--validation.enable",     "--validation.dataset=random",
                               "--validation.steps=2",    "--validation.local_batch_size=2",
                               "--validation.seq_len=16", "--metrics.log_freq=10"};
  const Arguments all = saving_run(f.path(), validated);
  const test::WholeRun first = train_on(1, all + Arguments{"--training.steps=4"});
  const test::WholeRun second = train_on(1, all);
  EXPECT_EQ(second.code, 0);
  EXPECT_EQ(figures(f.path()).begin()->first, 5) << "the first line after the resume";
  EXPECT_EQ(figures(f.path()).at(5).tokens, 5 * 8 * 16);
  EXPECT_TRUE(test::exists(f.file("metrics.1.jsonl")));
  const auto before = [](const std::string& log) {
    const size_t at = log.find("Loss on held-out rows: ");
    return log.substr(at, log.find(" before", at) - at);
  };
  EXPECT_EQ(before(first.log), before(second.log));
  EXPECT_THAT(second.log, HasSubstr("The configuration has changed since step-4: training.steps: "
                                    "4 there, 6 here"));
  // At its last step there is nothing to do, and nothing is written.
  const std::string metrics = test::read_file(f.file("metrics.jsonl"));
  const test::WholeRun third = train_on(2, all + Arguments{"--training.local_batch_size=1"});
  EXPECT_EQ(third.code, 0);
  EXPECT_THAT(third.log, HasSubstr("The run is at its last step: 6 of training.steps = 6"));
  EXPECT_EQ(test::read_file(f.file("metrics.jsonl")), metrics);
  EXPECT_FALSE(test::exists(f.file("metrics.2.jsonl")));
}

// What a step that ran again for its experts' capacity has learnt stays known.
TEST(Resume, ExpertCapacityGoesOn) {
  const test::TemporaryFolder f;
  const Arguments tight = {"--parallelism.expert_parallel_degree=4",
                           "--parallelism.expert_capacity_factor=1.01"};
  EXPECT_EQ(train_on(4, saving_run(f.file("whole"), tight)).code, 0);
  copy_step(f.file("whole"), 4, f.file("cut"));
  const test::WholeRun run = train_on(4, saving_run(f.file("cut"), tight));
  EXPECT_EQ(figures(f.file("cut")), from_step(figures(f.file("whole")), 5));
  EXPECT_EQ(run.log.find("over their capacity"), std::string::npos);
  const auto reruns = [](const std::string& folder) {
    std::string last, line;
    std::istringstream in(test::read_file(folder + "/metrics.jsonl"));
    while (std::getline(in, line)) last = line;
    return nlohmann::json::parse(last)["expert_overflows"].get<int64_t>();
  };
  EXPECT_GT(reruns(f.file("whole")), 0);
  EXPECT_EQ(reruns(f.file("cut")), reruns(f.file("whole")));
}

}  // namespace
}  // namespace nereus
