#include "launch/launch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace nereus {
namespace {

using testing::HasSubstr;

std::string described(const LaunchEnvironment& e) {
  return std::string(name_of(e.launcher)) + " " + std::to_string(e.rank) + "/" +
         std::to_string(e.world_size) + " local " + std::to_string(e.local_rank) + "/" +
         std::to_string(e.local_world_size) + " at " + e.master_address + ":" +
         std::to_string(e.master_port) + (e.size_known ? "" : " size unknown");
}

TEST(Launch, EveryLauncherIsReadAsItSaysWhoOneIs) {
  struct Case {
    const char* what;
    Environment environment;
    int nproc;
    const char* expected;
  };
  const Environment srun = {{"SLURM_PROCID", "5"},
                            {"SLURM_NTASKS", "8"},
                            {"SLURM_LOCALID", "1"},
                            {"SLURM_NODEID", "1"},
                            {"SLURM_JOB_ID", "123456"},
                            {"SLURM_STEP_ID", "2"},
                            {"SLURM_NTASKS_PER_NODE", "4"},
                            {"SLURM_SUBMIT_DIR", "/home"},
                            {"SLURM_JOB_NODELIST", "gpu[03-04,07],x1"}};
  Environment srun_uneven = srun;
  srun_uneven["SLURM_STEP_TASKS_PER_NODE"] = "4,2(x2)";
  srun_uneven["SLURM_STEP_NODELIST"] = "r[1-2]c[08,9]-ib,y";
  Environment srun_pmix = srun;
  srun_pmix["PMIX_RANK"] = "5";
  srun_pmix["MASTER_PORT"] = "1234";
  Environment batch = srun;
  batch.erase("SLURM_STEP_ID");
  Environment federation = srun;
  federation["SLURM_JOB_ID"] = "2214592513";  // cluster 33, job 1
  Environment largest = srun;
  largest["SLURM_JOB_ID"] = "99999999999999999999999";
  Environment hook = srun;  // Enroot's, for PyTorch in a container
  hook.insert(
      {{"RANK", "5"}, {"WORLD_SIZE", "8"}, {"MASTER_ADDR", "gpu03"}, {"MASTER_PORT", "29500"}});
  const auto shell = [](const char* step) -> Environment {
    return {{"SLURM_PROCID", "0"},
            {"SLURM_LOCALID", "0"},
            {"SLURM_NODEID", "0"},
            {"SLURM_NTASKS", "8"},
            {"SLURM_TASKS_PER_NODE", "8"},
            {"SLURM_JOB_ID", "123456"},
            {"SLURM_STEP_ID", step},
            {"SLURM_STEP_NUM_TASKS", "1"},
            {"SLURM_STEP_TASKS_PER_NODE", "1"},
            {"SLURM_STEP_NODELIST", "node07"},
            {"SLURM_SUBMIT_DIR", "/home"}};
  };
  Environment unsized = shell("4294967290");
  unsized.erase("SLURM_STEP_NUM_TASKS");
  unsized.erase("SLURM_STEP_TASKS_PER_NODE");
  const Environment torchrun = {{"RANK", "3"},           {"WORLD_SIZE", "4"},
                                {"LOCAL_RANK", "1"},     {"LOCAL_WORLD_SIZE", "2"},
                                {"MASTER_ADDR", "host"}, {"MASTER_PORT", "29500"}};
  Environment agent = torchrun;
  agent["TORCHELASTIC_USE_AGENT_STORE"] = "True";
  agent["OMPI_COMM_WORLD_RANK"] = "1";  // one torchrun a node, started by mpirun
  agent["OMPI_COMM_WORLD_SIZE"] = "2";
  const Environment mpirun = {{"OMPI_COMM_WORLD_RANK", "2"},
                              {"OMPI_COMM_WORLD_SIZE", "4"},
                              {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                              {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                              {"PMIX_RANK", "2"}};
  Environment mpirun_in_job = mpirun;
  mpirun_in_job.insert(batch.begin(), batch.end());
  const Case cases[] = {
      {"nothing", {}, 0, "single 0/1 local 0/1 at :0"},
      {"--nproc 1", {}, 1, "single 0/1 local 0/1 at :0"},
      {"--nproc", {}, 8, "threads 0/8 local 0/8 at :0"},
      {"--nproc in a step of one task",
       {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "1"}},
       2,
       "threads 0/2 local 0/2 at :0"},
      {"torchrun", torchrun, 0, "torchrun 3/4 local 1/2 at host:29500"},
      {"torchrun's agent keeps the port", agent, 0, "torchrun 3/4 local 1/2 at host:29501"},
      {"one rank of torchrun",
       {{"RANK", "0"}, {"WORLD_SIZE", "1"}},
       0,
       "torchrun 0/1 local -1/0 at :0"},
      {"srun", srun, 0, "slurm 5/8 local 1/4 at gpu03:13650"},
      {"srun, uneven, of some of the job's nodes", srun_uneven, 0,
       "slurm 5/8 local 1/2 at r1c08-ib:13650"},
      {"srun with PMIx and a port", srun_pmix, 0, "slurm 5/8 local 1/4 at gpu03:1234"},
      {"a batch script is no step", batch, 0, "single 0/1 local 0/1 at :0"},
      {"a job of a federation", federation, 0, "slurm 5/8 local 1/4 at gpu03:22707"},
      {"any number of a job", largest, 0, "slurm 5/8 local 1/4 at gpu03:25880"},
      {"salloc's shell", shell("4294967290"), 0, "single 0/1 local 0/1 at :0"},
      {"--nproc there", shell("4294967290"), 8, "threads 0/8 local 0/8 at :0"},
      {"a batch script as a step", shell("4294967291"), 0, "single 0/1 local 0/1 at :0"},
      {"extern", shell("4294967292"), 0, "single 0/1 local 0/1 at :0"},
      {"a batch script of Slurm 20.02", shell("4294967294"), 0, "single 0/1 local 0/1 at :0"},
      {"without the step's size", unsized, 0, "single 0/1 local 0/1 at :0"},
      {"srun with a hook that sets torchrun's names", hook, 0,
       "torchrun 5/8 local -1/0 at gpu03:29500"},
      {"mpirun", mpirun, 0, "mpi 2/4 local 0/2 at :0"},
      {"mpirun in a batch script", mpirun_in_job, 0, "mpi 2/4 local 0/2 at :0"},
      {"PMIx without Slurm", {{"PMIX_RANK", "7"}}, 0, "mpi 7/1 local -1/0 at :0 size unknown"},
      {"MPICH", {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}}, 0, "mpi 1/2 local -1/0 at :0"},
  };
  for (const Case& c : cases)
    EXPECT_EQ(described(read_launch_environment(c.environment, {.nproc = c.nproc})), c.expected)
        << c.what;
}

// Others at the same host are told apart by the numbers as they are.
TEST(Launch, TheNumbersOfJobAndStepAreTheRunsName) {
  Environment e = {{"SLURM_PROCID", "0"},           {"SLURM_NTASKS", "2"},
                   {"SLURM_JOB_NODELIST", "a"},     {"SLURM_JOB_ID", "4294967295"},
                   {"SLURM_STEP_ID", "4294967290"}, {"SLURM_STEP_NUM_TASKS", "2"}};
  EXPECT_EQ(read_launch_environment(e, {}).run_id, "4294967295.4294967290");
  EXPECT_EQ(read_launch_environment(e, {}).master_port,
            10000 + (4294967295 + 97 * 4294967290) % 20000);
  e.erase("SLURM_STEP_ID");
  EXPECT_EQ(read_launch_environment(e, {}).run_id, "4294967295.0");
}

TEST(Launch, WhatIsHalfSetOrContradictoryIsNamed) {
  struct Case {
    Environment environment;
    int nproc;
    const char* expected;
  };
  const Environment two = {{"RANK", "1"}, {"WORLD_SIZE", "2"}};
  const auto with = [](Environment e, const Environment& more) {
    for (const auto& [k, v] : more) e[k] = v;
    return e;
  };
  const Environment meet = {{"MASTER_ADDR", "h"}, {"MASTER_PORT", "1"}};
  const Case cases[] = {
      {{{"RANK", "1"}}, 0, "RANK=1 is set in the environment, and WORLD_SIZE is not"},
      {{{"WORLD_SIZE", "2"}}, 0, "WORLD_SIZE=2 is set in the environment, and RANK is not"},
      {{{"LOCAL_RANK", "1"}}, 0, "LOCAL_RANK=1 is set in the environment, and RANK and WORLD_SIZE"},
      {two, 0, "RANK=1 and WORLD_SIZE=2 are set in the environment, and MASTER_ADDR is not"},
      {with(two, {{"MASTER_ADDR", "h"}}), 0, "and MASTER_PORT is not"},
      {with(two, {{"MASTER_ADDR", "h"}, {"MASTER_PORT", "70000"}}), 0,
       "MASTER_PORT=70000 in the environment: ports are 1 to 65535"},
      {with(two, {{"MASTER_ADDR", "h"}, {"MASTER_PORT", "x1"}}), 0,
       "MASTER_PORT=\"x1\" in the environment: a whole number, 1 or more, is needed; set it as a "
       "launcher does, or unset it"},
      {with(meet, {{"RANK", "2"}, {"WORLD_SIZE", "2"}}), 0, "RANK=2 and WORLD_SIZE=2"},
      {with(meet, {{"RANK", "-1"}, {"WORLD_SIZE", "2"}}), 0, "RANK=\"-1\" in the environment"},
      {with(meet, {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_WORLD_SIZE", "4"}}), 0,
       "4 ranks on this host, and 2 in all (WORLD_SIZE)"},
      {with(meet,
            {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "2"}, {"LOCAL_WORLD_SIZE", "2"}}),
       0, "rank 2 of this host's ranks, of which there are 2"},
      {with(meet, {{"RANK", "0"},
                   {"WORLD_SIZE", "2"},
                   {"OMPI_COMM_WORLD_RANK", "1"},
                   {"OMPI_COMM_WORLD_SIZE", "2"}}),
       0, "RANK=0 and WORLD_SIZE=2, but OMPI_COMM_WORLD_RANK=1 and OMPI_COMM_WORLD_SIZE=2"},
      {with(meet, {{"RANK", "0"},
                   {"WORLD_SIZE", "1"},
                   {"SLURM_PROCID", "0"},
                   {"SLURM_STEP_NUM_TASKS", "4"}}),
       0, "RANK=0 and WORLD_SIZE=1, but SLURM_PROCID=0 and SLURM_STEP_NUM_TASKS=4"},
      {{{"OMPI_COMM_WORLD_SIZE", "2"}}, 0, "and OMPI_COMM_WORLD_RANK is not"},
      {{{"SLURM_PROCID", "2"}}, 0, "SLURM_PROCID=2 is set in the environment, and SLURM_NTASKS is"},
      {{{"SLURM_PROCID", "2"}, {"SLURM_NTASKS", "4"}}, 0, "and SLURM_JOB_NODELIST is not"},
      {{{"SLURM_PROCID", "2"}, {"SLURM_NTASKS", "4"}, {"SLURM_JOB_NODELIST", "a"}},
       0,
       "and SLURM_JOB_ID is not"},
      {with(two, meet), 2,
       "--nproc 2 starts ranks as threads of one process, but this process is already rank 1 of 2, "
       "by RANK and WORLD_SIZE; they meet at h:1"},
      {{{"PMIX_RANK", "0"}}, 2, "already rank 0, started by an MPI launcher"},
      {{}, -1, "--nproc -1"},
  };
  for (const Case& c : cases) {
    try {
      read_launch_environment(c.environment, {.nproc = c.nproc});
      ADD_FAILURE() << "accepted, though " << c.expected;
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::kConfig);
      EXPECT_THAT(e.what(), HasSubstr(c.expected));
    }
  }
}

}  // namespace
}  // namespace nereus
