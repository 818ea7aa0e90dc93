// The questions of `nereus setup`, with what Slurm says as defaults.
#pragma once

#include <iosfwd>

#include "recipe/cluster_survey.h"
#include "recipe/setup_answers.h"

namespace nereus::recipe {

// What was given on the command line, by the option's name ("gpu-partition"); such a thing is not
// asked for. Options: install, account, gpu-partition, cpu-partition, gpus-per-node, gpu-type,
// shards.
using Given = std::map<std::string, std::string>;

// Where the questions go, and the answers come from.
struct Dialogue {
  std::istream& in;
  std::ostream& out;
  bool take_defaults = false;  // --yes: a question with a default is not asked
};

// The folder alone: an installation that is there has the other answers' defaults.
std::string ask_install(const Given&, const std::string& otherwise, Dialogue);

// Asks for what is not given; an empty answer takes the default, a wrong one is asked for again.
// `before`: the answers of an earlier setup, defaults before Slurm's. Throws Error{kConfig} for a
// wrong value that was given, and when the input ends.
SetupAnswers ask_answers(const ClusterSurvey&, const Given&, const SetupAnswers* before, Dialogue);

}  // namespace nereus::recipe
