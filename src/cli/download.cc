#include "cli/download.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <optional>

#include "base/check.h"
#include "base/text.h"
#include "cli/command.h"
#include "hub/download.h"
#include "recipe/artifacts.h"

namespace nereus {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kLineSeconds = 5;  // between lines while no file ends

// A line when a file is whole, and now and then between.
class Reporter {
 public:
  void operator()(const hub::DownloadProgress& p) {
    const auto now = Clock::now();
    if (p.finished.empty() && seconds(last_, now) < kLineSeconds) return;
    last_ = now;
    const double rate = static_cast<double>(p.bytes) / std::max(1e-3, seconds(begin_, now));
    fmt::print("{:>9} of {}, {}/s, {} of {} files{}\n", size_text(p.bytes), size_text(p.of_bytes),
               size_text(static_cast<int64_t>(rate)), p.files, p.of_files,
               p.finished.empty() ? "" : ": " + p.finished);
    std::fflush(stdout);
  }

 private:
  static double seconds(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
  }
  Clock::time_point begin_ = Clock::now(), last_ = begin_;
};

int download(const hub::DownloadRequest& request, bool dry_run) {
  const hub::HubSettings settings = hub::HubSettings::from_environment();
  fmt::print("{} at {} from {} to {}{}\n", request.repository.name, request.repository.revision,
             settings.endpoint, request.folder,
             settings.token.empty() ? "" : ", with the token of HF_TOKEN");
  std::fflush(stdout);
  const hub::DownloadPlan plan = hub::plan_download(settings, request);
  fmt::print("{} files, {}; to come: {} files, {}\n", plan.files.size(), size_text(plan.bytes),
             plan.missing.size(), size_text(plan.missing_bytes));
  if (dry_run) {
    for (const hub::RepoFile& file : plan.missing)
      fmt::print("  {:>9}  {}\n", size_text(file.size), file.path);
    return 0;
  }
  Reporter reporter;
  hub::run_download(settings, request, plan, [&](const hub::DownloadProgress& p) { reporter(p); });
  fmt::print("{} is complete: {} files, {}, commit {}\n", request.folder, plan.files.size(),
             size_text(plan.bytes), plan.commit);
  return 0;
}

}  // namespace

int run_download_command(int argc, char** argv) {
  CLI::App app(
      "Download tokenizer, data set or weights from the Hugging Face hub.\n\n"
      "A file gets its name when it is whole and its checksum is right; an interrupted download\n"
      "goes on where it ended. HF_TOKEN (for gated repositories) and HF_ENDPOINT (another hub) "
      "are\n"
      "taken from the environment, proxies from https_proxy.",
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
    command->add_flag("--verify", verify, "read what is there again and compare its checksum");
    command->add_flag("--dry-run", dry_run, "say what is missing, and stop");
    return command;
  };
  const std::string assets = recipe::model_folder(variables, recipe::kModelRepository);
  const CLI::App* tokenizer = add("tokenizer", "tokenizer.json and what belongs to it",
                                  recipe::kModelRepository, assets.c_str());
  CLI::App* dataset = add("dataset", "C4's English texts (1,024 shards of 0.3 GB)",
                          recipe::kDatasetRepository, recipe::dataset_folder(variables).c_str());
  dataset->add_option("--shards", shards,
                      "the first N training shards, and one for validation; default all");
  add("model", "weights in Hugging Face's format, with the tokenizer", recipe::kModelRepository,
      assets.c_str());
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
