#include "recipe/setup_questions.h"

#include <algorithm>
#include <functional>
#include <istream>
#include <ostream>
#include <sstream>

#include "base/check.h"
#include "base/suggest.h"
#include "base/text.h"

namespace nereus::recipe {
namespace {

using Check = std::function<std::string(const std::string&)>;

class Questions {
 public:
  Questions(const Given& given, Dialogue dialogue) : given_(given), d_(dialogue) {}

  // `option` names the answer on the command line.
  std::string ask(const char* option, const std::string& question, const std::string& otherwise,
                  const Check& wrong, bool optional = false) {
    if (const auto it = given_.find(option); it != given_.end()) {
      const std::string why = wrong(it->second);
      NEREUS_CHECK(kConfig, why.empty(), "--{} {}: {}", option, it->second, why);
      return it->second;
    }
    if (d_.take_defaults && (otherwise.empty() ? optional : wrong(otherwise).empty()))
      return otherwise;
    for (;;) {
      d_.out << question << (otherwise.empty() ? "" : " [" + otherwise + "]") << ": " << std::flush;
      std::string line;
      NEREUS_CHECK(kConfig, std::getline(d_.in, line),
                   "setup: the input ended at \"{}\". Give the answer with --{}, or all of them "
                   "with --play FILE.",
                   question, option);
      std::string answer = trimmed(line, " \t\r");
      if (answer.empty()) answer = otherwise;
      const std::string why = answer.empty() && !optional ? "an answer is needed."
                                                          : (answer.empty() ? "" : wrong(answer));
      if (why.empty()) return answer;
      d_.out << "  " << (answer.empty() ? "" : answer + ": ") << why << "\n";
    }
  }
  void say(const std::string& line) { d_.out << line << "\n"; }

 private:
  const Given& given_;
  Dialogue d_;
};

// A word of a list; any where the list is not known.
Check one_of(const std::vector<std::string>& known, const char* what) {
  return [known, what](const std::string& value) -> std::string {
    if (known.empty() || std::find(known.begin(), known.end(), value) != known.end()) return "";
    const std::string near = nearest(value, known);
    return fmt::format("there is no such {}{} Known are: {}.", what,
                       near.empty() ? "." : "; did you mean " + near + "?", fmt::join(known, ", "));
  };
}

// Partitions, separated by commas as sbatch takes them.
Check partitions_of(const std::vector<std::string>& known) {
  return [one = one_of(known, "partition")](const std::string& value) -> std::string {
    std::istringstream in(value);
    for (std::string name; std::getline(in, name, ',');)
      if (const std::string why = one(name); !why.empty()) return why;
    return "";
  };
}

const Partition* first_of(const ClusterSurvey& survey, const std::string& list) {
  return survey.partition(list.substr(0, list.find(',')));
}

std::string ask_folder(Questions& q, const std::string& otherwise) {
  return q.ask("install", "Folder of the installation, on a file system that all nodes see",
               otherwise, [](const std::string&) { return std::string(); });
}

}  // namespace

std::string ask_install(const Given& given, const std::string& otherwise, Dialogue dialogue) {
  Questions q(given, dialogue);
  return ask_folder(q, otherwise);
}

SetupAnswers ask_answers(const ClusterSurvey& survey, const Given& given,
                         const SetupAnswers* before, Dialogue dialogue) {
  Questions q(given, dialogue);
  SetupAnswers a = before ? *before : SetupAnswers{};
  for (const std::string& note : survey.notes) q.say("note: " + note);
  a.install_path = ask_folder(q, a.install_path);

  if (!survey.accounts.empty())
    q.say(fmt::format("Your accounts: {}", fmt::join(survey.accounts, ", ")));
  const std::string account =
      a.account.empty() && survey.accounts.size() == 1 ? survey.accounts[0] : a.account;
  a.account = q.ask("account", "Slurm account", account, one_of(survey.accounts, "account"),
                    /*optional=*/survey.accounts.empty());

  std::vector<std::string> names;
  std::string with_gpus, without_gpus, preferred;
  for (const Partition& p : survey.partitions) {
    names.push_back(p.name);
    if (p.gpus && (with_gpus.empty() || p.is_default)) with_gpus = p.name;
    if (!p.gpus && (without_gpus.empty() || p.is_default)) without_gpus = p.name;
    if (p.is_default) preferred = p.name;
    q.say(fmt::format("  partition {}{}: {} nodes{}", p.name, p.is_default ? " (default)" : "",
                      p.nodes,
                      p.gpus ? fmt::format(", {} GPUs {}", *p.gpus, p.gpu_type) : ", no GPU"));
  }
  if (preferred.empty() && names.size() == 1) preferred = names[0];
  if (a.gpu_partition.empty()) a.gpu_partition = with_gpus.empty() ? preferred : with_gpus;
  a.gpu_partition =
      q.ask("gpu-partition", "Partition for runs on GPUs", a.gpu_partition, partitions_of(names));
  if (a.cpu_partition.empty())
    a.cpu_partition = without_gpus.empty() ? a.gpu_partition : without_gpus;
  a.cpu_partition = q.ask("cpu-partition", "Partition for work without GPUs", a.cpu_partition,
                          partitions_of(names));

  // What an earlier setup chose for a partition has precedence over what Slurm reports.
  const bool known_gpu = before && before->gpu_partition == a.gpu_partition;
  const bool known_cpu = before && before->cpu_partition == a.cpu_partition;
  const Partition* gpu = first_of(survey, a.gpu_partition);
  if (!known_gpu && gpu != nullptr && gpu->gpus) a.gpus_per_node = gpu->gpus;
  const std::string gpus = q.ask(
      "gpus-per-node", "GPUs a node (empty where Slurm does not count them)",
      a.gpus_per_node ? fmt::format("{}", *a.gpus_per_node) : "", wrong_gpus, /*optional=*/true);
  a.gpus_per_node = gpus.empty() ? std::nullopt : std::optional(std::atoi(gpus.c_str()));
  const Partition* cpu = first_of(survey, a.cpu_partition);
  if (!known_cpu) a.cpu_gres = cpu != nullptr ? cpu->gpus : std::nullopt;

  if (!known_gpu && gpu != nullptr && !recipe_gpu_type(gpu->gpu_type).empty())
    a.gpu_type = recipe_gpu_type(gpu->gpu_type);
  a.gpu_type = q.ask("gpu-type", fmt::format("GPU type ({})", fmt::join(kGpuTypes, ", ")),
                     a.gpu_type, wrong_gpu_type);
  if (a.node_architecture.empty() || (before && before->gpu_type != a.gpu_type))
    a.node_architecture = a.gpu_type == "gb200" ? "aarch64" : architecture();
  a.dataset_shards = q.ask("shards", "Shards of C4, 0.3 GB each (a number up to 1024, all or none)",
                           a.dataset_shards, wrong_shards);
  return a;
}

}  // namespace nereus::recipe
