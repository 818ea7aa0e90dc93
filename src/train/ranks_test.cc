// Whole runs on several ranks, as `nereus train --nproc N` starts them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/hf_weights.h"
#include "comm/thread_ranks.h"
#include "config/load.h"
#include "config/model_flops.h"
#include "engine/engine_options.h"
#include "engine/memory_table.h"
#include "test/test_tensor.h"
#include "train/dry_run.h"
#include "train/trainer.h"
#include "train/whole_run_test.h"

namespace nereus {
namespace {

using test::Arguments;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;
using test::operator+;
using Outcome = test::WholeRun;

Arguments small(const std::string& folder, const Arguments& more = {}) {
  return test::small_model(folder) +
         Arguments{"--training.global_batch_size=8",
                   "--validation.enable",
                   "--validation.dataset=random",
                   "--validation.steps=3",
                   "--validation.local_batch_size=2",
                   "--validation.seq_len=16",
                   "--checkpoint.enable",
                   "--checkpoint.last_save_in_hf"} +
         more;
}

Outcome train(int ranks, const Arguments& arguments) { return test::train_on(ranks, arguments); }

std::string weights_of(const std::string& folder) {
  return test::read_file(folder + "/checkpoint/step-3/model.safetensors");
}

TEST(Ranks, DataParallelRunsSaveTheWeightsOfOneRank) {
  const test::TemporaryFolder folder;
  const std::string one = folder.path() + "/one", four = folder.path() + "/four";
  EXPECT_EQ(train(1, small(one)).code, 0);
  const Outcome run = train(4, small(four));
  EXPECT_EQ(run.code, 0);
  const HfWeights a = HfWeights::open(one + "/checkpoint/step-3"),
                  b = HfWeights::open(four + "/checkpoint/step-3");
  ASSERT_EQ(a.names(), b.names());
  for (const std::string& name : a.names()) {
    int64_t n = 1;
    for (const int64_t d : a.find(name)->shape) n *= d;
    std::vector<float> x(static_cast<size_t>(n)), y(x.size());
    a.read_f32(name, x.data());
    b.read_f32(name, y.data());
    for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], y[i], 2e-5) << name << " " << i;
  }
  EXPECT_THAT(run.log, HasSubstr("[rank0]:[titan]"));
  EXPECT_THAT(run.log, Not(HasSubstr("[rank1]")));
  EXPECT_THAT(run.log, HasSubstr("Layout: dp_shard 4;"));
  EXPECT_FALSE(std::filesystem::exists(four + "/metrics.1.jsonl")) << "one rank makes the folder";
}

std::vector<std::string> metrics_without_times(const std::string& folder) {
  std::vector<std::string> out;
  std::istringstream in(test::read_file(folder + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);) {
    const auto all = nlohmann::json::parse(line);
    std::string kept;
    for (const char* key : {"step", "loss", "grad_norm", "validation_loss"})
      if (all.contains(key)) kept += all[key].dump() + " ";
    out.push_back(kept);
  }
  return out;
}

