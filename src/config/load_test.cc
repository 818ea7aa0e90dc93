// Where a value comes from: defaults, TOML, the command line in all its forms.
#include "config/load.h"

#include <gmock/gmock.h>

#include "base/error.h"
#include "base/text.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

LoadedConfig load(const std::vector<std::string>& arguments) {
  TrainFlags flags;
  return load_config(arguments, flags);
}

TEST(CommandLine, TakesAValueAfterEqualsOrASpaceAndADashForAnUnderscore) {
  EXPECT_EQ(load({"--training.steps=7"}).config.training.steps, 7);
  EXPECT_EQ(load({"--training.steps", "7"}).config.training.steps, 7);
  EXPECT_EQ(load({"--training.seq-len=64"}).config.training.seq_len, 64);
  EXPECT_EQ(load({"--lr-scheduler.warmup-steps", "3"}).config.lr_scheduler.warmup_steps, 3);
  EXPECT_EQ(load({"--training.global_batch_size", "-1"}).config.training.global_batch_size, -1);
  EXPECT_EQ(load({"--optimizer.lr", "1"}).config.optimizer.lr, 1.0);
  EXPECT_EQ(load({"--optimizer.lr=1e-3"}).config.optimizer.lr, 1e-3);
  EXPECT_EQ(load({"--job.description=a=b c"}).config.job.description, "a=b c");
}

TEST(CommandLine, TakesBooleansAsFlagsAndAsValues) {
  EXPECT_TRUE(load({"--compile.enable"}).config.compile.enable);
  EXPECT_TRUE(load({"--compile.enable=true"}).config.compile.enable);
  EXPECT_TRUE(load({"--compile.enable", "True"}).config.compile.enable);
  const std::vector<std::string> on = {"--compile.enable"};
  for (const std::string off : {"--compile.no_enable", "--compile.no-enable",
                                "--compile.enable=false", "--compile.enable=False"})
    EXPECT_FALSE(load({"--compile.enable", off}).config.compile.enable) << off;
  EXPECT_FALSE(load({"--compile.enable", "false"}).config.compile.enable);
  EXPECT_EQ(load({"--model_overrides.no_route_norm"}).config.model_overrides.route_norm, false);
  // A flag takes no other value from what follows it.
  EXPECT_EQ(load({"--compile.enable", "--training.steps=7"}).config.training.steps, 7);
}

TEST(CommandLine, TakesListsWithCommasAndAppendsRepeatedOnes) {
  const auto fqns = [](const std::vector<std::string>& arguments) {
    return load(arguments).config.quantize.grouped_mm.float8.fqns;
  };
  EXPECT_THAT(fqns({"--quantize.grouped_mm.float8.fqns=a,b"}), ElementsAre("a", "b"));
  EXPECT_THAT(fqns({"--quantize.grouped-mm.float8.fqns", "a,b"}), ElementsAre("a", "b"));
  EXPECT_THAT(fqns({"--quantize.grouped_mm.float8.fqns=a", "--training.steps=3",
                    "--quantize.grouped_mm.float8.fqns=b,c"}),
              ElementsAre("a", "b", "c"));
  EXPECT_THAT(fqns({"--quantize.grouped_mm.float8.fqns="}), IsEmpty());
  // The first use replaces what was there: here the default [model, loss], as the recipe's launch
  // script does.
  EXPECT_THAT(load({"--compile.components=loss"}).config.compile.components, ElementsAre("loss"));
  EXPECT_THAT(
      load({"--compile.components=loss", "--compile.components=model"}).config.compile.components,
      ElementsAre("loss", "model"));
}

TEST(CommandLine, TakesNoneForWhatMayHaveNoValue) {
  const test::TemporaryFolder folder;
  const std::string file =
      folder.write("c.toml",
                   "[training]\nseed = 3\ndataset_path = \"x\"\n[lr_scheduler]\n"
                   "decay_ratio = 0.5\n");
  const JobConfig c = load({file, "--training.seed=None", "--training.dataset_path", "None",
                            "--lr_scheduler.decay_ratio=None"})
                          .config;
  EXPECT_EQ(c.training.seed, std::nullopt);
  EXPECT_EQ(c.training.dataset_path, std::nullopt);
  EXPECT_EQ(c.lr_scheduler.decay_ratio, std::nullopt);
  EXPECT_EQ(load({file, "--training.dataset_path="}).config.training.dataset_path, std::nullopt);
}

