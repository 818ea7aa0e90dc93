#include "recipe/setup.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "recipe/artifacts.h"
#include "recipe/yaml.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kRecipe = "recipes/deepseek_v3";

std::string state_path(const std::string& install) { return install + "/.llmb/setup.json"; }

// Steps that are done, with their keys. A file that cannot be read is no state.
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

[[noreturn]] void cannot(const std::string& what, const std::error_code& error) {
  NEREUS_FAIL(kConfig, "{}: {}.", what, error.message());
}

// Size and time: what tells one build of a program from another.
std::string stamp(const std::string& file) {
  std::error_code error;
  const auto size = fs::file_size(file, error);
  const auto time = fs::last_write_time(file, error).time_since_epoch().count();
  return fmt::format("{} {} {}", file, size, time);
}

void make_folders(const std::string& install) {
  for (const char* below : {"bin", "share/nereus", "images", "datasets/c4", ".llmb"}) {
    std::error_code error;
    fs::create_directories(install + "/" + below, error);
    if (error) cannot(install + "/" + below, error);
  }
  for (const char* below : {"torchtitan/assets/hf", "experiments"}) {
    std::error_code error;
    const std::string path = fmt::format("{}/workloads/{}/{}", install, kWorkload, below);
    fs::create_directories(path, error);
    if (error) cannot(path, error);
  }
}

// `to` becomes a link to `target`, whatever it was.
void make_link(const std::string& target, const std::string& to) {
  std::error_code error;
  const std::string beside = fmt::format("{}.{}.new", to, ::getpid());
  fs::remove(beside, error);
  fs::create_symlink(target, beside, error);
  if (error) cannot(beside, error);
  // A folder does not give way to a link.
  if (fs::is_directory(fs::symlink_status(to, error))) fs::remove_all(to, error);
  fs::rename(beside, to, error);
  if (error) cannot(to, error);
}

void copy_file(const std::string& from, const std::string& to) {
  std::error_code error;
  if (fs::equivalent(from, to, error) && !fs::is_symlink(to, error)) return;
  const std::string beside = fmt::format("{}.{}.new", to, ::getpid());
  fs::copy_file(from, beside, fs::copy_options::overwrite_existing, error);
  if (error) cannot(fmt::format("{} cannot be copied to {}", from, beside), error);
  fs::rename(beside, to, error);
  if (error) cannot(to, error);
}

void copy_folder(const std::string& from, const std::string& to) {
  std::error_code error;
  if (fs::equivalent(from, to, error)) return;
  if (fs::is_symlink(to, error)) fs::remove(to, error);
  fs::create_directories(to, error);
  fs::copy(from, to, fs::copy_options::recursive | fs::copy_options::overwrite_existing, error);
  if (error) cannot(fmt::format("{} cannot be copied to {}", from, to), error);
}

void download(hub::DownloadRequest request, int workers, const Say& say) {
  request.workers = workers;
  const hub::HubSettings settings = hub::HubSettings::from_environment();
  const hub::DownloadPlan plan = hub::plan_download(settings, request);
  say(fmt::format("  {}: {} files, {}; to come: {}", request.repository.name, plan.files.size(),
                  hub::size_text(plan.bytes), hub::size_text(plan.missing_bytes)));
  hub::run_download(settings, request, plan, [&](const hub::DownloadProgress& p) {
    if (!p.finished.empty())
      say(fmt::format("  {} of {}: {}", hub::size_text(p.bytes), hub::size_text(p.of_bytes),
                      p.finished));
  });
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

std::vector<SetupStep> setup_steps(const SetupAnswers& a, const SetupSources& s,
                                   const SetupOptions& o, const Say& say) {
  const std::string install = a.install_path, bin = install + "/bin";
  const std::string repository = o.link ? s.repository : install + "/llmb_repo";
  const char* const verb = o.link ? "links" : "copies";
  std::vector<SetupStep> steps;
  steps.push_back({"folders",
                   fmt::format("makes bin, datasets, images and workloads below {}", install),
                   install, [=] { make_folders(install); }});
  steps.push_back(
      {"recipe files",
       o.link ? fmt::format("uses {} where it is", s.repository)
              : fmt::format("copies recipes and configs of {} to {}", s.repository, repository),
       fmt::format("{} {}", repository, stamp(s.repository + "/" + kRecipe + "/launch.sh")), [=] {
         if (o.link) return;
         for (const char* part : {"recipes", "configs"})
           if (fs::exists(s.repository + "/" + part))
             copy_folder(s.repository + "/" + part, repository + "/" + part);
       }});
  steps.push_back(
      {"program",
       fmt::format("{} {} to {}/nereus, and calls it llmb-run too", verb, s.program, bin),
       fmt::format("{} {}", verb, stamp(s.program)), [=] {
         if (o.link)
           make_link(s.program, bin + "/nereus");
         else
           copy_file(s.program, bin + "/nereus");
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
    steps.push_back(
        {"tokenizer", fmt::format("downloads {}'s tokenizer to {}", kModelRepository, folder),
         folder, [=] { download(tokenizer_request(kModelRepository, folder), o.workers, say); }});
  }
  if (o.download && a.dataset_shards != "none") {
    const std::string folder = dataset_folder(where);
    const std::optional<int> shards = a.dataset_shards == "all"
                                          ? std::nullopt
                                          : std::optional(std::atoi(a.dataset_shards.c_str()));
    steps.push_back(
        {"dataset",
         fmt::format("downloads {} of C4's English texts to {}",
                     shards ? fmt::format("{} shards", *shards) : "all 1024 shards", folder),
         folder + " " + a.dataset_shards,
         [=] { download(dataset_request(shards, folder), o.workers, say); }});
  }
  const ClusterConfig config = cluster_config(a, repository, o.cluster_name);
  const std::string file = install + "/cluster_config.yaml";
  steps.push_back(
      {"cluster_config.yaml", "writes " + file, "", [=] { write_cluster_config(config, file); }});
  return steps;
}

void run_setup(const std::string& install, const std::vector<SetupStep>& steps, bool resume,
               const Say& say) {
  auto done = resume ? read_state(install) : std::map<std::string, std::string>{};
  for (const SetupStep& step : steps) {
    // A step without a key costs nothing.
    if (!step.key.empty() && done.count(step.name) && done[step.name] == step.key) {
      say(fmt::format("done before: {}", step.name));
      continue;
    }
    say(fmt::format("{}: {}", step.name, step.what));
    try {
      step.run();
    } catch (const Error& e) {
      throw Error(
          e.fault(),
          fmt::format("{}\n  Setup stopped at its step \"{}\". What is done stays done: run "
                      "the same command again to go on.",
                      e.what(), step.name));
    }
    done[step.name] = step.key;
    write_state(install, done);
  }
}

}  // namespace nereus::recipe
