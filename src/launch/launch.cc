#include "launch/launch.h"

#include <charconv>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "base/check.h"
#include "base/limits.h"
#include "base/philox.h"

namespace nereus {
namespace {

constexpr const char* kVariables[] = {
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_RUN_ID",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "PMIX_RANK",
    "PMIX_NAMESPACE",
    "PMI_RANK",
    "PMI_SIZE",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_TASKS_PER_NODE",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_JOB_NODELIST",
    "SLURM_STEP_NODELIST",
    "SLURM_SUBMIT_DIR",
};

class Variables {
 public:
  explicit Variables(const Environment& environment) : environment_(environment) {}

  bool has(const char* name) const { return find(name) != nullptr; }
  std::string text(const char* name) const {
    const std::string* value = find(name);
    return value == nullptr ? "" : *value;
  }
  std::optional<int> number(const char* name, int least) const {
    const std::string* value = find(name);
    if (value == nullptr) return std::nullopt;
    int n = 0;
    const char* end = value->data() + value->size();
    const auto [stop, error] = std::from_chars(value->data(), end, n);
    NEREUS_CHECK(kConfig, error == std::errc() && stop == end && n >= least,
                 "{}=\"{}\" in the environment: a whole number, {} or more, is needed; set it as a "
                 "launcher does, or unset it",
                 name, *value, least);
    return n;
  }
  // Both or none.
  bool pair(const char* rank, const char* size) const {
    NEREUS_CHECK(kConfig, has(rank) == has(size),
                 "{}={} is set in the environment, and {} is not.\n  Set both, as a launcher does, "
                 "or none: unset {}.",
                 has(rank) ? rank : size, text(has(rank) ? rank : size), has(rank) ? size : rank,
                 has(rank) ? rank : size);
    return has(rank);
  }