// A layer's experts may be on any rank, and the worst layer on any stage.
TEST(Ranks, TheFiguresOfAStepAreOfTheRun) {
  const test::TemporaryFolder folder;
  const auto loads = [&](const char* name, int ranks, const Arguments& more) {
    const std::string place = folder.file(name);
    const Outcome run = train(ranks, small(place, Arguments{"--metrics.log_freq=2"} + more));
    EXPECT_EQ(run.code, 0);
    EXPECT_THAT(run.log, Not(HasSubstr("memory:  0.00GiB"))) << "of validations too";
    std::vector<double> out;
    std::istringstream in(test::read_file(place + "/metrics.jsonl"));
    for (std::string line; std::getline(in, line);) {
      const auto all = nlohmann::json::parse(line);
      if (!all.contains("loss")) continue;
      EXPECT_GT(all.value("memory_gib", 0.0), 0) << line;
      EXPECT_GT(all.value("memory_percent", 0.0), 0) << line;
      EXPECT_GT(all.value("data_seconds", 0.0), 0) << line;
      out.push_back(all["expert_load_max_over_mean"]);
    }
    return out;
  };
  const std::vector<double> one = loads("one", 1, {});
  EXPECT_THAT(one, testing::SizeIs(2));
  EXPECT_THAT(one, testing::Each(testing::Gt(1)));
  EXPECT_EQ(loads("pp", 4, {"--parallelism.pipeline_parallel_degree=4"}), one);
  EXPECT_EQ(loads("dp_ep", 4, {"--parallelism.expert_parallel_degree=2"}), one);
  EXPECT_EQ(
      loads("tp_cp", 4,
            {"--parallelism.tensor_parallel_degree=2", "--parallelism.context_parallel_degree=2"}),
      one);
  EXPECT_EQ(loads("unbiased", 2,
                  {"--parallelism.pipeline_parallel_degree=2",
                   "--model_overrides.load_balance_coeff=0"})[0],
            one[0]);
}

// FLOPs a token as the lines of metrics.jsonl count them, from TFLOP/s and tokens/s.
void expect_flops(const Outcome& run, const std::string& folder, double torchtitan, double causal) {
  EXPECT_EQ(run.code, 0);
  std::istringstream in(test::read_file(folder + "/metrics.jsonl"));
  int lines = 0;
  for (std::string line; std::getline(in, line); ++lines) {
    const auto all = nlohmann::json::parse(line);
    const double millions = all.at("tps").get<double>() / 1e12;
    EXPECT_NEAR(all.at("tflops").get<double>() / millions, torchtitan, 1e-9 * torchtitan) << line;
    EXPECT_NEAR(all.at("tflops_causal").get<double>() / millions, causal, 1e-9 * causal) << line;
    EXPECT_TRUE(all.at("mfu_causal").is_null()) << line;
  }
  EXPECT_EQ(lines, 3);
}

TEST(Ranks, FlopsAreTorchTitansAndThoseThatTheMaskLeaves) {
  const test::TemporaryFolder folder;
  // Two rows of documents of three tokens, of which a row of 16 has five and a token of another;
  // two rows of one document.
  std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': (68,), }", ids;
  header.resize(117, ' ');
  for (int i = 0; i < 4 * 17; ++i) ids += i < 2 * 17 && i % 17 % 3 == 2 ? '\1' : '\7';
  const std::string data =
      folder.write("ids.npy", std::string("\x93NUMPY\x01\x00\x76\x00", 10) + header + "\n" + ids);
  const auto run = [&](const char* name, int ranks, const Arguments& more) {
    return train(
        ranks,
        Arguments{
            "--model.hf_config=" + test::source_path("tests/golden/hf_tiny/no_yarn/config.json"),
            "--training.dataset=tokens", "--training.dataset_path=" + data, "--training.seq_len=16",
            "--training.local_batch_size=2", "--training.global_batch_size=4", "--training.steps=3",
            "--metrics.log_freq=1", "--job.dump_folder=" + folder.file(name)} +
            more);
  };
  TrainFlags flags;
  const ModelArgs args = resolve_model_args(
      load_config(Arguments{"--model.hf_config=" +
                            test::source_path("tests/golden/hf_tiny/no_yarn/config.json")},
                  flags)
          .config);
  // 2 layers, 4 heads, widths 24 and 16: a pair is 6 x 2 x 4 x 40 FLOPs.
  const FlopsPerToken f = flops_per_token(args, 16);
  const auto torchtitan = static_cast<double>(f.torchtitan), causal = static_cast<double>(f.causal),
             documents =
                 causal - 6 * 2 * 4 * 40 * (8 - ((5 * 9 + 1) / 2.0 + 16 * 16 / 2.0) / 2 / 16);
  const Outcome plain = run("causal", 1, {"--model_overrides.attn_mask_type=causal"});
  EXPECT_THAT(plain.log, HasSubstr("attention causal (CPU)"));
  expect_flops(plain, folder.file("causal"), torchtitan, causal);
  const Arguments masked = {"--model_overrides.attn_mask_type=block_causal"};
  for (const auto& [name, ranks, more] : {std::tuple<const char*, int, Arguments>{"one", 1, {}},
                                          {"two", 2, {}},
                                          {"tp", 2, {"--parallelism.tensor_parallel_degree=2"}}}) {
    const Outcome some = run(name, ranks, masked + more);
    EXPECT_THAT(some.log, HasSubstr("attention document mask (CPU)"));
    expect_flops(some, folder.file(name), torchtitan, documents);
  }
}

