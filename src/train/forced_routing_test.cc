// Forced and skewed routing go by a token's place in the global batch: the layout changes nothing,
// though tokens x top_k is no multiple of the experts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "test/test_tensor.h"
#include "train/whole_run_test.h"

namespace nereus {
namespace {

using test::Arguments;
using test::operator+;

// Of each step: its loss, gradient norm, or the loss on held-out rows.
std::vector<double> figures(int ranks, const Arguments& more) {
  const test::TemporaryFolder folder;
  const Arguments arguments = test::small_model(folder.path()) +
                              Arguments{"--model_overrides.num_experts=14",
                                        "--model_overrides.top_k=3",
                                        "--model_overrides.n_layers=4",
                                        "--training.steps=2",
                                        "--training.global_batch_size=4",
                                        "--training.local_batch_size=4",
                                        "--validation.enable",
                                        "--validation.dataset=random",
                                        "--validation.steps=6",
                                        "--validation.local_batch_size=1",
                                        "--validation.seq_len=16"} +
                              more;
  EXPECT_EQ(test::train_on(ranks, arguments).code, 0);
  std::vector<double> out;
  std::istringstream in(test::read_file(folder.file("metrics.jsonl")));
  for (std::string line; std::getline(in, line);) {
    const auto all = nlohmann::json::parse(line);
    for (const char* key : {"loss", "grad_norm", "validation_loss"})
      if (all.contains(key)) out.push_back(all[key]);
  }
  return out;
}

TEST(ForcedRouting, IsTheSameOnEveryLayout) {
  struct Layout {
    int ranks;
    Arguments more;
  };
  const std::string lbs = "--training.local_batch_size=", p = "--parallelism.";
  const std::vector<Layout> layouts = {
      {1, {lbs + "1"}},
      {1, {lbs + "2"}},
      {2, {lbs + "1"}},
      {4, {lbs + "1", p + "expert_parallel_degree=2"}},
      {4, {lbs + "1", p + "data_parallel_replicate_degree=2"}},
      {2, {p + "context_parallel_degree=2"}},
      {4, {lbs + "2", p + "context_parallel_degree=4"}},
      {2, {p + "tensor_parallel_degree=2"}},
      {2, {lbs + "2", p + "tensor_parallel_degree=2", p + "expert_parallel_degree=2"}},
      {2, {p + "pipeline_parallel_degree=2"}},
      {8, {lbs + "1", p + "context_parallel_degree=2", p + "tensor_parallel_degree=2"}},
      {8,
       {lbs + "2", p + "pipeline_parallel_degree=2", p + "context_parallel_degree=2",
        p + "tensor_parallel_degree=2"}},
  };
  for (const char* forced :
       {"--training.debug_moe_force_load_balance", "--training.debug_moe_skew_percent=40"}) {
    const std::vector<double> one = figures(1, {forced});
    ASSERT_EQ(one.size(), 2 * 2 + 2u);
    for (const Layout& l : layouts) {
      std::string name = std::string(forced) + " on " + std::to_string(l.ranks);
      for (const std::string& m : l.more) name += " " + m;
      SCOPED_TRACE(name);
      const std::vector<double> many = figures(l.ranks, l.more + Arguments{forced});
      ASSERT_EQ(many.size(), one.size());
      for (size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(many[i], one[i], 2e-6 * one[i]);
    }
  }
}

}  // namespace
}  // namespace nereus
