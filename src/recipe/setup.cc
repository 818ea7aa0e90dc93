#include "recipe/setup.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/text.h"
#include "recipe/artifacts.h"
#include "recipe/install_files.h"
#include "recipe/yaml.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kRecipe = "recipes/deepseek_v3";
constexpr const char* kLibraries = "nereus-libraries";  // beside a package's program
constexpr const char* kDatasetStep = "dataset";

std::string state_path(const std::string& install) { return install + "/.llmb/setup.json"; }

// Downloads that are done, with their keys. A file that cannot be read is no state.
std::map<std::string, std::string> read_state(const std::string& install) {
  std::ifstream in(state_path(install));
  const json state = json::parse(in, nullptr, /*allow_exceptions=*/false);
  std::map<std::string, std::string> done;
  if (!state.is_object() || !state.contains("done") || !state["done"].is_object()) return done;
  for (const auto& [name, key] : state["done"].items())
    if (key.is_string()) done[name] = key.get<std::string>();
  return done;
}

void write_state(const std::string& install, const std::map<std::string, std::string>& done) {
  json state;
  state["done"] = done;
  write_file(state_path(install), state.dump(2) + "\n");
}

void make_folders(const std::string& install) {
  const std::string workload = fmt::format("workloads/{}", kWorkload);
  for (const std::string& below :
       {std::string("bin"), std::string("share/nereus"), std::string("images"),
        std::string("datasets/c4"), std::string(".llmb"), workload + "/torchtitan/assets/hf",
        workload + "/experiments"}) {
    std::error_code error;
    const std::string path = install + "/" + below;
    fs::create_directories(path, error);
    NEREUS_CHECK(kConfig, !error, "{}: {}.", path, error.message());
  }
}

// Where the recipe's own page has its files. What is there already and is no link stays: it may be
// the recipe itself.
void link_recipes_paths(const std::string& install, const Say& say) {
  const auto link = [&say](const std::string& target, const std::string& path) {
    std::error_code error;
    const fs::file_status there = fs::symlink_status(path, error);
    if (fs::exists(there) && !fs::is_symlink(there))
      return say(fmt::format("  {} is there and stays as it is", path));
    fs::create_directories(fs::path(path).parent_path(), error);
    make_link(target, path);
  };
  link(std::string("../../") + kRecipe, install + "/llmb_repo/deepseek_v3/pretrain/torchtitan");
  link(std::string("../../llmb_repo/") + kRecipe + "/download_dataset.sh",
       fmt::format("{}/workloads/{}/download_dataset.sh", install, kWorkload));
}

void download(hub::DownloadRequest request, const SetupOptions& o, const Say& say) {
  request.workers = o.workers;
  const hub::HubSettings settings = hub::HubSettings::from_environment();
  const hub::DownloadPlan plan = hub::plan_download(settings, request);
  say(fmt::format("  {}: {} files, {}; still to download: {}", request.repository.name,
                  plan.files.size(), size_text(plan.bytes), size_text(plan.missing_bytes)));
  hub::run_download(settings, request, plan, o.progress ? o.progress() : hub::DownloadReport());
}

}  // namespace

std::string find_repository(const std::string& program) {
  std::error_code error;
  const fs::path folder = fs::path(program).parent_path();
  for (const char* place : {"..", "../share/nereus", "../llmb_repo"}) {
    const fs::path candidate = (folder / place).lexically_normal();
    if (fs::exists(candidate / kRecipe / "launch.sh", error)) return candidate.string();
  }
  return "";
}

void check_install_path(const std::string& path) {
  std::error_code error;
  fs::path at = path;
  while (!fs::exists(at, error) && at.has_relative_path()) at = at.parent_path();
  NEREUS_CHECK(kConfig, fs::is_directory(at, error),
               "LLMB_INSTALL = {}: {} is no folder. Choose another place.", path, at.string());
  NEREUS_CHECK(kConfig, ::access(at.c_str(), W_OK | X_OK) == 0,
               "LLMB_INSTALL = {}: {} cannot be written to: {}. Choose a folder that you may write "
               "to, on a file system that all nodes see.",
               path, at.string(), std::strerror(errno));
}

void refuse_existing(const std::string& install) {
  std::error_code error;
  NEREUS_CHECK(kConfig, !fs::exists(install + "/cluster_config.yaml", error),
               "Existing LLMB installation found at {}\n  Please choose a different installation "
               "path, or remove the existing installation. `nereus setup` without express and "
               "--play renews one.",
               install);
}