// Ten documents, of which a rank reads some: how often they were seen, and what is broken in them.
// Of eight shards two are broken; ranks read all of them, or two each, and rank 0 two sound ones.
TEST(Ranks, TheLastLinesSpeakOfTheDocumentsOfAllRanks) {
  const test::TemporaryFolder folder;
  const std::string document = "{\"text\": \"one two three\"}\n";
  for (const char* name : {"1", "6"})
    folder.write(fmt::format("data/{}.jsonl", name),
                 "version https://git-lfs.github.com/spec/v1\n");
  for (const char* name : {"0", "2", "3", "4"})
    folder.write(fmt::format("data/{}.jsonl", name), document + document);
  for (const char* name : {"5", "7"}) folder.write(fmt::format("data/{}.jsonl", name), document);
  folder.write("data/0.jsonl", "{\"text\": \n" + document + document);
  const auto said = [&](const char* name, int ranks, const Arguments& more) {
    const Outcome run = train(
        ranks, small(folder.file(name),
                     Arguments{"--training.dataset=c4", "--training.steps=2",
                               "--training.dataset_path=" + folder.file("data"),
                               "--data.on_broken_shard=skip",
                               "--model.hf_assets_path=" + test::source_path("assets/tokenizer"),
                               "--model_overrides.vocab_size=129280", "--model_overrides.dim=8",
                               "--training.local_batch_size=1", "--validation.enable=false",
                               "--checkpoint.enable=false"} +
                         more));
    EXPECT_EQ(run.code, 0);
    EXPECT_THAT(run.log, HasSubstr(" not JSON, 0 without a \"text\"); 0 ill-formed parts of text "
                                   "replaced by U+FFFD; 2 broken shards passed over\n"))
        << name;
    const size_t at = run.log.find("Data: 2 steps");
    return run.log.substr(at, run.log.find('\n', at) - at);
  };
  // 2 steps of 8 rows of 17 tokens, over 10 documents of 5.
  const std::string want = "Data: 2 steps of 128 tokens from c4 (the text was seen 5.44 times)";
  EXPECT_EQ(said("one", 1, {}), want);
  EXPECT_EQ(said("dp", 4, {}), want);
  EXPECT_EQ(said("torchtitan", 4, {"--data.order=torchtitan"}), want);
  EXPECT_EQ(
      said("pp_tp", 8,
           {"--parallelism.pipeline_parallel_degree=2", "--parallelism.tensor_parallel_degree=2"}),
      want);
}

