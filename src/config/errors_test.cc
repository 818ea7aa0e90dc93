// Bad configurations, each by the text of its one message.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "base/error.h"
#include "config/load.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

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

// Of a file c.toml.
std::string toml_message(const std::string& text) {
  LoadedConfig loaded;
  try {
    read_toml(text, "c.toml", loaded);
    check_config(loaded, 1);
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 2);
    return e.what();
  }
  return "no error";
}

struct Case {
  std::string given, expected;
};

TEST(ConfigFileErrors, SayWhyTheFileCannotBeRead) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(message({folder.file("missing.toml")}),
            "Error while loading config file: " + folder.file("missing.toml") +
                "\n  No such file or directory; configs/ has examples, and `nereus train --help` "
                "the usage");
  EXPECT_EQ(message({folder.path()}), "Error while loading config file: " + folder.path() +
                                          "\n  it is a folder; name a .toml file");
}

TEST(TomlErrors, GiveFileLineAndColumnOfASyntaxError) {
  EXPECT_THAT(toml_message("[training]\nsteps = = 3\n"),
              testing::StartsWith("Error while loading config file: c.toml\n  c.toml:2:9: "));
  EXPECT_THAT(toml_message("[training]\nsteps = 3\nsteps = 4\n"), testing::HasSubstr("c.toml:3:"));
}