std::string earlier_shards(const std::string& install) {
  const auto done = read_state(install);
  const auto it = done.find(kDatasetStep);
  const std::string shards = it == done.end() ? "none" : it->second;
  return wrong_shards(shards).empty() ? shards : "none";
}

std::vector<SetupStep> setup_steps(const SetupAnswers& a, const SetupSources& s,
                                   const SetupOptions& o, const Say& say) {
  const std::string install = a.install_path, bin = install + "/bin";
  const std::string repository = o.link ? s.repository : install + "/llmb_repo";
  const char* const verb = o.link ? "links" : "copies";
  std::vector<SetupStep> steps;
  steps.push_back({"folders",
                   fmt::format("makes bin, datasets, images and workloads below {}", install),
                   [=] { make_folders(install); }});
  steps.push_back(
      {"recipe files",
       o.link ? fmt::format("uses {} where it is", s.repository)
              : fmt::format("copies recipes and configs of {} to {}", s.repository, repository),
       [=] {
         if (o.link) return;
         std::error_code error;
         for (const char* part : {"recipes", "configs"})
           if (fs::exists(s.repository + "/" + part, error))
             copy_folder(s.repository + "/" + part, repository + "/" + part);
         link_recipes_paths(install, say);
       }});
  steps.push_back(
      {"program",
       fmt::format("{} {} to {}/nereus, and calls it llmb-run too", verb, s.program, bin), [=] {
         if (o.link)
           make_link(s.program, bin + "/nereus");
         else
           copy_file(s.program, bin + "/nereus");
         const std::string libraries = fs::path(s.program).parent_path() / kLibraries;
         if (std::error_code error; !o.link && fs::is_directory(libraries, error))
           copy_folder(libraries, bin + "/" + kLibraries);
         make_link("nereus", bin + "/llmb-run");
         const std::string assets = install + "/share/nereus/assets";
         if (s.assets.empty()) return;
         if (o.link)
           make_link(s.assets, assets);
         else
           copy_folder(s.assets, assets);
       }});
  const Variables where = {{"LLMB_INSTALL", install}};
  if (o.download) {
    const std::string folder = model_folder(where, kModelRepository);
    steps.push_back({"tokenizer",
                     fmt::format("downloads {}'s tokenizer to {}", kModelRepository, folder),
                     [=] { download(tokenizer_request(kModelRepository, folder), o, say); },
                     kModelRepository, folder});
  }
  if (o.download && a.dataset_shards != "none") {
    const std::string folder = dataset_folder(where);
    const std::optional<int> shards = a.dataset_shards == "all"
                                          ? std::nullopt
                                          : std::optional(std::atoi(a.dataset_shards.c_str()));
    steps.push_back(
        {kDatasetStep,
         fmt::format("downloads {} of C4's English texts to {}",
                     shards ? fmt::format("{} shards", *shards) : "all 1024 shards", folder),
         [=] { download(dataset_request(shards, folder), o, say); }, a.dataset_shards, folder});
  }
  const std::string file = install + "/cluster_config.yaml";
  steps.push_back({"cluster_config.yaml", "writes " + file, [=] {
                     ClusterConfig config;
                     std::error_code error;
                     if (fs::exists(file, error)) config = read_cluster_config(file);
                     const std::string before = config.llmb_repo;
                     put_answers(config, a, repository, o.cluster_name);
                     write_cluster_config(config, file);
                     if (!before.empty() && before != repository)
                       say(fmt::format("  llmb_repo was {} and is {} now", before, repository));
                   }});
  return steps;
}

void run_setup(const std::string& install, const std::vector<SetupStep>& steps, bool resume,
               const Say& say) {
  auto done = resume ? read_state(install) : std::map<std::string, std::string>{};
  for (const SetupStep& step : steps) {
    std::error_code error;
    if (!step.key.empty() && done.count(step.name) && done[step.name] == step.key &&
        !fs::is_empty(step.folder, error) && !error) {
      say(fmt::format("done before: {}", step.name));
      continue;
    }
    say(fmt::format("{}: {}", step.name, step.what));
    try {
      step.run();
    } catch (const Error& e) {
      throw Error(
          e.fault(),
          fmt::format("{}\n  Setup stopped at its step \"{}\". What is downloaded is kept: run the "
                      "same command again to go on.",
                      e.what(), step.name));
    }
    if (step.key.empty()) continue;
    done[step.name] = step.key;
    write_state(install, done);
  }
}

}  // namespace nereus::recipe