TEST(CommandLine, NamesTheFileByItsPlaceOrByItsKey) {
  const test::TemporaryFolder folder;
  const std::string file = folder.write("c.toml", "[training]\nsteps = 3\n");
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{file},
                                             {"--job.config_file=" + file},
                                             {"--job.config-file", file},
                                             {"--metrics.log_freq", "1", file},
                                             {"--compile.enable", file, "--metrics.log_freq=1"}})
    EXPECT_EQ(load(arguments).config.training.steps, 3) << arguments[0];
  EXPECT_EQ(load({file}).config.job.config_file, file);
  EXPECT_THAT(
      [&] {
        load({file, "--job.config_file=other.toml"});
      },
      testing::ThrowsMessage<Error>(HasSubstr("two configuration files are named")));
}

TEST(CommandLine, GivesTheProgramsOwnFlagsToItsCaller) {
  TrainFlags flags;
  load_config(std::vector<std::string>{"--print-config", "--dry_run", "--world", "512"}, flags);
  EXPECT_TRUE(flags.print_config);
  EXPECT_TRUE(flags.dry_run);
  EXPECT_FALSE(flags.help);
  EXPECT_EQ(flags.world, 512);
  EXPECT_EQ(flags.nproc, 1);
  // Help is given whatever the rest says.
  load_config(std::vector<std::string>{"missing.toml", "--help"}, flags);
  EXPECT_TRUE(flags.help);
  load_config(std::vector<std::string>{"-h"}, flags);
  EXPECT_TRUE(flags.help);
  load_config(std::vector<std::string>{"--config-reference"}, flags);
  EXPECT_TRUE(flags.config_reference);
}

TEST(OldNames, AreAcceptedInFilesAndOnTheCommandLineWithANote) {
  const test::TemporaryFolder folder;
  const std::string old_file =
      folder.write("old.toml", "[parallelism]\nexpert_receive_bound = 2\n");
  const LoadedConfig file = load({old_file});
  EXPECT_EQ(file.config.parallelism.expert_capacity_factor, 2.0);
  EXPECT_EQ(file.origin.at("parallelism.expert_capacity_factor"), old_file + ":2");
  EXPECT_THAT(file.notices,
              ElementsAre(old_file + ":2: parallelism.expert_receive_bound is now "
                                     "parallelism.expert_capacity_factor; the old name is "
                                     "accepted too"));

  const LoadedConfig line =
      load({"--device.reserved-processors=4", "--device.reserved_processors", "6"});
  EXPECT_EQ(line.config.device.reserved_sms, 6);
  EXPECT_THAT(line.notices,
              ElementsAre("command line: device.reserved_processors is now device.reserved_sms; "
                          "the old name is accepted too"));
  EXPECT_THAT(print_config(line), HasSubstr("reserved_sms = 6"));

  EXPECT_THAT(load({"--device.reserved_sms=4"}).notices, IsEmpty());
  // The command line goes over the file, whichever name each has.
  EXPECT_EQ(load({old_file, "--parallelism.expert_capacity_factor=3"})
                .config.parallelism.expert_capacity_factor,
            3.0);
}

TEST(OldNames, AreRefusedBesideTheNewOne) {
  const test::TemporaryFolder folder;
  const std::string both = folder.write(
      "both.toml", "[parallelism]\nexpert_receive_bound = 2.0\nexpert_capacity_factor = 2.0\n");
  const auto refused = [](const std::vector<std::string>& arguments, const std::string& message) {
    EXPECT_THAT([&] { load(arguments); }, testing::ThrowsMessage<Error>(message));
  };
  refused({both}, both +
                      ":2: parallelism.expert_receive_bound is the old name of "
                      "parallelism.expert_capacity_factor, which is given too: keep "
                      "parallelism.expert_capacity_factor");
  for (const bool old_first : {true, false}) {
    const std::string names[] = {"--device.reserved_processors", "--device.reserved_sms"};
    const std::string& last = names[old_first ? 1 : 0];
    refused({names[old_first ? 0 : 1] + "=4", last + "=4"},
            last +
                ": device.reserved_processors is the old name of device.reserved_sms, which is "
                "given too: keep device.reserved_sms");
  }
}