TEST(TomlErrors, AreOneMessageEach) {
  const std::vector<Case> cases = {
      // Unknown names: TorchTitan's sentence, the place, the nearest name.
      {"\n[training]\nsteps = 3\nseq_length = 5\n",
       "Invalid field names in Training data: {'seq_length'}.\n  c.toml:4: [training] seq_length = "
       "5 is not a key; did you mean seq_len?\n  Correct or remove it; docs/configuration.md lists "
       "every key."},
      {"[trainning]\nsteps = 3\n",
       "Invalid field names in JobConfig data: {'trainning'}.\n  c.toml:1: [trainning] is not a "
       "section; did you mean training?\n  Correct or remove it; docs/configuration.md lists every "
       "key."},
      {"[quantize.linear.float9]\nemulate = true\n",
       "Invalid field names in Linear data: {'float9'}.\n  c.toml:1: [quantize.linear.float9] is "
       "not a section; did you mean float8?\n  Correct or remove it; docs/configuration.md lists "
       "every key."},
      {"[training]\nwarmup_steps = 3\n",
       "Invalid field names in Training data: {'warmup_steps'}.\n  c.toml:2: [training] "
       "warmup_steps = 3 is not a key; did you mean lr_scheduler.warmup_steps?\n  Correct or "
       "remove "
       "it; docs/configuration.md lists every key."},
      {"training = 3\n", "c.toml:1: training = 3: [training] is a table of keys, not a value"},
      // Types.
      {"[training]\nsteps = \"many\"\n",
       "c.toml:2: training.steps = \"many\": it must be an integer"},
      {"[training]\nsteps = 3.0\n", "c.toml:2: training.steps = 3.0: it must be an integer"},
      {"[optimizer]\nlr = \"1e-3\"\n", "c.toml:2: optimizer.lr = \"1e-3\": it must be a float"},
      {"[compile]\nenable = 1\n", "c.toml:2: compile.enable = 1: it must be a boolean"},
      {"[training]\ndataset = true\n", "c.toml:2: training.dataset = true: it must be a string"},
      {"[training]\nseed = 1.5\n", "c.toml:2: training.seed = 1.5: it must be an integer or None"},
      {"[compile]\ncomponents = \"loss\"\n",
       "c.toml:2: compile.components = \"loss\": it must be a list of strings"},
      // Sets and ranges.
      {"[training]\nsteps = -1\n", "c.toml:2: training.steps = -1: it must be at least 1"},
      {"[training]\nseq_len = 0\n", "c.toml:2: training.seq_len = 0: it must be at least 1"},
      {"[training]\nglobal_batch_size = -2\n",
       "c.toml:2: training.global_batch_size = -2: it must be at least 1, or -1"},
      {"[validation]\nsteps = 0\n", "c.toml:2: validation.steps = 0: it must be at least 1, or -1"},
      {"[training]\nlocal_batch_size = 4294967296\n",
       "c.toml:2: training.local_batch_size = 4294967296: it must be at most 2147483647"},
      {"[optimizer]\nlr = 0.0\n", "c.toml:2: optimizer.lr = 0: it must be greater than 0"},
      {"[optimizer]\nlr = nan\n",
       "c.toml:2: optimizer.lr = nan: it must be finite and greater than 0"},
      {"[optimizer]\nbeta1 = 1\n",
       "c.toml:2: optimizer.beta1 = 1: it must be at least 0 and below 1"},
      {"[lr_scheduler]\ndecay_ratio = 1.5\n",
       "c.toml:2: lr_scheduler.decay_ratio = 1.5: it must be at least 0 and at most 1"},
      {"[lr_scheduler]\ndecay_type = \"cosin\"\n",
       "c.toml:2: lr_scheduler.decay_type = \"cosin\": it must be one of linear, sqrt, cosine; did "
       "you mean cosine?"},
      {"[training]\nmixed_precision_reduce = \"bfloat16\"\n",
       "c.toml:2: training.mixed_precision_reduce = \"bfloat16\": it must be float32"},
      {"[data]\norder = \"random\"\n",
       "c.toml:2: data.order = \"random\": it must be one of global, torchtitan"},
      {"[compile]\ncomponents = [\"los\"]\n",
       "c.toml:2: compile.components = \"los\": it must be one of model, loss; did you mean loss?"},
      // Those that TorchTitan has a sentence for.
      {"[model]\nname = \"llama3\"\n",
       "TrainSpec llama3 is not registered.\n  c.toml:2: model.name = \"llama3\": it must be "
       "deepseek_v3"},
      {"[model]\nflavor = \"671b\"\n",
       "c.toml:2: model.flavor = \"671b\": it must be one of debugmodel, debugmodel_flex_attn, "
       "16B, "
       "236B, 671B; did you mean 671B?"},
      {"[optimizer]\nname = \"Muon\"\n",
       "Optimizer Muon not added.\n  c.toml:2: optimizer.name = \"Muon\": it must be one of Adam, "
       "AdamW"},
      {"[activation_checkpoint]\nmode = \"some\"\n",
       "Invalid AC mode: some. Valid modes: ('full', 'selective')\n  c.toml:2: "
       "activation_checkpoint.mode = \"some\": it must be one of selective, full, none, "
       "memory_budget; did you mean none?"},
      {"[activation_checkpoint]\nselective_ac_option = \"-1\"\n",
       "Invalid selective AC option: -1. Valid options: 'op' or a positive int representing layer "
       "frequency\n  c.toml:2: activation_checkpoint.selective_ac_option = \"-1\": set it to "
       "\"op\" "
       "or to a number of blocks."},
      {"[parallelism]\nfsdp_reshard_after_forward = \"no\"\n",
       "Invalid reshard_after_forward_policy: no.\n  c.toml:2: "
       "parallelism.fsdp_reshard_after_forward = \"no\": it must be one of default, always, never"},
      {"[parallelism]\npipeline_parallel_schedule = \"1f1c\"\n",
       "Unknown schedule name '1f1c'.\n  c.toml:2: parallelism.pipeline_parallel_schedule = "
       "\"1f1c\": it must be one of 1F1B, Interleaved1F1B, GPipe, LoopedBFS, "
       "InterleavedZeroBubble, "
       "ZBVZeroBubble, DualPipeV; did you mean "
       "1F1B?"},
      {"[parallelism]\ntensor_parallel_degree = 0\n",
       "Parallelism degree should be >= 1, except for dp_shard\n  c.toml:2: "
       "parallelism.tensor_parallel_degree = 0: it must be at least 1"},
      {"[parallelism]\ndata_parallel_shard_degree = 0\n",
       "dp_shard must -1 or >=1.\n  c.toml:2: parallelism.data_parallel_shard_degree = 0: it must "
       "be at least 1, or -1"},
  };
  for (const Case& c : cases) EXPECT_EQ(toml_message(c.given), c.expected) << c.given;
}