// From loaded f32 weights to saved ones, with held-out losses in between.
TEST(Ranks, SplitMastersGiveTheBitsOfWholeOnes) {
  const test::TemporaryFolder folder;
  const std::string first = folder.path() + "/first";
  ASSERT_EQ(train(1, small(first, {"--training.seed=7"})).code, 0);
  for (const int ranks : {1, 2}) {
    for (const char* reshard : {"always", "never"}) {
      const std::string plain = fmt::format("{}/plain-{}-{}", folder.path(), ranks, reshard),
                        split = fmt::format("{}/split-{}-{}", folder.path(), ranks, reshard);
      const Arguments same = {"--training.mixed_precision_param=bfloat16",
                              "--checkpoint.export_dtype=float32",
                              "--checkpoint.initial_load_in_hf",
                              "--checkpoint.initial_load_path=" + first + "/checkpoint/step-3",
                              std::string("--parallelism.fsdp_reshard_after_forward=") + reshard};
      Arguments parts = same;
      parts.insert(parts.end(), {"--optimizer.master_dtype=split", "--optimizer.offload=states"});
      EXPECT_EQ(train(ranks, small(plain, same)).code, 0);
      const Outcome run = train(ranks, small(split, parts));
      EXPECT_EQ(run.code, 0);
      EXPECT_THAT(run.log, HasSubstr("Accepted, with nothing here to act on: optimizer.offload = "
                                     "states; the CPU's memory is the host's."));
      EXPECT_EQ(metrics_without_times(split), metrics_without_times(plain));
      EXPECT_EQ(weights_of(split), weights_of(plain));
      EXPECT_NE(weights_of(split), weights_of(first));
    }
  }
}

TEST(Ranks, EveryLayoutSavesWholeWeightsThatEveryOtherLoads) {
  const test::TemporaryFolder folder;
  const std::string first = folder.path() + "/first";
  EXPECT_EQ(train(1, small(first)).code, 0);
  const std::string start = first + "/checkpoint/step-3";
  const auto from_there = [&](const std::string& name, int ranks, Arguments more) {
    const std::string place = folder.path() + "/" + name;
    more.insert(more.end(), {"--checkpoint.initial_load_path=" + start,
                             "--checkpoint.initial_load_in_hf", "--optimizer.lr=1e-30"});
    const Outcome run = train(ranks, small(place, more));
    EXPECT_EQ(run.code, 0);
    EXPECT_THAT(run.log, Not(HasSubstr("not in this model"))) << "other ranks' are";
    // With a rate that moves nothing what is saved is what was loaded, all of it in its place;
    // weight decay is scaled by the rate. Biases of experts move by their own coefficient.
    EXPECT_EQ(std::filesystem::file_size(place + "/checkpoint/step-3/model.safetensors"),
              std::filesystem::file_size(start + "/model.safetensors"));
    return weights_of(place);
  };
  const std::string one = from_there("one", 1, {});
  EXPECT_TRUE(from_there("fsdp", 8, {"--training.local_batch_size=1"}) == one)
      << "shares begin inside of experts";
  EXPECT_TRUE(from_there("tp", 2, {"--parallelism.tensor_parallel_degree=2"}) == one);
  EXPECT_TRUE(from_there("pp", 4,
                         {"--parallelism.pipeline_parallel_degree=2",
                          "--parallelism.expert_parallel_degree=2"}) == one);
  EXPECT_TRUE(from_there("all", 8,
                         {"--parallelism.pipeline_parallel_degree=2",
                          "--parallelism.tensor_parallel_degree=2",
                          "--parallelism.expert_parallel_degree=4",
                          "--parallelism.pipeline_parallel_schedule=ZBVZeroBubble"}) == one);
}

// From the third microbatch on, 1F1B's backward passes run while another microbatch is kept whole.
// A wide first block needs its scratch when its own stage has given most of what it kept back.
TEST(Ranks, APipelineHasRoomForABackwardPassBesideAKeptMicrobatch) {
  const test::TemporaryFolder folder;
  const auto loss = [&](int ranks, const std::string& schedule) {
    const Outcome run =
        train(ranks, small(folder.path() + "/" + schedule,
                           {"--model_overrides.inter_dim=1024", "--training.local_batch_size=4",
                            "--training.global_batch_size=4", "--training.steps=1",
                            "--parallelism.pipeline_parallel_degree=" + std::to_string(ranks),
                            "--parallelism.pipeline_parallel_schedule=" + schedule,
                            "--checkpoint.enable=false", "--validation.enable=false"}));
    EXPECT_EQ(run.code, 0);
    const size_t at = run.log.find("loss:");
    return run.log.substr(at, run.log.find("memory", at) - at);
  };
  const std::string one = loss(1, "1F1B");
  EXPECT_THAT(one, HasSubstr("grad_norm"));
  EXPECT_EQ(loss(2, "1F1B"), one);
  EXPECT_EQ(loss(2, "GPipe"), one);
}