TEST(Precedence, IsCommandLineThenFileThenDefault) {
  const test::TemporaryFolder folder;
  const std::string file = folder.write("c.toml",
                                        "[training]\n"
                                        "steps = 3\n"
                                        "seq_len = 64\n"
                                        "[compile]\n"
                                        "components = [\"model\"]\n");
  const LoadedConfig loaded =
      load({"--training.steps=5", file, "--compile.components=loss", "--metrics.log_freq=1"});
  EXPECT_EQ(loaded.config.training.steps, 5);
  EXPECT_EQ(loaded.config.training.seq_len, 64);
  EXPECT_EQ(loaded.config.training.local_batch_size, 8);
  EXPECT_THAT(loaded.config.compile.components, ElementsAre("loss"));
  EXPECT_EQ(loaded.origin.at("training.steps"), "command line");
  EXPECT_EQ(loaded.origin.at("training.seq_len"), file + ":3");
  EXPECT_EQ(loaded.origin.count("training.local_batch_size"), 0u);
}

TEST(Toml, AnIntegerServesForAFloatAndOneTextForAListOfNames) {
  LoadedConfig loaded;
  read_toml("[optimizer]\nlr = 1\n[quantize.grouped_mm.float8]\nfqns = \"experts\"\n", "c.toml",
            loaded);
  EXPECT_EQ(loaded.config.optimizer.lr, 1.0);
  EXPECT_THAT(loaded.config.quantize.grouped_mm.float8.fqns, ElementsAre("experts"));
}

TEST(Toml, SectionsMayBeWrittenInlineOrDotted) {
  LoadedConfig loaded;
  read_toml(
      "training = {steps = 3}\nquantize.linear.mx.filter_fqns = [\"a\"]\n"
      "parallelism.module_fqns_per_model_part = [[\"a\", \"b\"], [\"c\"]]\n",
      "c.toml", loaded);
  EXPECT_EQ(loaded.config.training.steps, 3);
  EXPECT_THAT(loaded.config.quantize.linear.mx.filter_fqns, ElementsAre("a"));
  EXPECT_THAT(*loaded.config.parallelism.module_fqns_per_model_part,
              ElementsAre(ElementsAre("a", "b"), ElementsAre("c")));
}

// On the command line and in a file; kept in its own spelling.
TEST(Schedules, AreNamedInAnyCase) {
  const test::TemporaryFolder folder;
  for (const std::string name : {"1F1B", "Interleaved1F1B", "GPipe", "LoopedBFS",
                                 "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"}) {
    std::string upper = name;
    for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    for (const std::string& text : {name, lower(name), upper}) {
      const std::string file =
          folder.write("c.toml", "[parallelism]\npipeline_parallel_schedule = \"" + text + "\"\n");
      EXPECT_EQ(load({file}).config.parallelism.pipeline_parallel_schedule, name);
      EXPECT_EQ(load({"--parallelism.pipeline_parallel_schedule=" + text})
                    .config.parallelism.pipeline_parallel_schedule,
                name);
    }
  }
}

TEST(Notices, NameOnceWhatHasNothingToActOn) {
  EXPECT_THAT(
      load({"--compile.enable", "--training.gc_freq=10"}).notices,
      ElementsAre("These settings have no effect in Nereus: training.gc_freq, compile.enable"));
  // Set to what it is anyway: nothing to say.
  EXPECT_THAT(load({"--compile.no_enable", "--profiling.enable_profiling=false"}).notices,
              IsEmpty());
}

TEST(Notices, ReadTheOlderNameOfTheTokenizersFolder) {
  const LoadedConfig loaded = load({"--model.tokenizer_path=here"});
  EXPECT_EQ(loaded.config.model.hf_assets_path, "here");
  EXPECT_THAT(loaded.notices, ElementsAre(HasSubstr("older name of model.hf_assets_path")));
}

}  // namespace
}  // namespace nereus