TEST(ContradictionErrors, NameBothKeysAndTheRemedy) {
  const std::vector<Case> cases = {
      {"[training]\nglobal_batch_size = 10\nlocal_batch_size = 4\n",
       "global batch size must be multiple of local batch size times data-parallel degree (10 % (4 "
       "* 1) != 0)\n  training.global_batch_size = 10 (c.toml:2), training.local_batch_size = 4 "
       "(c.toml:3): set global_batch_size to 12."},
      {"[training]\nseq_len = 33\n",
       "Sequence length 33 must be divisible by the product of TP degree (1) and 2 * CP degree "
       "(1).\n  c.toml:2: training.seq_len = 33: set it to 34."},
      {"[model]\nhf_config = \"a\"\ntorchtitan_args = \"b\"\n",
       "model.hf_config = a (c.toml:2) and model.torchtitan_args = b (c.toml:3): the model comes "
       "from one of them; remove the other."},
      {"[model_overrides]\nuse_flex_attn = false\nattn_mask_type = \"block_causal\"\n",
       "model_overrides.use_flex_attn = false (c.toml:2) asks for a causal mask, "
       "model_overrides.attn_mask_type = \"block_causal\" (c.toml:3) for one within documents: "
       "remove one of them."},
      {"[parallelism]\ndata_parallel_shard_degree = 2\n",
       "Invalid parallel dims: dp_replicate(1) * dp_shard(2) * cp(1) * tp(1) * pp(1) != "
       "WORLD_SIZE(1)\n  c.toml:2: parallelism.data_parallel_shard_degree = 2: set it to 1 or -1."},
      {"[validation]\nenable = true\nseq_len = 64\n",
       "validation.seq_len = 64 (c.toml:3), training.seq_len = 2048 (default): held-out rows are "
       "evaluated at the training length; make them equal."},
      {"[optimizer]\nmaster_dtype = \"split\"\n[training]\nmixed_precision_param = \"float32\"\n",
       "optimizer.master_dtype = \"split\" (c.toml:2) keeps what bf16 copies lack of the masters, "
       "and "
       "training.mixed_precision_param = \"float32\" (c.toml:4) makes no such copies: set that to "
       "bfloat16, or optimizer.master_dtype to float32."},
      {"[profiling]\nenable_profiling = true\nprofile_freq = 3\n",
       "profile_freq must be greater than or equal to warmup + active\n  profiling.profile_freq = "
       "3, profiler_warmup = 3, profiler_active = 1"},
      {"[profiling]\nranks = \"first\"\n",
       "c.toml:2: profiling.ranks = \"first\": all, stage, or numbers of ranks with commas, as in "
       "\"0,8\"."},
      {"[profiling]\nranks = \"0, 1\"\n",
       "c.toml:2: profiling.ranks = \"0, 1\": there is no rank 1 in a run of 1; the last one is "
       "0."},
      {"[model]\ntokenizer_path = \"x/tokenizer.model\"\n",
       "c.toml:2: model.tokenizer_path = x/tokenizer.model: sentencepiece files are not read; name "
       "the folder with tokenizer.json in model.hf_assets_path."},
  };
  for (const Case& c : cases) EXPECT_EQ(toml_message(c.given), c.expected) << c.given;
}

TEST(CheckpointErrors, SayWhatDoesNotGoTogether) {
  const std::vector<Case> cases = {
      {"[checkpoint]\nenable = true\nkeep_latest_k = 1\n",
       "We need to maintain at least 2 checkpoint replicas, as the last one may be in the process "
       "of being saved.\n  c.toml:3: checkpoint.keep_latest_k = 1: set it to 0 (all) or 2 and "
       "more."},
      {"[checkpoint]\nenable = true\nlast_save_in_hf = true\nlast_save_model_only = false\n",
       "Only model can be saved when saving in HF safetensors format.\n  c.toml:4: set "
       "checkpoint.last_save_model_only to true."},
      {"[checkpoint]\ninitial_load_in_hf = true\ninitial_load_model_only = false\n",
       "Only model can be loaded when loading from HF's safetensors checkpoint.\n  c.toml:3: set "
       "checkpoint.initial_load_model_only to true."},
      {"[checkpoint]\ninitial_load_in_hf_quantized = true\n",
       "Quantized checkpoint can only be loaded from HuggingFace format.\n  c.toml:2: set "
       "checkpoint.initial_load_in_hf to true."},
      {"[training]\nskip_steps = [3, 2]\n",
       "c.toml:2: training.skip_steps = [3, 2]: it must be [a, b], the first and the last step "
       "whose data is passed over."},
      {"[training]\nskip_steps = [3, 0]\n",
       "c.toml:2: training.skip_steps = 0: it must be at least 1"},
      {"[training]\nskip_steps = [2, 3]\n", "no error"},
      {"[checkpoint]\nkeep_every = -1\n",
       "c.toml:2: checkpoint.keep_every = -1: it must be at least 0"},
      {"[checkpoint]\nenable = true\ninterval = 5\nload_step = 4\n", "no error"},
      {"[checkpoint]\ninitial_load_path = \"x\"\n", "no error"},
      {"[checkpoint]\nenable = true\nlast_save_in_hf = true\n[training]\nsteps = 500\n",
       "no error"},
      {"[checkpoint]\ninitial_load_path = \"x\"\ninitial_load_in_hf = true\n", "no error"},
  };
  for (const Case& c : cases) EXPECT_EQ(toml_message(c.given), c.expected) << c.given;
}

