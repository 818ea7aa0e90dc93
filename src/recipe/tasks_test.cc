#include "recipe/tasks.h"

#include "recipe/installation_test.h"

namespace nereus::recipe {
namespace {

using testing::ElementsAre;
using testing::Pair;

class Tasks : public testing::Test {
 protected:
  Installation there_;

  TaskRequest explicit_request(const std::string& scale, const std::string& dtype = "bf16") const {
    TaskRequest r;
    r.workload = kKey;
    r.size = "671b";
    r.dtype = dtype;
    r.scale = scale;
    return r;
  }
  TaskList tasks(const TaskRequest& r) const {
    return make_tasks(r, there_.workloads, there_.config);
  }
  std::string refused(const TaskRequest& r) const {
    return refusal([&] { tasks(r); });
  }
  std::vector<int64_t> scales(const TaskRequest& r) const {
    std::vector<int64_t> out;
    for (const Task& t : tasks(r).tasks) out.push_back(t.scale);
    return out;
  }
};

TEST_F(Tasks, AnExplicitRequestIsATaskAScaleTheLargestFirst) {
  TaskRequest r = explicit_request("512,1024");
  r.repeats = 2;
  r.profile = true;
  r.environment = {{"A", "b"}};
  const TaskList list = tasks(r);
  ASSERT_EQ(list.tasks.size(), 4u);
  EXPECT_THAT(scales(r), ElementsAre(1024, 1024, 512, 512));
  EXPECT_TRUE(list.warnings.empty());
  EXPECT_EQ(
      describe(list.tasks[0], "  - ", "x"),
      "  - pretrain_deepseek-v3-torchtitan_671b dtype=bf16 scale=1024 profile=yes env=(A=b) x");
  r.environment = {{"HF_TOKEN", "hf_x"}};
  EXPECT_THAT(describe(tasks(r).tasks[0], "", ""), testing::EndsWith(" env=(HF_TOKEN=...)"));
}

TEST_F(Tasks, AScaleThatIsNotListedFollowsTheRules) {
  EXPECT_EQ(refused(explicit_request("256")),
            "Validation failed for 1 out of 1 tasks:\n"
            "  1x pretrain_deepseek-v3-torchtitan_671b (dtype=bf16): Scale 256 is below minimum "
            "supported scale for pretrain_deepseek-v3-torchtitan_671b.\n"
            "     Supported scales: 512, 1024\n"
            "No valid task is left: nothing is submitted.");
  const TaskList some = tasks(explicit_request("256,512,768,2048"));
  EXPECT_THAT(scales(explicit_request("256,512,768,2048")), ElementsAre(2048, 512));
  EXPECT_THAT(some.dropped, testing::HasSubstr("Validation failed for 2 out of 4 tasks:"));
  EXPECT_THAT(some.dropped, testing::HasSubstr("Scale 768 not supported for "));
  EXPECT_THAT(some.warnings,
              ElementsAre("Scale 2048 for pretrain_deepseek-v3-torchtitan_671b exceeds maximum "
                          "tested scale of 1024. This configuration has not been validated.",
                          "2 of 4 tasks are valid and are submitted."));
  TaskRequest forced = explicit_request("4", "fp8");
  forced.force = true;
  EXPECT_THAT(scales(forced), ElementsAre(4));
  EXPECT_THAT(tasks(forced).warnings,
              ElementsAre("--force: data type, scale and memory are not checked."));
}

TEST_F(Tasks, ExactScalesAreTheOnlyOnes) {
  there_.workloads[kKey].gpus["h100"].sizes[0].dtypes[0].exact_scales = true;
  EXPECT_THAT(refused(explicit_request("2048")), testing::HasSubstr("Scale 2048 not supported"));
  there_.workloads[kKey].gpus["h100"].sizes[0].dtypes[0].exact_scales = false;
  TaskRequest exact = explicit_request("2048");
  exact.exact_scales = true;
  EXPECT_THAT(refused(exact), testing::HasSubstr("Scale 2048 not supported"));
  there_.workloads[kKey].gpus["h100"].sizes[0].dtypes[0].exact_scales = true;
  TaskRequest r = explicit_request("");
  r.max_scale = 4096;
  EXPECT_THAT(scales(r), ElementsAre(1024, 512));
}

TEST_F(Tasks, DiscoveryTakesListedScalesAndPowersOfTwoAbove) {
  TaskRequest r;
  r.max_scale = 5000;
  EXPECT_THAT(scales(r), ElementsAre(4096, 2048, 1024, 512));
  r.exact_scales = true;
  EXPECT_THAT(scales(r), ElementsAre(1024, 512));
  r.min_scale = true;
  EXPECT_THAT(scales(r), ElementsAre(512));
  r.max_scale = 511;
  EXPECT_EQ(refused(r),
            "No matching job configurations found.\n`nereus list` shows what there is.");
  TaskRequest anything;
  anything.scale = "64,512";
  EXPECT_THAT(scales(anything), ElementsAre(512));  // nobody asked for this workload at 64
  TaskRequest sized;
  sized.workload = std::string(kKey) + "_671b";
  sized.scale = "512";
  EXPECT_THAT(scales(sized), ElementsAre(512));
}

TEST_F(Tasks, WhatIsUnknownIsToldWithWhatThereIs) {
  const auto reason = [&](const TaskRequest& r) {
    const std::string text = refused(r);
    const size_t begin = text.find("): ") + 3;
    return text.substr(begin, text.find("\nNo valid") - begin);
  };
  TaskRequest r = explicit_request("512");
  r.workload = "pretrain_llama";
  EXPECT_EQ(reason(r), std::string("Workload 'pretrain_llama' not found.\n     Available "
                                   "workloads: ") +
                           kKey);
  r = explicit_request("512");
  r.size = "16B";
  EXPECT_EQ(reason(r),
            "Model size '16b' not supported for workload 'pretrain_deepseek-v3-torchtitan' for GPU "
            "type 'h100'.\n     Available model sizes: 671b");
  EXPECT_EQ(reason(explicit_request("512", "fp8")),
            "Data type 'fp8' not supported for pretrain_deepseek-v3-torchtitan_671b.\n     "
            "Supported data types: bf16");
  there_.config.gpu_type = "a100";
  EXPECT_EQ(reason(explicit_request("512")),
            "GPU type 'a100' not supported for workload 'pretrain_deepseek-v3-torchtitan'.\n     "
            "Supported GPU types: b200, gb200, h100, h200");
  there_.config.installed = {"pretrain_other"};
  EXPECT_EQ(reason(explicit_request("512")),
            "Workload 'pretrain_deepseek-v3-torchtitan' is not installed on this cluster.\n     "
            "Installed workloads: pretrain_other");
}

TEST_F(Tasks, OptionsThatContradictEachOtherAreRefused) {
  const auto first_line = [&](TaskRequest r) {
    const std::string text = refused(r);
    return text.substr(0, text.find('\n'));
  };
  TaskRequest r = explicit_request("512");
  r.file = "a.yaml";
  EXPECT_EQ(first_line(r), "Cannot mix --file with workload specifications");
  r = {};
  r.file = "a.yaml";
  r.profile = true;
  EXPECT_EQ(first_line(r), "Cannot mix --file with workload specifications");
  r = explicit_request("512");
  r.max_scale = 1024;
  EXPECT_EQ(first_line(r), "Cannot use --scale with --max-scale or --min-scale");
  EXPECT_EQ(first_line(explicit_request("")), "Must specify scale parameter");
  EXPECT_EQ(first_line(explicit_request("many")),
            "Invalid scale format 'many'. Scale must be a number.");
  for (const char* scale : {"2000000", "99999999999999999999"})
    EXPECT_EQ(first_line(explicit_request(scale)),
              std::string("--scale ") + scale +
                  ": a scale is a number of GPUs, 1 to 1048576; no layout has more.");
  EXPECT_EQ(first_line(explicit_request("0")),
            "--scale 0: a scale is a number of GPUs, 1 to 1048576; no layout has fewer.");
  r = explicit_request("");
  r.max_scale = 2000000;
  EXPECT_EQ(first_line(r),
            "--max-scale 2000000: a scale is a number of GPUs, 1 to 1048576; no layout has more.");
  r = explicit_request("512");
  r.workload.clear();
  EXPECT_EQ(first_line(r), "--model-size requires --workload");
  r.workload = "a,b";
  EXPECT_EQ(first_line(r), "Global '--model-size' / '-s' cannot be used with multiple workloads.");
  r.workload = std::string(kKey) + "_16b";
  EXPECT_EQ(first_line(r), "Workload name implies size '16b' but --model-size is '671b'.");
  r = explicit_request("512,1024");
  r.force = true;
  EXPECT_EQ(first_line(r), "--force is only supported for a single explicit task.");
  r = explicit_request("512");
  r.repeats = 0;
  EXPECT_EQ(first_line(r), "--repeats 0: it must be 1 to 1000.");
}

TEST_F(Tasks, VariablesHaveShellsNamesAndPlainValues) {
  EXPECT_THAT(parse_environment({"A=b=c", "_X1=a/b:c,d"}),
              ElementsAre(Pair("A", "b=c"), Pair("_X1", "a/b:c,d")));
  const auto refused_word = [](const std::string& word) {
    return refusal([&] { parse_environment({word}); });
  };
  EXPECT_EQ(refused_word("A"), "`--env` must be in `KEY=value` form, not `A`.");
  EXPECT_EQ(refused_word("=a"), "`--env` must include a non-empty variable name.");
  EXPECT_EQ(refused_word("1A=a"),
            "`--env` variable name '1A' is invalid. Use shell-style environment variable names "
            "only.");
  for (const char* word : {"A=a b", "A=$(rm)", "A=a;b", "A='x'", "A=a\nb"})
    EXPECT_EQ(refused_word(word),
              "Env value for 'A' contains shell-special characters, which are not supported. Use "
              "only characters matching [A-Za-z0-9_@%+=:,./-].");
  EXPECT_EQ(refusal([] {
              parse_environment({"A=1", "A=2"});
            }),
            "Duplicate environment variable 'A' was specified more than once.");
}

TEST_F(Tasks, AYamlFileSweepsItsLists) {
  TaskRequest r;
  r.file = there_.folder.write("jobs.yaml", R"(
pretrain_deepseek-v3-torchtitan_671b:
  defaults:
    env: {NCCL_DEBUG: INFO}
  dtypes: bf16
  scales: [512, 1024]
  tasks:
    - repeats: 2
    - scales: 512
      add_profile: true
      overrides:
        env: {NCCL_DEBUG: WARN}
        params: {local_batch_size: [8, 16], seq_len: 4096}
)");
  r.environment = {{"B", "c"}};
  const std::vector<Task> all = tasks(r).tasks;
  ASSERT_EQ(all.size(), 8u);
  EXPECT_EQ(all[0].scale, 1024);
  EXPECT_THAT(all[0].environment, ElementsAre(Pair("B", "c"), Pair("NCCL_DEBUG", "INFO")));
  EXPECT_THAT(all[4].environment, ElementsAre(Pair("B", "c"), Pair("NCCL_DEBUG", "WARN")));
  EXPECT_THAT(all[4].parameters,
              ElementsAre(Pair("local_batch_size", "8"), Pair("seq_len", "4096")));
  EXPECT_FALSE(all[4].profile);
  EXPECT_TRUE(all[5].profile);
  EXPECT_THAT(all[7].parameters,
              ElementsAre(Pair("local_batch_size", "16"), Pair("seq_len", "4096")));
}

TEST_F(Tasks, ATextFileHasTuples) {
  const std::string path = there_.folder.write("jobs.txt",
                                               "# a comment\n"
                                               "pretrain_deepseek-v3-torchtitan_671b:\n"
                                               "(('bf16', 'fp8'), [512, 1024], 2)\n"
                                               "('bf16', [512], 1, True)\n");
  const std::vector<Task> all = read_tasks(path);
  ASSERT_EQ(all.size(), 9u);
  EXPECT_EQ(all[2].scale, 1024);
  EXPECT_EQ(all[4].dtype, "fp8");
  EXPECT_TRUE(all[8].profile);
}

TEST_F(Tasks, FilesAreRefusedWithTheirLine) {
  const auto refused_file = [&](const std::string& name, const std::string& text) {
    const std::string path = there_.folder.write(name, text);
    const std::string what = refusal([&] { read_tasks(path); });
    EXPECT_TRUE(what.starts_with(path + ":")) << what;
    return what.substr(path.size() + 1, what.find('\n') - path.size() - 1);
  };
  EXPECT_EQ(refused_file("a.yaml", "pretrain_x:\n  tasks: []\n"),
            "1: Invalid YAML header: 'pretrain_x'");
  EXPECT_EQ(refused_file("a.yaml", "pretrain_x_7b:\n  tasks:\n    - scales: 8\n"),
            "3: Missing required field 'dtypes' in task.");
  EXPECT_EQ(refused_file("a.yaml", "x_7b:\n  tasks:\n    - {dtypes: bf16, scales: [a]}\n"),
            "3: scales must be whole numbers, 1 to 1048576.");
  EXPECT_EQ(refused_file("a.yaml",
                         "x_7b:\n  tasks:\n    - {dtypes: bf16, scales: 8, profile: true, "
                         "add_profile: true}\n"),
            "3: Cannot specify both 'profile' and 'add_profile' in the same task");
  EXPECT_EQ(refused_file("a.yaml",
                         "x_7b:\n  defaults: {env: {A: 'a b'}}\n  tasks:\n    - {dtypes: bf16, "
                         "scales: 8}\n"),
            "4: Env value for 'A' contains shell-special characters, which are not supported. Use "
            "only characters matching [A-Za-z0-9_@%+=:,./-].");
  EXPECT_EQ(refused_file("a.txt", "('bf16', [8], 1)\n"),
            "1: a task before any workload: write \"workload_modelsize:\" above it.");
  EXPECT_EQ(refused_file("a.txt", "x_7b:\n('bf16', [8])\n"),
            "2: Invalid task format: ('bf16', [8])");
  for (const char* line : {"('bf16', [8], 1000000000)", "('bf16', [2000000], 1)"})
    EXPECT_EQ(
        refused_file("a.txt", std::string("x_7b:\n") + line + "\n"),
        std::string("2: scales must be whole numbers, 1 to 1048576, and repeats 1 to 1000: ") +
            line);
  EXPECT_EQ(refused_file("a.yaml", "x_7b:\n  tasks:\n    - {dtypes: bf16, scales: 2000000}\n"),
            "3: scales must be whole numbers, 1 to 1048576.");
  EXPECT_EQ(refusal([] { read_tasks("/nowhere.txt"); }),
            "/nowhere.txt: the file of tasks cannot be read.");
}

}  // namespace
}  // namespace nereus::recipe