 private:
  const std::string* find(const char* name) const {  // empty counts as not set
    const auto it = environment_.find(name);
    return it == environment_.end() || it->second.empty() ? nullptr : &it->second;
  }
  const Environment& environment_;
};

// A job's or a step's number as one to compute with. It is an identity, of 32 bits or more, not a
// count: whatever it is, it is no reason to refuse a run.
uint64_t identity(const std::string& text) {
  uint64_t n = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, n);
  return text.empty() || (error == std::errc() && stop == end) ? n : hash_name(text);
}

// The steps that Slurm makes of itself: a batch script's, an interactive shell's (salloc with
// use_interactive_step), extern; older Slurms count them down from 4294967295.
bool is_special_step(const Variables& v) {
  const uint64_t step = identity(v.text("SLURM_STEP_ID"));
  return step >= 0xfffffff0 && step <= 0xffffffff;
}

// "gpu[03-04,7],x" -> "gpu03"; every bracket gives its first.
std::string first_host(std::string_view list) {
  std::string host;
  bool inside = false, taken = false;
  for (const char c : list) {
    if (c == ',' && !inside) break;
    if (c == '[') {
      inside = true;
      taken = false;
    } else if (c == ']') {
      inside = false;
    } else if (inside && (c == '-' || c == ',')) {
      taken = true;
    } else if (!inside || !taken) {
      host += c;
    }
  }
  return host;
}

// "2(x3),1" by node: 2, 2, 2, 1. 0 when it does not say.
int tasks_of_node(std::string_view list, int node) {
  int at = 0;
  while (!list.empty()) {
    const std::string_view item = list.substr(0, list.find(','));
    int tasks = 0, times = 1;
    std::from_chars(item.data(), item.data() + item.size(), tasks);
    if (const size_t x = item.find("(x"); x != std::string_view::npos)
      std::from_chars(item.data() + x + 2, item.data() + item.size(), times);
    at += times;
    if (node < at) return tasks;
    list.remove_prefix(std::min(item.size() + 1, list.size()));
  }
  return 0;
}

void check_ranks(const LaunchEnvironment& e, const char* rank, const char* size) {
  NEREUS_CHECK(kConfig, e.rank < e.world_size,
               "{}={} and {}={} in the environment: ranks count from 0, so the rank must be less "
               "than the number of ranks",
               rank, e.rank, size, e.world_size);
  NEREUS_CHECK(kConfig, e.world_size <= kMostRanks,
               "{}={} in the environment: at most {} ranks are possible", size, e.world_size,
               kMostRanks);
  NEREUS_CHECK(kConfig, e.local_world_size <= e.world_size,
               "{} ranks on this host, and {} in all ({}) in the environment: at most as many as "
               "in all are possible",
               e.local_world_size, e.world_size, size);
  NEREUS_CHECK(kConfig, e.local_world_size == 0 || e.local_rank < e.local_world_size,
               "rank {} of this host's ranks, of which there are {}, by the environment ({}={}): "
               "local ranks count from 0",
               e.local_rank, e.local_world_size, rank, e.rank);
}

void read_master(const Variables& v, LaunchEnvironment& e) {
  if (v.has("MASTER_ADDR")) e.master_address = v.text("MASTER_ADDR");
  if (const auto port = v.number("MASTER_PORT", 1)) {
    NEREUS_CHECK(kConfig, *port < 65536, "MASTER_PORT={} in the environment: ports are 1 to 65535",
                 *port);
    e.master_port = *port;
    if (v.text("TORCHELASTIC_USE_AGENT_STORE") == "True")
      e.master_port = *port < 65535 ? *port + 1 : *port - 1;
  }
}

LaunchEnvironment of_torchrun(const Variables& v) {
  LaunchEnvironment e;
  e.launcher = Launcher::torchrun;
  e.rank = v.number("RANK", 0).value_or(0);
  e.world_size = v.number("WORLD_SIZE", 1).value_or(1);
  e.local_rank = v.number("LOCAL_RANK", 0).value_or(-1);
  e.local_world_size = v.number("LOCAL_WORLD_SIZE", 1).value_or(0);
  check_ranks(e, "RANK", "WORLD_SIZE");
  e.run_id = v.text("TORCHELASTIC_RUN_ID");
  read_master(v, e);
  const bool complete = !e.master_address.empty() && e.master_port > 0;
  NEREUS_CHECK(kConfig, e.world_size == 1 || complete,
               "RANK={} and WORLD_SIZE={} are set in the environment, and {} is not.\n  Set "
               "MASTER_ADDR to rank 0's host and MASTER_PORT to a free port there, the same for "
               "all ranks.",
               e.rank, e.world_size, e.master_address.empty() ? "MASTER_ADDR" : "MASTER_PORT");
  // A rank that was exported in a shell reaches all that another launcher starts there.
  const char* outer[][2] = {{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                            {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"}};
  for (const auto& [rank, size] : outer) {
    const auto outer_rank = v.number(rank, 0), outer_size = v.number(size, 1);
    if (!outer_rank || !outer_size || *outer_size == 1 || e.world_size > *outer_size) continue;
    NEREUS_CHECK(kConfig, e.rank == *outer_rank && e.world_size == *outer_size,
                 "the environment contradicts itself: RANK={} and WORLD_SIZE={}, but {}={} and "
                 "{}={}.\n  Unset RANK and WORLD_SIZE to use the launcher's own.",
                 e.rank, e.world_size, rank, *outer_rank, size, *outer_size);
  }
  return e;
}

LaunchEnvironment of_mpi(const Variables& v) {
  LaunchEnvironment e;
  e.launcher = Launcher::mpi;
  if (v.pair("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")) {
    e.rank = v.number("OMPI_COMM_WORLD_RANK", 0).value_or(0);
    e.world_size = v.number("OMPI_COMM_WORLD_SIZE", 1).value_or(1);
    e.local_rank = v.number("OMPI_COMM_WORLD_LOCAL_RANK", 0).value_or(-1);
    e.local_world_size = v.number("OMPI_COMM_WORLD_LOCAL_SIZE", 1).value_or(0);
    check_ranks(e, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE");
  } else if (v.has("PMI_SIZE")) {
    v.pair("PMI_RANK", "PMI_SIZE");
    e.rank = v.number("PMI_RANK", 0).value_or(0);
    e.world_size = v.number("PMI_SIZE", 1).value_or(1);
    check_ranks(e, "PMI_RANK", "PMI_SIZE");
  } else {
    e.rank = v.number(v.has("PMIX_RANK") ? "PMIX_RANK" : "PMI_RANK", 0).value_or(0);
    e.size_known = false;
  }
  e.run_id = v.text("PMIX_NAMESPACE");
  read_master(v, e);
  return e;
}

LaunchEnvironment of_slurm(const Variables& v) {
  LaunchEnvironment e;
  e.launcher = Launcher::slurm;
  e.rank = v.number("SLURM_PROCID", 0).value_or(0);
  const char* size = v.has("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
  e.world_size = v.number(size, 1).value_or(1);
  e.local_rank = v.number("SLURM_LOCALID", 0).value_or(-1);
  const int node = v.number("SLURM_NODEID", 0).value_or(0);
  for (const char* name : {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"})
    if (e.local_world_size == 0) e.local_world_size = tasks_of_node(v.text(name), node);
  if (e.local_world_size == 0)
    e.local_world_size = v.number("SLURM_NTASKS_PER_NODE", 1).value_or(0);
  check_ranks(e, "SLURM_PROCID", size);
  const std::string job = v.text("SLURM_JOB_ID"), step = v.text("SLURM_STEP_ID");
  e.run_id = fmt::format("{}.{}", job.empty() ? "0" : job, step.empty() ? "0" : step);
  const bool of_step = v.has("SLURM_STEP_NODELIST");
  e.master_address = first_host(v.text(of_step ? "SLURM_STEP_NODELIST" : "SLURM_JOB_NODELIST"));
  if (!job.empty())
    e.master_port = static_cast<int>(10000 + (identity(job) + 97 * identity(step)) % 20000);
  read_master(v, e);
  NEREUS_CHECK(kConfig, e.world_size == 1 || (!e.master_address.empty() && e.master_port > 0),
               "SLURM_PROCID={} and {}={} are set in the environment, and {} is not.\n  srun sets "
               "it; outside of srun, set MASTER_ADDR and MASTER_PORT, or unset SLURM_PROCID.",
               e.rank, size, e.world_size,
               e.master_address.empty() ? "SLURM_JOB_NODELIST" : "SLURM_JOB_ID");
  return e;
}

LaunchEnvironment of_launcher(const Variables& v) {
  if (v.pair("RANK", "WORLD_SIZE")) return of_torchrun(v);
  for (const char* name : {"LOCAL_RANK", "LOCAL_WORLD_SIZE"})
    NEREUS_CHECK(kConfig, !v.has(name) || v.has("SLURM_PROCID") || v.has("OMPI_COMM_WORLD_RANK"),
                 "{}={} is set in the environment, and RANK and WORLD_SIZE are not.\n  Set them as "
                 "torchrun does, or unset {}.",
                 name, v.text(name), name);
  if (v.pair("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")) return of_mpi(v);
  const bool in_slurm = v.has("SLURM_PROCID");
  if (!in_slurm && (v.has("PMIX_RANK") || v.has("PMI_RANK") || v.has("PMI_SIZE"))) return of_mpi(v);
  const bool batch_script = v.has("SLURM_SUBMIT_DIR") && !v.has("SLURM_STEP_ID");
  const bool one_task =
      v.text("SLURM_STEP_NUM_TASKS").empty() || v.text("SLURM_STEP_NUM_TASKS") == "1";
  if (in_slurm && !batch_script && !(one_task && is_special_step(v))) {
    v.pair("SLURM_PROCID", v.has("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS");
    return of_slurm(v);
  }
  LaunchEnvironment single;
  single.local_rank = 0;
  single.local_world_size = 1;
  return single;
}

}  // namespace

const char* name_of(Launcher l) {
  switch (l) {
    case Launcher::single:
      return "single";
    case Launcher::threads:
      return "threads";
    case Launcher::torchrun:
      return "torchrun";
    case Launcher::slurm:
      return "slurm";
    case Launcher::mpi:
      return "mpi";
  }
  return "?";
}

std::string LaunchEnvironment::to_string() const {
  if (launcher == Launcher::single) return "one rank";
  if (launcher == Launcher::threads)
    return fmt::format("{} ranks as threads of this process", world_size);
  std::string text =
      size_known ? fmt::format("rank {} of {}", rank, world_size) : fmt::format("rank {}", rank);
  text += launcher == Launcher::torchrun ? ", by RANK and WORLD_SIZE"
          : launcher == Launcher::slurm  ? ", started by srun"
                                         : ", started by an MPI launcher";
  if (!master_address.empty() && master_port > 0 && world_size > 1)
    text += fmt::format("; they meet at {}:{}", master_address, master_port);
  return text;
}

LaunchEnvironment read_launch_environment(const Environment& environment,
                                          const LaunchFlags& flags) {
  LaunchEnvironment e = of_launcher(Variables(environment));
  NEREUS_CHECK(kConfig, flags.nproc >= 0, "--nproc {}: 1 or more ranks are needed", flags.nproc);
  NEREUS_CHECK(kConfig, flags.nproc <= 1 || (e.world_size == 1 && e.size_known),
               "--nproc {} starts ranks as threads of one process, but this process is already {}."
               "\n  Leave out --nproc, or start one process without the launcher.",
               flags.nproc, e.to_string());
  if (flags.nproc > 1) {
    e = {};
    e.launcher = Launcher::threads;
    e.world_size = e.local_world_size = flags.nproc;
    e.local_rank = 0;
  }
  return e;
}

Environment launch_variables() {
  Environment found;
  for (const char* name : kVariables)
    if (const char* value = std::getenv(name)) found[name] = value;
  return found;
}

}  // namespace nereus
