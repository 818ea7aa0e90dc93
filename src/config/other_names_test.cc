#include "config/other_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "config/load.h"

namespace nereus {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string toml_message(const std::string& text) {
  LoadedConfig loaded;
  try {
    read_toml(text, "c.toml", loaded);
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 2);
    return e.what();
  }
  return "no error";
}

std::string message(const std::vector<std::string>& arguments) {
  TrainFlags flags;
  try {
    load_config(arguments, flags);
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 2);
    return e.what();
  }
  return "no error";
}

TEST(OtherNames, LeadToKeysOrSectionsThatAreThereAndAreNoneThemselves) {
  JobConfig config;
  const std::vector<Key> all = keys(config);
  std::set<std::string_view> theirs;
  for (const OtherName& n : other_names()) {
    EXPECT_TRUE(theirs.insert(n.theirs).second) << n.theirs;
    EXPECT_EQ(find_key(all, std::string(n.theirs)), nullptr) << n.theirs;
    EXPECT_TRUE(!n.here.empty() || !n.note.empty()) << n.theirs;
    bool there = n.here.empty();
    for (const Key& k : all)
      there |= k.name == n.here || k.name.starts_with(std::string(n.here) + ".");
    EXPECT_TRUE(there) << n.here;
  }
}

TEST(OtherNames, OfAFileAreOneMessageWithTheNamesHere) {
  EXPECT_EQ(toml_message("[job]\nprint_args = false\n[checkpoint]\nenable_checkpoint = false\n"
                         "model_weights_only = false\nintervall = 3\n[float8]\n"
                         "filter_fqns = [\"output\"]\n[training]\nsteps = \"many\"\n"),
            "Invalid field names in Job data: {'print_args'}.\n"
            "Invalid field names in Checkpoint data: {'enable_checkpoint', 'model_weights_only', "
            "'intervall'}.\n"
            "Invalid field names in JobConfig data: {'float8'}.\n"
            "  c.toml:2: [job] print_args = false is not a key; here it is called "
            "job.print_config\n"
            "  c.toml:4: [checkpoint] enable_checkpoint = false is not a key; here it is called "
            "checkpoint.enable\n"
            "  c.toml:5: [checkpoint] model_weights_only = false is not a key; here it is called "
            "checkpoint.last_save_model_only\n"
            "  c.toml:6: [checkpoint] intervall = 3 is not a key; did you mean interval?\n"
            "  c.toml:8: [float8] filter_fqns = [ 'output' ] is not a key; here it is called "
            "quantize.linear.float8.filter_fqns\n"
            "  Correct or remove them; docs/configuration.md lists every key.");
  EXPECT_THAT(toml_message("[float8]\n"),
              HasSubstr("[float8] is not a section; here it is called [quantize.linear.float8]"));
  EXPECT_THAT(toml_message("[debug]\nseed = 1\nnot_here = 2\n"),
              HasSubstr("[debug] seed = 1 is not a key; here it is called training.seed\n  "
                        "c.toml:3: [debug] not_here = 2 is not a key\n"));
}

TEST(OtherNames, OfThePresentTorchTitanSayWhatTheyAreHere) {
  EXPECT_EQ(
      toml_message("[training]\nnum_tokens_per_microbatch_per_dp_rank = 16384\n"),
      "Invalid field names in Training data: {'num_tokens_per_microbatch_per_dp_rank'}.\n  "
      "c.toml:2: [training] num_tokens_per_microbatch_per_dp_rank = 16384 is not a key; here it is "
      "called training.local_batch_size, which counts sequences: so many tokens divided by "
      "training.seq_len and, with a pipeline, times its microbatches (num_pp_microbatches)\n  "
      "Correct or remove it; docs/configuration.md lists every key.");
  EXPECT_THAT(message({"--training.num_tokens_per_train_step=1024"}),
              HasSubstr("; here it is called --training.global_batch_size, which counts sequences: "
                        "so many tokens divided by training.seq_len\n"));
  EXPECT_THAT(message({"--training.max_context_length=1024"}),
              HasSubstr("; here it is called --training.seq_len\n"));
  EXPECT_THAT(message({"--parallelism.num_pp_microbatches", "4"}),
              HasSubstr("; here it is called --parallelism.pipeline_parallel_microbatch_size, "
                        "training.local_batch_size divided by so many\n"));
  EXPECT_THAT(message({"--module=deepseek_v3", "--config=debug"}),
              HasSubstr("--module: there is no such option; a model's configuration is a TOML file "
                        "here, the first argument; see configs/\n"));
}

TEST(OtherNames, OnTheCommandLineGetNoMisleadingSuggestion) {
  EXPECT_EQ(message({"--checkpoint.enable_checkpoint"}),
            "--checkpoint.enable_checkpoint: there is no such option; here it is called "
            "--checkpoint.enable\n  docs/configuration.md lists every key.");
  EXPECT_THAT(message({"--training.compile"}), HasSubstr("; here it is called --compile.enable\n"));
  EXPECT_THAT(message({"--float8.emulate"}),
              HasSubstr("; here it is called --quantize.linear.float8.emulate\n"));
  EXPECT_THAT(message({"--float8.unheard_of"}),
              HasSubstr("; the section is called [quantize.linear.float8] here\n"));
  // Nobody's names: what is near in the section, or nothing.
  EXPECT_THAT(message({"--training.enable"}), Not(HasSubstr("did you mean")));
  EXPECT_THAT(message({"--training.commpile_it"}), Not(HasSubstr("did you mean")));
  EXPECT_THAT(message({"--trainning.seq_lenn=3"}), HasSubstr("did you mean --training.seq_len?"));
}

TEST(Lists, TakeTheirItemsOneByOneOnTheCommandLine) {
  const auto components = [](const std::vector<std::string>& arguments) {
    TrainFlags flags;
    const LoadedConfig loaded = load_config(arguments, flags);
    return loaded.config.compile.components;
  };
  const Strings both = {"model", "loss"};
  EXPECT_EQ(components({"--compile.components", "model", "loss"}), both);
  EXPECT_EQ(components({"--compile.components", "model", "loss", "--training.steps", "3"}), both);
  EXPECT_EQ(components({"--compile.components", "model,loss"}), both);
  EXPECT_EQ(components({"--compile.components", "model", "--compile.components", "loss"}), both);
  EXPECT_THAT(message({"--compile.components", "loss", "none.toml"}),
              testing::StartsWith("Error while loading config file: none.toml"));
  TrainFlags flags;
  EXPECT_EQ(load_config(std::vector<std::string>{"--quantize.linear.float8.filter_fqns", "output",
                                                 "router.gate"},
                        flags)
                .config.quantize.linear.float8.filter_fqns,
            (Strings{"output", "router.gate"}));
}

}  // namespace
}  // namespace nereus