TEST(Ranks, ASignalSentTwiceEndsAllAfterTheSameStep) {
  for (const char* log_freq : {"1", "1000000"}) {  // known at once, or a step late
    const test::TemporaryFolder folder;
    const Arguments more = {"--training.steps=100000", "--checkpoint.enable=false",
                            "--validation.enable=false",
                            std::string("--metrics.log_freq=") + log_freq};
    std::thread sender([] {
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
      for (int i = 0; i < 2; ++i) std::raise(SIGTERM);
    });
    const Outcome run = train(4, small(folder.path(), more));
    sender.join();
    EXPECT_EQ(run.code, 128 + SIGTERM);
    EXPECT_THAT(run.log, HasSubstr("SIGTERM received: stopped after step"));
    std::raise(SIGTERM);  // of a rank that was told last
  }
}

TEST(Ranks, WhatCannotBeDividedIsOneMessage) {
  const test::TemporaryFolder folder;
  const auto refused = [&](int ranks, const Arguments& more) {
    return [&folder, ranks, more] { train(ranks, small(folder.path(), more)); };
  };
  EXPECT_THAT(refused(4, {"--parallelism.tensor_parallel_degree=3"}),
              ThrowsMessage<Error>(HasSubstr("Sequence length 16 must be divisible by")));
  EXPECT_THAT(refused(4, {"--parallelism.tensor_parallel_degree=4"}),
              ThrowsMessage<Error>(HasSubstr("n_heads (2) must be divisible by")));
  EXPECT_THAT(refused(2, {"--parallelism.expert_parallel_degree=4"}),
              ThrowsMessage<Error>(HasSubstr("expert_parallel_degree (4) must divide")));
  EXPECT_THAT(refused(8, {"--parallelism.pipeline_parallel_degree=8"}),
              ThrowsMessage<Error>(HasSubstr("stage")));
  EXPECT_FALSE(std::filesystem::exists(folder.path() + "/metrics.jsonl"));
}

TEST(DryRun, SaysWhatCheckpointsTake) {
  const auto said = [](const Arguments& more) {
    const log::Capture quiet;
    TrainFlags flags;
    const Arguments all = test::small_model("nowhere") + Arguments{"--dry-run", "--world=2"} + more;
    return dry_run(load_config(all, flags).config, 2);
  };
  EXPECT_THAT(said({}).text, Not(HasSubstr("Checkpoints")));
  const DryRun small = said({"--checkpoint.enable", "--checkpoint.interval=1",
                             "--checkpoint.async_mode=async", "--optimizer.moment_dtype=bfloat16"});
  EXPECT_THAT(small.text, HasSubstr("Checkpoints\n  weights and moments "));
  EXPECT_THAT(
      small.text,
      ContainsRegex("a copy in host memory while they are written: .* a rank, .* a node of 2"));
  EXPECT_THAT(small.text, HasSubstr("the last one, weights alone in float32: "));
  EXPECT_THAT(small.text, HasSubstr(" free\n"));
  EXPECT_TRUE(small.fits);
  const DryRun large = said({"--checkpoint.enable", "--model_overrides.vocab_size=200000000",
                             "--checkpoint.interval=1", "--training.steps=100"});
  EXPECT_THAT(large.text,
              ContainsRegex("Checkpoints do not fit: 11 checkpoints of .* free: keep fewer "
                            "\\(checkpoint.keep_latest_k = 10\\), save less often"));
  EXPECT_FALSE(large.fits);
}

