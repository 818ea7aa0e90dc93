#include "cli/list.h"

#include <cstdio>

#include "cli/command.h"
#include "cli/installation.h"
#include "recipe/tasks.h"

namespace nereus {

int run_list(int argc, char** argv) {
  CLI::App app("List the installed workloads with sizes, data types and scales", "nereus list");
  std::string workload;
  app.add_option("-w,--workload", workload, "these alone, with commas");
  if (const auto done = parse_command(app, argc, argv)) return *done;
  const recipe::ClusterConfig config = read_installation();
  std::fputs(recipe::describe_workloads(recipe::read_workloads(config.llmb_repo), config.installed,
                                        config.gpu_type, recipe::split_commas(workload))
                 .c_str(),
             stdout);
  return 0;
}

}  // namespace nereus