// What would change a run's results and is not implemented ends it.
TEST(NotBuiltYet, IsRefusedUnlessItIsSetToItsDefault) {
  const std::vector<std::pair<std::string, std::string>> refused = {
      {"model.converters", "quantize.linear.float8"},
      {"training.dtype", "bfloat16"},
      {"training.enable_cpu_offload", "true"},
      {"optimizer.early_step_in_backward", "true"},
      {"fault_tolerance.enable", "true"},
      {"fault_tolerance.semi_sync_method", "diloco"},
      {"memory_estimation.enable", "true"},
      {"job.custom_config_module", "x"},
      {"experimental.custom_import", "x"}};
  for (const auto& [key, value] : refused)
    EXPECT_THAT(message({fmt::format("--{}={}", key, value)}),
                testing::AllOf(testing::StartsWith(fmt::format("command line: {} = ", key)),
                               testing::HasSubstr("not implemented")));
  EXPECT_EQ(message({"--parallelism.tensor_parallel_degree=1", "--training.dtype=float32",
                     "--fault_tolerance.semi_sync_method=None"}),
            "no error");
  EXPECT_THAT(
      message({"--activation_checkpoint.mode=memory_budget"}),
      testing::StartsWith("Memory budget mode requires model to be compiled\n  command line: "
                          "activation_checkpoint.mode = memory_budget"));
}

TEST(CommandLineErrors, AreOneMessageEach) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--training.step=3"},
       "--training.step: there is no such option; did you mean --training.steps?\n  "
       "docs/configuration.md lists every key."},
      {{"--training.warmup_steps=3"},
       "--training.warmup_steps: there is no such option; did you mean "
       "--lr_scheduler.warmup_steps?\n  docs/configuration.md lists every key."},
      {{"--steps", "3"},
       "--steps: there is no such option; did you mean --training.steps?\n  "
       "docs/configuration.md lists every key."},
      {{"--dryrun"},
       "--dryrun: there is no such option; did you mean --dry-run?\n  docs/configuration.md lists "
       "every key."},
      {{"--training.no_steps"},
       "--training.no_steps: there is no such option; did you mean --training.steps?\n  "
       "docs/configuration.md lists every key."},
      {{"-x"}, "-x: options are written --section.key=value; `nereus train --help` lists them"},
      {{"--training.steps"}, "--training.steps: a value is missing; write --training.steps=VALUE"},
      {{"--training.steps", "--compile.enable"},
       "--training.steps: a value is missing; write --training.steps=VALUE"},
      {{"--training.steps=ten"}, "command line: training.steps = ten: it must be an integer"},
      {{"--training.steps=1.0"}, "command line: training.steps = 1.0: it must be an integer"},
      {{"--training.steps=99999999999999999999"},
       "command line: training.steps = 99999999999999999999: it must be an integer"},
      {{"--training.steps=-1"}, "command line: training.steps = -1: it must be at least 1"},
      {{"--optimizer.lr="}, "command line: optimizer.lr = : it must be a float"},
      {{"--compile.enable=yes"}, "command line: compile.enable = yes: it must be a boolean"},
      {{"--compile.no_enable=true"},
       "--compile.no_enable=true: it takes no value; write --compile.enable=true"},
      {{"--print-config=yes"}, "--print-config=yes: it takes no value"},
      {{"--dry-run", "--world", "0"}, "--world 0: it must be an integer from 1 to 1048576"},
      {{"--nproc", "2147483647"}, "--nproc 2147483647: it must be an integer from 1 to 1048576"},
      {{"--world=8"},
       "--world 8: it plans for ranks that need not exist, so it goes with --dry-run"},
      {{"--nproc=2", "--dry-run"},
       "--nproc 2 with --dry-run: say --world 2 to plan for so many ranks"},
      {{"a.toml", "b.toml"}, "two configuration files are named: a.toml and b.toml; name one"},
  };
  for (const auto& [arguments, expected] : cases) EXPECT_EQ(message(arguments), expected);
}

// 12 sequences a step do not divide among 512 ranks of 8.
TEST(CommandLineErrors, CheckTheBatchForTheRanksThatArePlannedFor) {
  EXPECT_THAT(message({"--dry-run", "--world=512", "--training.global_batch_size=16"}),
              testing::StartsWith("global batch size must be multiple of local batch size times "
                                  "data-parallel degree (16 % (8 * 512) != 0)"));
  EXPECT_EQ(message({"--dry-run", "--world=512", "--training.global_batch_size=8192"}), "no error");
}

}  // namespace
}  // namespace nereus
