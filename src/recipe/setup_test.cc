#include "recipe/setup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "recipe/cluster_survey.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class Setup : public testing::Test {
 protected:
  Setup()
      : root_(fs::path(testing::TempDir()) /
              (std::string("setup_") +
               testing::UnitTest::GetInstance()->current_test_info()->name() +
               std::to_string(getpid()))) {
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  ~Setup() override {
    std::error_code error;
    fs::remove_all(root_, error);
  }
  std::string file(const std::string& name, const std::string& text) const {
    const fs::path path = root_ / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
    return path.string();
  }
  static std::string read(const fs::path& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  template <class Body>
  static std::string refusal(const Body& body) {
    try {
      body();
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::kConfig);
      return e.what();
    }
    return "no error";
  }
  // A program, its assets and a repository, made up.
  SetupSources sources() const {
    SetupSources s;
    s.program = file("build/nereus", "a program");
    fs::permissions(s.program, fs::perms::owner_all);
    file("build/nereus-libraries/libisal.so.2", "a library");
    s.assets = fs::path(file("assets/sample/en", "text")).parent_path().parent_path().string();
    file("recipes/deepseek_v3/launch.sh", "launch");
    file("recipes/deepseek_v3/download_dataset.sh", "data");
    file("configs/a.toml", "toml");
    s.repository = root_.string();
    return s;
  }
  SetupAnswers answers() const {
    return {.install_path = (root_ / "llmb").string(),
            .account = "research",
            .gpu_partition = "batch",
            .cpu_partition = "cpu",
            .gpu_type = "h100",
            .node_architecture = "x86_64",
            .gpus_per_node = 8,
            .environment = {{"HF_HOME", "/hf"}}};
  }
  void run(const SetupAnswers& a, const SetupOptions& o = {.download = false}) {
    said_.clear();
    const auto say = [this](const std::string& line) { said_ += line + "\n"; };
    run_setup(a.install_path, setup_steps(a, sources_, o, say), o.resume, say);
  }

  fs::path root_;
  SetupSources sources_;
  std::string said_;
};

constexpr const char* kPlay =
    "install_path: /lustre/llmb\n"
    "venv_type: uv\n"
    "install_method: slurm\n"
    "gpu_type: h100\n"
    "node_architecture: x86_64\n"
    "slurm:\n"
    "  account: research\n"
    "  gpu_partition: batch\n"
    "  cpu_partition: cpu\n"
    "  gpu_partition_gres: 8\n"
    "  cpu_partition_gres: null\n"
    "selected_workloads:\n"
    "  - pretrain_deepseek-v3-torchtitan\n"
    "environment_vars:\n"
    "  HF_TOKEN: hf_secret\n"
    "  HF_HOME: /hf\n";

TEST_F(Setup, ReadsAPlayFileOfLlmbInstall) {
  const SetupAnswers a = read_play_file(file("play.yaml", kPlay));
  EXPECT_EQ(a.install_path, "/lustre/llmb");
  EXPECT_EQ(a.account, "research");
  EXPECT_EQ(a.gpu_partition, "batch");
  EXPECT_EQ(a.cpu_partition, "cpu");
  EXPECT_EQ(a.gpus_per_node, 8);
  EXPECT_EQ(a.cpu_gres, std::nullopt);
  EXPECT_EQ(a.dataset_shards, "all");
  EXPECT_EQ(a.token, "hf_secret");
  EXPECT_EQ(a.environment, (Variables{{"HF_HOME", "/hf"}}));
}

