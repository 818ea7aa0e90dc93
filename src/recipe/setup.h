// The steps of `nereus setup`: the tree below $LLMB_INSTALL, and what belongs into it.
//
//   bin/{nereus,llmb-run}          the program, and llmb-run's name for it
//   share/nereus/assets            what comes with the program
//   llmb_repo/{recipes,configs}    the recipe's files; links at the places of the recipe's page:
//                                  llmb_repo/deepseek_v3/pretrain/torchtitan, and in the
//                                  workload's folder download_dataset.sh
//   images, datasets/c4            containers (none is needed), the data set
//   workloads/pretrain_.../        tokenizer (torchtitan/assets/hf/...), runs (experiments/)
//   cluster_config.yaml            written last: where it is, the installation is whole
//   .llmb/setup.json               which downloads are done, and of what
//
// Every setup makes folders, copies, links and the configuration again, which repairs what is
// damaged or out of date. A download that is done is not repeated, unless another one is wanted or
// its folder is empty.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hub/download.h"
#include "recipe/setup_answers.h"

namespace nereus::recipe {

struct SetupSources {
  std::string program;     // this program's file
  std::string repository;  // has recipes/deepseek_v3
  std::string assets;      // folder of the program's assets; "" for none
};

struct SetupOptions {
  bool link = false;     // the program and the recipe's files are linked to, not copied
  bool download = true;  // tokenizer and data set
  bool resume = true;    // downloads that are done are left out
  int workers = 4;
  std::string cluster_name = {};
  std::function<hub::DownloadReport()> progress = {};  // one for each download; null: not shown
};

// Where this program's recipe files are: next to its build folder, or in share/nereus of where it
// is installed; "" when nowhere.
std::string find_repository(const std::string& program);

struct SetupStep {
  std::string name;  // "folders"
  std::string what;  // for people: "copies A to B"
  std::function<void()> run;
  // Of a download: what it fetches, and where to. Without a key a step is done each time.
  std::string key = {}, folder = {};
};
using Say = std::function<void(const std::string& line)>;

std::vector<SetupStep> setup_steps(const SetupAnswers&, const SetupSources&, const SetupOptions&,
                                   const Say&);

// What an earlier setup of this folder fetched of the data set: a SetupAnswers::dataset_shards.
std::string earlier_shards(const std::string& install);

// Throws Error{kConfig} when the folder cannot be made or written to.
void check_install_path(const std::string& path);
// The recipe's refusal of a folder in which an installation is whole.
void refuse_existing(const std::string& install);

// An error of a step comes out with how to go on.
void run_setup(const std::string& install, const std::vector<SetupStep>&, bool resume, const Say&);

}  // namespace nereus::recipe
