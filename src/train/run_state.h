// What a checkpoint says of its run, besides tensors: manifest.json's `run`.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/job_config.h"
#include "config/model_args.h"

namespace nereus {

struct RunState {
  // Where the run is: steps done, and how many of them the optimizer's states and the learning
  // rate's schedule have seen (checkpoint.exclude_from_loading lets these begin anew).
  int64_t step = 0, optimizer_step = 0, schedule_step = 0;
  int64_t tokens = 0;                           // seen by all ranks
  int64_t reruns = 0;                           // steps that ran again for the experts' capacity
  double expert_capacity = 0;                   // rows over slots (Engine); 0: always enough
  std::optional<double> first_validation = {};  // the loss before training
  std::vector<std::string> data = {};           // position of each data-parallel rank
  std::vector<std::pair<int64_t, int64_t>> skipped = {};  // training.skip_steps, as far as done

  // What wrote it.
  bool weights_only = false;
  std::string program, layout, time;
  int64_t ranks = 1, global_batch = 1;
  double lr = 0;                                   // of the last step
  std::map<std::string, std::string> config = {};  // key: value as TOML
  std::map<std::string, std::string> model = {};   // what changes the model's arithmetic
  uint64_t fingerprint = 0;                        // of `model` and the tensors

  // The starts of the run, the first one first: an id, the step that it went on from, and when it
  // was in local time (20251130-0316; "" where an older program did not say).
  struct Start {
    std::string id;
    int64_t step = 0;
    std::string time = {};
    bool operator==(const Start&) const = default;
  };
  std::vector<Start> lineage = {};
};

std::string to_json(const RunState&);
// Throws Error{kIo}: `path` has no such state.
RunState parse_run_state(const std::string& json, const std::string& path);

// All that a model's arithmetic depends on, as words; the mask is left out.
std::map<std::string, std::string> model_facts(const ModelArgs&);
// A hash of model_facts() and of the parameters' names and shapes.
uint64_t model_fingerprint(const ModelArgs&);

// Every key of a configuration and its value as TOML.
std::map<std::string, std::string> config_values(const JobConfig&);

}  // namespace nereus
