#include "recipe/cluster_survey.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <sstream>

#include "base/check.h"
#include "base/text.h"
#include "recipe/command_output.h"
#include "recipe/node_gpus.h"

namespace nereus::recipe {
namespace {

std::string value(const Variables& v, const char* name) {
  const auto it = v.find(name);
  return it == v.end() ? "" : it->second;
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, at);) out.push_back(part);
  return out;
}

}  // namespace

const Partition* ClusterSurvey::partition(const std::string& name) const {
  const auto it = std::find_if(partitions.begin(), partitions.end(),
                               [&](const Partition& p) { return p.name == name; });
  return it == partitions.end() ? nullptr : &*it;
}

std::string recipe_gpu_type(const std::string& slurm_type) {
  const std::string type_name = lower(slurm_type);
  for (const char* type : {"gb200", "b200", "h200", "h100"})
    if (type_name.find(type) != std::string::npos) return type;
  return "";
}

std::vector<Partition> parse_partitions(const std::string& text) {
  std::vector<Partition> out;
  std::map<std::string, int> most;  // nodes of the kind that was taken
  for (const std::string& line : split(text, '\n')) {
    const std::vector<std::string> part = split(line, '|');
    if (part.size() != 3 || part[0].empty()) continue;
    std::string name = part[0];
    const bool is_default = name.back() == '*';
    if (is_default) name.pop_back();
    auto it = std::find_if(out.begin(), out.end(), [&](const auto& p) { return p.name == name; });
    if (it == out.end()) it = out.insert(out.end(), {.name = name, .is_default = is_default});
    const int nodes = std::atoi(part[2].c_str());
    it->nodes += nodes;
    const auto [type, gpus] = gpus_of(part[1]);
    if (gpus > 0 && nodes > most[name]) {
      most[name] = nodes;
      it->gpus = gpus;
      it->gpu_type = type;
    }
  }
  return out;
}

std::string parse_cluster_name(const std::string& text) {
  for (const std::string& line : split(text, '\n')) {
    const size_t equals = line.find('=');
    if (!line.starts_with("ClusterName") || equals == std::string::npos) continue;
    return trimmed(std::string_view(line).substr(equals + 1));
  }
  return "";
}

ClusterSurvey survey_cluster(const Variables& environment) {
  ClusterSurvey out;
  const auto ask = [&](const std::vector<std::string>& words, const char* lost) {
    const CommandOutput r = run_command(words, environment);
    const std::string why = r.err.substr(r.err.rfind('\n') + 1);  // its last line
    if (r.code != 0)
      out.notes.push_back(fmt::format(
          "{}: {}. {}", words[0], why.empty() ? fmt::format("exit code {}", r.code) : why, lost));
    return r.code == 0 ? r.out : "";
  };
  if (find_program("sbatch", environment).empty())
    out.notes.push_back(
        "sbatch: not found in PATH. Jobs are submitted where it is; setup does not need it.");
  out.partitions = parse_partitions(
      ask({"sinfo", "--noheader", "-o", "%P|%G|%D"}, "Partitions could not be listed."));
  const std::string user = value(environment, "USER").empty() ? value(environment, "LOGNAME")
                                                              : value(environment, "USER");
  if (!user.empty()) {
    std::set<std::string> accounts;
    for (const std::string& line : split(ask({"sacctmgr", "--noheader", "--parsable2", "show",
                                              "assoc", "user=" + user, "format=account"},
                                             "Accounts could not be listed."),
                                         '\n'))
      if (!line.empty()) accounts.insert(line);
    out.accounts.assign(accounts.begin(), accounts.end());
  }
  out.cluster_name = parse_cluster_name(
      ask({"scontrol", "show", "config"}, "The cluster's name could not be read."));
  return out;
}

}  // namespace nereus::recipe
