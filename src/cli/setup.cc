#include "cli/setup.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "base/assets.h"
#include "base/check.h"
#include "base/files.h"
#include "base/log_output.h"
#include "cli/command.h"
#include "cli/download_progress.h"
#include "cli/installation.h"
#include "recipe/artifacts.h"
#include "recipe/command_output.h"
#include "recipe/setup.h"
#include "recipe/setup_questions.h"

namespace nereus {
namespace {

using recipe::SetupAnswers;

constexpr const char* kClusterConfig = "/cluster_config.yaml";

void say(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

std::string absolute(const std::string& path) {
  std::string out = absolute_path(path);
  while (out.size() > 1 && out.back() == '/') out.pop_back();
  return out;
}

// The answers of an installation that is there: `nereus setup` renews it.
std::optional<SetupAnswers> answers_of(const std::string& install) {
  if (install.empty() || !is_there(install + kClusterConfig)) return std::nullopt;
  SetupAnswers a = recipe::answers_of(recipe::read_cluster_config(install + kClusterConfig));
  a.install_path = install;
  a.dataset_shards = recipe::earlier_shards(install);
  return a;
}

// A token in a file works once more, for the downloads.
void use_token(const std::string& token, const std::string& file) {
  if (token.empty()) return;
  setenv("HF_TOKEN", token.c_str(), /*overwrite=*/0);
  say(
      fmt::format("note: {} holds HF_TOKEN. The downloads of this setup may use it; it is written "
                  "to no file. Export it in the shell that downloads or submits.",
                  file));
}

void say_end(const SetupAnswers& a, bool downloaded) {
  say(fmt::format("\nThe installation in {} is complete. In your shell:", a.install_path));
  say(fmt::format("  export LLMB_INSTALL={0} PATH={0}/bin:$PATH", a.install_path));
  if (!downloaded)
    say("  nereus download tokenizer\n  nereus download dataset");
  else if (a.dataset_shards == "none")
    say("  nereus download dataset");
  say(fmt::format("  llmb-run submit -w {} -s 671b --dtype bf16 --scale {}", recipe::kWorkload,
                  a.gpu_type == "h100" || a.gpu_type == "h200" ? 512 : 256));
  if (a.node_architecture != recipe::architecture())
    say(
        fmt::format("note: this program is for {}, and the nodes are {}: build it there and put it "
                    "to {}/bin/nereus.",
                    recipe::architecture(), a.node_architecture, a.install_path));
}

}  // namespace

int run_setup_command(int argc, char** argv) {
  const log::PlainLines plain;
  CLI::App app(
      "Install the recipe below a folder, $LLMB_INSTALL: program, recipe files, tokenizer, data "
      "set\n"
      "and cluster_config.yaml. Asks for what is not given; defaults come from Slurm. Called "
      "again\n"
      "after an interruption, it resumes. In an existing installation, what is not asked for "
      "stays\n"
      "as it is.\n\n"
      "HF_TOKEN is taken from the environment for the downloads, and stored nowhere.",
      "nereus setup");
  recipe::Given given;
  std::string play, record, repository;
  recipe::SetupOptions options;
  bool dry_run = false, no_download = false, yes = false;
  const auto value = [&](const char* name, const char* help) {
    app.add_option_function<std::string>(
        std::string("--") + name, [&given, name](const std::string& text) { given[name] = text; },
        help);
  };
  value("install", "the folder (default LLMB_INSTALL)");
  value("account", "Slurm account");
  value("gpu-partition", "partition for runs on GPUs");
  value("cpu-partition", "partition for work without GPUs");
  value("gpus-per-node", "GPUs a node");
  value("gpu-type", "h100, h200, b200 or gb200");
  value("shards", "how many of C4's 1,024 shards: a number, all or none");
  app.add_option("--play", play, "take all answers from this file, without asking");
  app.add_option("--record", record, "ask, write the answers to this file, and install nothing");
  app.add_option("--repo", repository, "folder with recipes/deepseek_v3; default the program's");
  app.add_flag("-y,--yes", yes, "take the defaults without asking");
  app.add_flag("-d,--dev", options.link,
               "link to program and recipe files instead of copying them");
  app.add_flag("--no-download", no_download, "do not download tokenizer and data set");
  app.add_flag("--dry-run", dry_run, "print what would be done, and write nothing");
  app.fallthrough();  // options may stand behind `express` too
  CLI::App* express = app.add_subcommand(
      "express", "take the answers of the last setup (~/.config/llmb/system_config.yaml)");
  std::string express_path;
  express->add_option("PATH", express_path, "the folder");
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;

  const recipe::Variables environment = recipe::process_environment();
  NEREUS_CHECK(
      kConfig, play.empty() || record.empty(),
      "nereus setup: --play installs from a file and --record writes one: give one of them");
  NEREUS_CHECK(kConfig, play.empty() || (given.empty() && !express->parsed()),
               "nereus setup: --play takes all answers from its file: leave {} out",
               express->parsed() ? "express" : "--" + given.begin()->first);
  const auto from_environment = environment.find("LLMB_INSTALL");
  if (!express_path.empty()) given["install"] = express_path;

  SetupAnswers answers;
  bool fresh = false;  // an installation that is whole is refused
  std::string cluster_name;
  if (!play.empty()) {
    answers = recipe::read_play_file(play);
    fresh = true;
    use_token(answers.token, play);
  } else {
    const recipe::Dialogue dialogue = {std::cin, std::cout, yes || express->parsed()};
    std::optional<SetupAnswers> before;
    if (express->parsed()) {
      const std::string path = recipe::system_config_path(environment);
      before = recipe::read_system_config(path);
      use_token(before->token, path);
      fresh = true;
    } else {
      const std::string place = recipe::ask_install(
          given, from_environment == environment.end() ? "" : from_environment->second, dialogue);
      given["install"] = place;
      before = answers_of(place);
      if (before) use_token(before->token, place + kClusterConfig);
    }
    const recipe::ClusterSurvey survey = recipe::survey_cluster(environment);
    cluster_name = survey.cluster_name;
    answers = recipe::ask_answers(survey, given, before ? &*before : nullptr, dialogue);
  }
  if (!record.empty()) {
    answers.install_path = absolute(answers.install_path);
    recipe::write_play_file(answers, record);
    say(fmt::format("{}: written. `nereus setup --play {}` installs from it.", record, record));
    return 0;
  }
  answers.install_path = absolute(answers.install_path);
  recipe::check_install_path(answers.install_path);
  if (fresh) recipe::refuse_existing(answers.install_path);

  const std::string program = program_path();
  if (repository.empty()) repository = recipe::find_repository(program);
  NEREUS_CHECK(kConfig, is_there(repository + "/recipes/deepseek_v3/launch.sh"),
               "the recipe's files are not next to {}: name the folder that has "
               "recipes/deepseek_v3 with --repo",
               repository.empty() ? program : repository);
  options.download = !no_download;
  options.resume = !environment.count("LLMB_DISABLE_RESUME");
  options.workers = recipe::download_workers(recipe::artifact_variables());
  options.cluster_name = cluster_name;
  options.progress = download_progress;
  const auto steps = recipe::setup_steps(
      answers, {.program = program, .repository = absolute(repository), .assets = asset_path("")},
      options, say);
  if (dry_run) {
    for (const recipe::SetupStep& step : steps) say(fmt::format("{}: {}", step.name, step.what));
    say("nothing was written (--dry-run)");
    return 0;
  }
  recipe::run_setup(answers.install_path, steps, options.resume, say);
  recipe::write_system_config(answers, recipe::system_config_path(environment));
  say_end(answers, options.download);
  return 0;
}

}  // namespace nereus
