#include "cli/download.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <optional>

#include "base/check.h"
#include "base/log_output.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/download_progress.h"
#include "hub/download.h"
#include "recipe/artifacts.h"

namespace nereus {
namespace {

constexpr size_t kListed = 20;  // files that --dry-run names

int download(const hub::DownloadRequest& request, bool dry_run) {
  const hub::HubSettings settings = hub::HubSettings::from_environment();
  fmt::print("{} at {} from {} to {}{}\n", request.repository.name, request.repository.revision,
             settings.endpoint, request.folder,
             settings.token.empty() ? "" : ", with the token of HF_TOKEN");
  std::fflush(stdout);
  const hub::DownloadPlan plan = hub::plan_download(settings, request);
  fmt::print("{}; still to download: {}\n", files_text(plan.files.size(), plan.bytes),
             files_text(plan.missing.size(), plan.missing_bytes));
  std::fflush(stdout);
  if (dry_run) {
    for (size_t i = 0; i < std::min(kListed, plan.missing.size()); ++i)
      fmt::print("  {:>9}  {}\n", size_text(plan.missing[i].size), plan.missing[i].path);
    if (plan.missing.size() > kListed) fmt::print("  and {} more\n", plan.missing.size() - kListed);
    return 0;
  }
  hub::run_download(settings, request, plan, download_progress());
  fmt::print("{} is complete: {}, commit {}\n", request.folder,
             files_text(plan.files.size(), plan.bytes), plan.commit);
  return 0;
}

}  // namespace

int run_download_command(int argc, char** argv) {
  const log::PlainLines plain;
  CLI::App app(
      "Download tokenizer, data set or weights from the Hugging Face hub.\n\n"
      "A file gets its name when it is complete and its checksum is right; an interrupted "
      "download\n"
      "is resumed. HF_TOKEN (for gated repositories), HF_ENDPOINT (another hub) and https_proxy "
      "are\n"
      "taken from the environment.",
      "nereus download");
  app.require_subcommand(1);
  const recipe::Variables variables = recipe::artifact_variables();
  std::string repository, folder, revision = "main", shards;
  std::vector<std::string> include, exclude;
  bool dry_run = false, verify = false;
  int workers = recipe::download_workers(variables);
  const auto add = [&](const char* name, const char* help, const char* repo, const char* place) {
    CLI::App* command = app.add_subcommand(name, help);
    command->add_option("--repo", repository, fmt::format("repository; default {}", repo));
    command->add_option("--revision", revision, "branch, tag or commit")->capture_default_str();
    command->add_option("--dir", folder, fmt::format("folder; default {}", place));
    command->add_option("--include", include, "only paths that match this pattern; repeatable");
    command->add_option("--exclude", exclude, "no paths that match this pattern; repeatable");
    command->add_option("--workers", workers, "files at once")
        ->capture_default_str()
        ->check(CLI::Range(1, 64));
    command->add_flag("--verify", verify, "read what is there again and compare checksums");
    command->add_flag("--dry-run", dry_run, "print what is missing, and stop");
    return command;
  };
  const std::string assets = recipe::model_folder(variables, recipe::kModelRepository);
  const CLI::App* tokenizer = add("tokenizer", "download tokenizer.json and what belongs to it",
                                  recipe::kModelRepository, assets.c_str());
  CLI::App* dataset = add("dataset", "download C4's English texts (1,024 shards of 0.3 GB)",
                          recipe::kDatasetRepository, recipe::dataset_folder(variables).c_str());
  dataset->add_option("--shards", shards,
                      "the first N training shards, and one for validation; default all");
  add("model", "download weights in Hugging Face's format, with the tokenizer",
      recipe::kModelRepository, assets.c_str());
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;

  const CLI::App* chosen = app.get_subcommands().front();
  const bool is_dataset = chosen == dataset;
  NEREUS_CHECK(kConfig, shards.empty() || (repository.empty() && include.empty()),
               "nereus download dataset: --shards are C4's; --repo and --include name files by "
               "themselves. Leave one out.");
  if (repository.empty())
    repository = is_dataset ? recipe::kDatasetRepository : recipe::kModelRepository;
  const size_t slash = repository.find('/');
  NEREUS_CHECK(kConfig,
               slash != std::string::npos && slash > 0 && slash + 1 < repository.size() &&
                   repository.find_first_of(" :?#%") == std::string::npos &&
                   repository.find('/', slash + 1) == std::string::npos,
               "--repo {}: it must be OWNER/NAME, like {}", repository, recipe::kModelRepository);
  if (folder.empty())
    folder = is_dataset ? recipe::dataset_folder(variables)
                        : recipe::model_folder(variables, repository);
  hub::DownloadRequest request;
  if (is_dataset) {
    std::optional<int> count;
    if (!shards.empty() && shards != "all") {
      char* end = nullptr;
      const long n = std::strtol(shards.c_str(), &end, 10);
      NEREUS_CHECK(kConfig, *end == '\0' && n >= 1 && n <= recipe::kDatasetShards,
                   "--shards {}: it must be a whole number from 1 to {}, or all", shards,
                   recipe::kDatasetShards);
      count = static_cast<int>(n);
    }
    request = recipe::dataset_request(count, folder);
    request.repository.name = repository;
    if (repository != recipe::kDatasetRepository && include.empty()) request.include = {"*"};
  } else {
    request = chosen == tokenizer ? recipe::tokenizer_request(repository, folder)
                                  : recipe::model_request(repository, folder);
  }
  request.repository.revision = revision;
  if (!include.empty()) request.include = include;
  request.exclude = exclude;
  request.verify = verify;
  request.workers = workers;
  return download(request, dry_run);
}

}  // namespace nereus