TEST(DryRun, DescribesARankOfTheLayout) {
  TrainFlags flags;
  Arguments arguments = {"--model.flavor=671B",
                         "--training.seq_len=4096",
                         "--training.local_batch_size=8",
                         "--parallelism.pipeline_parallel_degree=8",
                         "--parallelism.expert_parallel_degree=32",
                         "--parallelism.pipeline_parallel_schedule=Interleaved1F1B",
                         "--activation_checkpoint.mode=full",
                         "--dry-run",
                         "--world=256"};
  const LoadedConfig loaded = load_config(arguments, flags);
  const std::string text = dry_run(loaded.config, flags.world).text;
  EXPECT_THAT(text, HasSubstr("Memory of rank 0 of 256: pp 8 x dp_shard 32, ep 32\n"));
  EXPECT_THAT(text, HasSubstr("parameters gathered"));
  EXPECT_THAT(text, HasSubstr("Memory of rank 32 of 256: pp 8 x dp_shard 32, ep 32\n"
                              "  the rank that needs the most; stages 1, 9 of 16\n"));
  EXPECT_THAT(text, HasSubstr("  the first of the pipeline; stages 0, 8 of 16\n"));
  EXPECT_THAT(text, HasSubstr("  the last of the pipeline; stages 7, 15 of 16\n"));
  const auto lines = [](const std::string& all, const char* with) {
    int n = 0;
    std::istringstream in(all);
    for (std::string line; std::getline(in, line);)
      n += line.find(with) != std::string::npos && line.find("GiB") != std::string::npos;
    return n;
  };
  EXPECT_EQ(lines(text, "total"), 3) << "one of each table, and no other line";
  arguments.insert(arguments.end(), {"--device.kind=cuda", "--device.gpu_type=h100"});
  const std::string gpu = dry_run(load_config(arguments, flags).config, 256).text;
  const std::string last = gpu.substr(gpu.rfind('\n', gpu.size() - 2) + 1);
  EXPECT_THAT(last, testing::AnyOf(testing::StartsWith("Fits h100: yes (needs "),
                                   testing::StartsWith("Fits h100: no (needs ")));
  EXPECT_THAT(last, HasSubstr(", and a run may have 76.73 of its 79.1 GiB)\n"));
  arguments.back() = "--device.gpu_memory_gib=1000";
  EXPECT_THAT(dry_run(load_config(arguments, flags).config, 256).text,
              HasSubstr("\nFits the GPU: yes (needs "));
  for (const auto& [gib, fits] : {std::pair("1000", true), std::pair("10", false)}) {
    arguments.back() = fmt::format("--device.gpu_memory_gib={}", gib);
    EXPECT_EQ(dry_run(load_config(arguments, flags).config, 256).fits, fits) << gib;
  }

  arguments = {"--model.flavor=671B",
               "--training.seq_len=4096",
               "--training.local_batch_size=1",
               "--training.global_batch_size=512",
               "--parallelism.expert_parallel_degree=64",
               "--activation_checkpoint.mode=full",
               "--dry-run",
               "--world=512"};
  const LoadedConfig sharded = load_config(arguments, flags);
  const ModelArgs args = training_model_args(sharded.config);
  const RunLayout layout = run_layout(sharded.config, args, 512);
  Stream meta(Device::meta());
  // 671 G parameters over 512 ranks at 18 bytes each, and two blocks whole beside them.
  const double total = memory_table(sharded.config, args, layout, 0, meta).total();
  EXPECT_GT(total, 18 * 671e9 / 512);
  EXPECT_LT(total, 80.0 * (1 << 30));
}

// Many ranks start, run and stop: docs/operations.md has the figures.
TEST(Ranks, SixtyFourRunTwoSteps) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(train(64, small(folder.path(),
                            {"--training.steps=2", "--training.global_batch_size=64",
                             "--training.local_batch_size=2", "--validation.enable=false",
                             "--checkpoint.enable=false", "--parallelism.tensor_parallel_degree=2",
                             "--parallelism.expert_parallel_degree=4"}))
                .code,
            0);
}

}  // namespace
}  // namespace nereus