TEST_F(Setup, WhatItRecordsItPlays) {
  SetupAnswers a = read_play_file(file("play.yaml", kPlay));
  a.dataset_shards = "8";
  const std::string path = (root_ / "recorded.yaml").string();
  write_play_file(a, path);
  EXPECT_THAT(read(path), Not(HasSubstr("hf_secret")));
  EXPECT_EQ(fs::status(path).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  const SetupAnswers b = read_play_file(path);
  EXPECT_EQ(b.install_path, a.install_path);
  EXPECT_EQ(b.account, a.account);
  EXPECT_EQ(b.cpu_partition, a.cpu_partition);
  EXPECT_EQ(b.gpus_per_node, a.gpus_per_node);
  EXPECT_EQ(b.dataset_shards, "8");
  EXPECT_EQ(b.environment, a.environment);
  write_system_config(a, (root_ / "home/.config/system.yaml").string());
  EXPECT_EQ(read_system_config((root_ / "home/.config/system.yaml").string()).install_path, "");
}

TEST_F(Setup, WhatItRecordsIsNobodyElsesFromTheFirstByteOn) {
  const SetupAnswers a = read_play_file(file("play.yaml", kPlay));
  const std::string path = (root_ / "recorded.yaml").string();
  std::atomic<bool> stop = false, open_to_others = false;
  std::thread other([&] {
    struct stat s {};
    while (!stop)
      if (::stat(path.c_str(), &s) == 0 && (s.st_mode & 077) != 0) open_to_others = true;
  });
  for (int i = 0; i < 300; ++i) write_play_file(a, path);
  stop = true;
  other.join();
  EXPECT_FALSE(open_to_others);
  // One that is there with other rights gives way.
  fs::permissions(path, fs::perms::all);
  write_play_file(a, path);
  EXPECT_EQ(fs::status(path).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(Setup, RefusesAPlayFileThatItCannotFollow) {
  const auto play = [&](const std::string& text) {
    return refusal([&] { read_play_file(file("p", text)); });
  };
  const std::string p = (root_ / "p").string();
  EXPECT_EQ(play(std::string(kPlay) + "gpu_typ: h100\n"),
            p + ":17: there is no key gpu_typ; did you mean gpu_type?");
  EXPECT_EQ(play("slurm:\n  acount: a\n"),
            p + ":2: there is no key slurm.acount; did you mean account?");
  EXPECT_EQ(
      play("gpu_type: h100\n"),
      p + ": missing install_path, slurm.account, slurm.gpu_partition. `nereus setup --record "
          "FILE` asks for everything and writes one.");
  const std::string head = "install_path: /a\nslurm: {account: a, gpu_partition: b";
  EXPECT_EQ(play(head + "}\ngpu_type: a100\n"),
            p + ":3: gpu_type = a100: it must be one of h100, h200, b200, gb200.");
  EXPECT_EQ(
      read_play_file(file("p", head + ", gpu_partition_gres: 'gpu:h100:4'}\ngpu_type: h100\n"))
          .gpus_per_node,
      4);
  EXPECT_EQ(
      play(head + ", gpu_partition_gres: many}\ngpu_type: h100\n"),
      p + ":2: slurm.gpu_partition_gres = many: it must be a number of GPUs a node, 4 or 8 as "
          "a rule.");
  EXPECT_EQ(play(head + "}\ngpu_type: h100\ndataset_shards: 2000\n"),
            p + ":4: dataset_shards = 2000: it must be all, none, or a number from 1 to 1024.");
  EXPECT_EQ(play(head + "}\ngpu_type: h100\nselected_workloads: [pretrain_grok1]\n"),
            p + ":4: pretrain_grok1 is not a workload of this program, which has "
                "pretrain_deepseek-v3-torchtitan alone.");
  EXPECT_THAT(refusal([&] { read_play_file((root_ / "none").string()); }),
              HasSubstr("none: the play file cannot be read"));
  EXPECT_EQ(
      refusal([&] { read_system_config("/no/such/system_config.yaml"); }),
      "/no/such/system_config.yaml: is not there, and express takes the answers of an earlier "
      "setup from it. Run `nereus setup` once, or `nereus setup --play FILE`.");
}

// Programs of the names of Slurm's, which say what a cluster's would.
TEST_F(Setup, AsksSlurmAndSaysWhatItCannot) {
  const auto program = [&](const std::string& name, const std::string& body) {
    const std::string path = file("bin/" + name, "#!/bin/sh\n" + body);
    fs::permissions(path, fs::perms::owner_all);
  };
  Variables v = {{"PATH", (root_ / "bin").string()}, {"USER", "me"}};
  const ClusterSurvey none = survey_cluster(v);
  EXPECT_THAT(
      none.notes,
      ElementsAre("sbatch: not found in PATH. Jobs are submitted where it is; setup does not "
                  "need it.",
                  "sinfo: sinfo: not found in PATH. Partitions could not be listed.",
                  "sacctmgr: sacctmgr: not found in PATH. Accounts could not be listed.",
                  "scontrol: scontrol: not found in PATH. The cluster's name could not be "
                  "read."));
  program("sbatch", "");
  program("sinfo", "echo 'batch*|gpu:h100:8|64'");
  program("sacctmgr", "[ \"$5\" = user=me ] && echo research && echo other && echo research");
  program("scontrol", "echo 'ClusterName             = eos'");
  const ClusterSurvey all = survey_cluster(v);
  EXPECT_THAT(all.notes, ElementsAre());
  EXPECT_THAT(all.accounts, ElementsAre("other", "research"));
  EXPECT_EQ(all.cluster_name, "eos");
  EXPECT_EQ(all.partitions.at(0).gpus, 8);
  program("sinfo",
          "echo 'more' >&2; echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; "
          "exit 1");
  EXPECT_THAT(survey_cluster(v).notes,
              ElementsAre("sinfo: slurm_load_partitions: Unable to contact slurm controller. "
                          "Partitions could not be listed."));
}

TEST_F(Setup, MakesTheTree) {
  sources_ = sources();
  const SetupAnswers a = answers();
  run(a, {.download = false, .cluster_name = "eos"});
  const fs::path l = a.install_path;
  EXPECT_EQ(read(l / "bin/nereus"), "a program");
  EXPECT_EQ(fs::status(l / "bin/nereus").permissions() & fs::perms::owner_exec,
            fs::perms::owner_exec);
  EXPECT_EQ(fs::read_symlink(l / "bin/llmb-run"), "nereus");
  EXPECT_EQ(read(l / "share/nereus/assets/sample/en"), "text");
  EXPECT_EQ(read(l / "llmb_repo/recipes/deepseek_v3/launch.sh"), "launch");
  EXPECT_EQ(read(l / "bin/nereus-libraries/libisal.so.2"), "a library");
  // Where the recipe's page has them.
  EXPECT_EQ(read(l / "llmb_repo/deepseek_v3/pretrain/torchtitan/launch.sh"), "launch");
  EXPECT_EQ(read(l / "workloads/pretrain_deepseek-v3-torchtitan/download_dataset.sh"), "data");
  EXPECT_EQ(read(l / "llmb_repo/configs/a.toml"), "toml");
  EXPECT_TRUE(fs::is_directory(l / "datasets/c4"));
  EXPECT_TRUE(
      fs::is_directory(l / "workloads/pretrain_deepseek-v3-torchtitan/torchtitan/assets/hf"));
  const ClusterConfig c = read_cluster_config((l / "cluster_config.yaml").string());
  EXPECT_EQ(c.llmb_repo, (l / "llmb_repo").string());
  EXPECT_EQ(c.llmb_install, l.string());
  EXPECT_EQ(c.gpu_type, "h100");
  EXPECT_EQ(c.cluster_name, "eos");
  EXPECT_EQ(c.environment, (Variables{{"HF_HOME", "/hf"}}));
  EXPECT_THAT(c.installed, ElementsAre("pretrain_deepseek-v3-torchtitan"));
  EXPECT_EQ(c.gpu_variables(), (Variables{{"SBATCH_ACCOUNT", "research"},
                                          {"SBATCH_PARTITION", "batch"},
                                          {"SBATCH_GPUS_PER_NODE", "8"}}));
  EXPECT_EQ(c.cpu_variables(),
            (Variables{{"SBATCH_ACCOUNT", "research"}, {"SBATCH_PARTITION", "cpu"}}));
  EXPECT_EQ(find_repository((l / "bin/nereus").string()), (l / "llmb_repo").string());
}

TEST_F(Setup, LinksForDevelopment) {
  sources_ = sources();
  run(answers(), {.link = true, .download = false});
  const fs::path l = answers().install_path;
  EXPECT_EQ(fs::read_symlink(l / "bin/nereus"), sources_.program);
  EXPECT_FALSE(fs::exists(l / "llmb_repo"));
  EXPECT_EQ(read_cluster_config((l / "cluster_config.yaml").string()).llmb_repo,
            sources_.repository);
  // And back: the link gives way to a copy.
  run(answers());
  EXPECT_FALSE(fs::is_symlink(l / "bin/nereus"));
  EXPECT_EQ(read(l / "share/nereus/assets/sample/en"), "text");
  EXPECT_EQ(read(sources_.assets + "/sample/en"), "text");
}

TEST_F(Setup, ASecondRunMendsWhatIsDamagedOrOutOfDate) {
  sources_ = sources();
  run(answers());
  const fs::path l = answers().install_path;
  std::ofstream(l / "llmb_repo/configs/a.toml") << "changed";
  file("llmb/llmb_repo/configs/stale.toml", "stale");
  fs::remove(l / "bin/nereus");
  fs::remove(l / "bin/llmb-run");
  fs::remove_all(l / "images");
  file("configs/b.toml", "new");
  run(answers());
  EXPECT_THAT(said_, Not(HasSubstr("done before")));
  EXPECT_EQ(read(l / "llmb_repo/configs/a.toml"), "toml");
  EXPECT_EQ(read(l / "llmb_repo/configs/b.toml"), "new");
  EXPECT_FALSE(fs::exists(l / "llmb_repo/configs/stale.toml"));
  EXPECT_EQ(read(l / "bin/nereus"), "a program");
  EXPECT_EQ(fs::read_symlink(l / "bin/llmb-run"), "nereus");
  EXPECT_TRUE(fs::is_directory(l / "images"));
}

// An installation of the recipe itself, which Nereus is set up in.
TEST_F(Setup, TheRecipesOwnFilesStay) {
  sources_ = sources();
  const std::string script =
      file("llmb/llmb_repo/deepseek_v3/pretrain/torchtitan/launch.sh", "its");
  const std::string data =
      file("llmb/workloads/pretrain_deepseek-v3-torchtitan/download_dataset.sh", "its");
  run(answers());
  EXPECT_EQ(read(script), "its");
  EXPECT_EQ(read(data), "its");
  EXPECT_THAT(said_, HasSubstr("  " + data + " is there and stays as it is\n"));
}

TEST_F(Setup, AnInstallationKeepsWhatItIsNotAskedAbout) {
  sources_ = sources();
  const std::string path = file("llmb/cluster_config.yaml",
                                "schema_version: 2\n"
                                "llmb_repo: /nvidia\n"
                                "llmb_install: /old\n"
                                "gpu_type: b200\n"
                                "cluster_name: eos\n"
                                "site: {contact: me}\n"
                                "environment: {HF_TOKEN: hf_secret, NCCL_DEBUG: WARN}\n"
                                "slurm:\n"
                                "  account: research\n"
                                "  qos: high\n"
                                "  gpu: {partition: batch, gres: 'h100:8', constraint: ib}\n"
                                "workloads:\n"
                                "  installed: [pretrain_grok1]\n"
                                "  config:\n"
                                "    pretrain_grok1: {venv_path: /v, environment: {A: b}}\n"
                                "    pretrain_deepseek-v3-torchtitan: {environment: {C: d}}\n");
  const SetupAnswers before = answers_of(read_cluster_config(path));
  EXPECT_EQ(before.account, "research");
  EXPECT_EQ(before.gpu_partition, "batch");
  EXPECT_EQ(before.cpu_partition, "batch");
  EXPECT_EQ(before.gpus_per_node, 8);
  EXPECT_EQ(before.token, "hf_secret");
  EXPECT_EQ(before.environment, (Variables{{"NCCL_DEBUG", "WARN"}}));
  run(answers());
  EXPECT_THAT(said_, HasSubstr("  llmb_repo was /nvidia and is " +
                               (root_ / "llmb/llmb_repo").string() + " now\n"));
  EXPECT_THAT(read(path), Not(HasSubstr("hf_secret")));
  EXPECT_THAT(read(path), HasSubstr("site:\n  contact: me\n"));
  const ClusterConfig c = read_cluster_config(path);
  EXPECT_EQ(c.llmb_install, (root_ / "llmb").string());
  EXPECT_EQ(c.gpu_type, "h100");
  EXPECT_EQ(c.cluster_name, "eos");
  EXPECT_EQ(c.environment, (Variables{{"HF_HOME", "/hf"}, {"NCCL_DEBUG", "WARN"}}));
  EXPECT_EQ(c.slurm, (ClusterConfig::SlurmKeys{{"account", "research"}, {"qos", "high"}}));
  EXPECT_EQ(c.gpu, (ClusterConfig::SlurmKeys{
                       {"partition", "batch"}, {"gres", "h100:8"}, {"constraint", "ib"}}));
  EXPECT_EQ(c.cpu, (ClusterConfig::SlurmKeys{
                       {"partition", "cpu"}, {"gres", std::nullopt}, {"constraint", "ib"}}));
  EXPECT_THAT(c.installed, ElementsAre("pretrain_grok1", "pretrain_deepseek-v3-torchtitan"));
  EXPECT_EQ(c.workloads.at("pretrain_grok1").venv_path, "/v");
  EXPECT_EQ(c.workloads.at("pretrain_grok1").environment, (Variables{{"A", "b"}}));
  EXPECT_EQ(c.workloads.at(kWorkload).environment, (Variables{{"C", "d"}}));
  // The same again changes nothing.
  const std::string first = read(path);
  run(answers());
  EXPECT_EQ(read(path), first);
}

TEST_F(Setup, AnotherAnswerTakesTheOldOnesPlace) {
  ClusterConfig c;
  c.slurm = {{"account", "a"}, {"gres", "8"}};
  c.gpu = {{"partition", "batch"}, {"account", "b"}};
  c.cpu = ClusterConfig::SlurmKeys{{"partition", "cpu"}, {"gres", std::nullopt}};
  SetupAnswers a = answers();
  a.gpu_partition = "big";
  a.gpus_per_node = 4;
  put_answers(c, a, "/repo", "");
  EXPECT_EQ(c.gpu_variables(), (Variables{{"SBATCH_ACCOUNT", "research"},
                                          {"SBATCH_PARTITION", "big"},
                                          {"SBATCH_GPUS_PER_NODE", "4"}}));
  EXPECT_EQ(c.cpu_variables(),
            (Variables{{"SBATCH_ACCOUNT", "research"}, {"SBATCH_PARTITION", "cpu"}}));
  a.gpus_per_node = std::nullopt;
  a.account = "";
  put_answers(c, a, "/repo", "");
  EXPECT_EQ(c.gpu_variables(), (Variables{{"SBATCH_PARTITION", "big"}}));
}

TEST_F(Setup, AfterAFailureItGoesOnWhereItWas) {
  sources_ = sources();
  const SetupAnswers a = answers();
  bool broken = true;
  int cheap = 0, first = 0;
  const std::string folder = a.install_path + "/files";
  const std::vector<SetupStep> steps = {
      {"cheap", "makes folders",
       [&] {
         ++cheap;
         fs::create_directories(a.install_path + "/.llmb");
       }},
      {"first", "downloads", [&] { ++first, file("llmb/files/a", "a"); }, "1", folder},
      {"second", "may fail",
       [&] {
         if (broken) throw Error(Fault::kComm, "the network is away");
       },
       "2", folder}};
  const auto say = [](const std::string&) {};
  try {
    run_setup(a.install_path, steps, true, say);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kComm);
    EXPECT_STREQ(
        e.what(),
        "the network is away\n  Setup stopped at its step \"second\". What is downloaded is "
        "kept: run the same command again to go on.");
  }
  broken = false;
  run_setup(a.install_path, steps, true, say);
  EXPECT_EQ(first, 1);
  EXPECT_EQ(cheap, 2);
  // A state that cannot be read is none; nor does it count where the files are gone.
  std::ofstream(a.install_path + "/.llmb/setup.json") << "{";
  run_setup(a.install_path, steps, true, say);
  EXPECT_EQ(first, 2);
  fs::remove_all(folder);
  run_setup(a.install_path, steps, true, say);
  EXPECT_EQ(first, 3);
  run_setup(a.install_path, steps, /*resume=*/false, say);
  EXPECT_EQ(first, 4);
}

TEST_F(Setup, KnowsTheShardsOfAnEarlierOne) {
  const std::string l = answers().install_path;
  EXPECT_EQ(earlier_shards(l), "none");
  file("llmb/.llmb/setup.json", "{}");
  for (const char* shards : {"8", "all"}) {
    run_setup(l, {{"dataset", "downloads", [] {}, shards, l}}, true, [](const std::string&) {});
    EXPECT_EQ(earlier_shards(l), shards);
  }
  file("llmb/.llmb/setup.json", R"({"done": {"dataset": "/a b"}})");
  EXPECT_EQ(earlier_shards(l), "none");
}

TEST_F(Setup, SaysWhatItWouldDo) {
  sources_ = sources();
  SetupAnswers a = answers();
  a.dataset_shards = "8";
  std::vector<std::string> lines;
  for (const SetupStep& s : setup_steps(a, sources_, {}, {}))
    lines.push_back(s.name + ": " + s.what);
  const std::string l = a.install_path;
  EXPECT_THAT(
      lines,
      ElementsAre("folders: makes bin, datasets, images and workloads below " + l,
                  "recipe files: copies recipes and configs of " + root_.string() + " to " + l +
                      "/llmb_repo",
                  "program: copies " + sources_.program + " to " + l +
                      "/bin/nereus, and calls it llmb-run too",
                  "tokenizer: downloads deepseek-ai/DeepSeek-V3.1-Base's tokenizer to " + l +
                      "/workloads/pretrain_deepseek-v3-torchtitan/torchtitan/assets/hf/"
                      "DeepSeek-V3.1-Base",
                  "dataset: downloads 8 shards of C4's English texts to " + l + "/datasets/c4",
                  "cluster_config.yaml: writes " + l + "/cluster_config.yaml"));
  EXPECT_FALSE(fs::exists(l));
}

TEST_F(Setup, RefusesAPlaceThatItMayNotWriteTo) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write anywhere";
  fs::create_directories(root_ / "closed");
  fs::permissions(root_ / "closed", fs::perms::owner_read | fs::perms::owner_exec);
  const std::string closed = (root_ / "closed").string();
  EXPECT_EQ(
      refusal([&] { check_install_path(closed + "/llmb"); }),
      "LLMB_INSTALL = " + closed + "/llmb: " + closed +
          " cannot be written to: Permission denied. Choose a folder that you may write to, on "
          "a file system that all nodes see.");
}

TEST_F(Setup, RefusesAPlaceThatItCannotUse) {
  const std::string taken = file("taken", "x");
  EXPECT_EQ(refusal([&] { check_install_path(taken + "/llmb"); }),
            "LLMB_INSTALL = " + taken + "/llmb: " + taken + " is no folder. Choose another place.");
  SetupAnswers nowhere = answers();
  nowhere.install_path = "/proc/llmb";
  sources_ = sources();
  EXPECT_EQ(refusal([&] { run(nowhere); }),
            "/proc/llmb/bin: No such file or directory.\n  Setup stopped at its step \"folders\". "
            "What is downloaded is kept: run the same command again to go on.");
  file("llmb/cluster_config.yaml", "schema_version: 2");
  EXPECT_EQ(refusal([&] { refuse_existing((root_ / "llmb").string()); }),
            "Existing LLMB installation found at " + (root_ / "llmb").string() +
                "\n  Please choose a different installation path, or remove the existing "
                "installation. `nereus setup` without express and --play renews one.");
}

}  // namespace
}  // namespace nereus::recipe
