#include "recipe/allocation.h"

#include "recipe/installation_test.h"

namespace nereus::recipe {
namespace {

using testing::ElementsAre;
using testing::StartsWith;

RecipeRun run(int64_t gpus, const std::string& type = "h100") {
  RecipeRun out;
  out.gpu_type = type;
  out.gpus = gpus;
  return out;
}
std::string said(const RecipeRun& run, Variables v) {
  v.insert({"SLURM_JOB_ID", "7"});
  return refusal([&] { check_allocation(run, v, "/r/launch.sh"); });
}

TEST(Allocation, OfTooFewNodesOrTasksIsRefusedWithTheLineThatWorks) {
  // `sbatch launch.sh`: one node, and nothing is said of tasks.
  EXPECT_EQ(said(run(512), {{"SLURM_JOB_NUM_NODES", "1"}}),
            "JOB_TOTAL_GPUS = 512 needs 64 nodes of 8 tasks, and this job has 1 node. Submit it "
            "like this:\n  GPU_TYPE=h100 JOB_TOTAL_GPUS=512 sbatch -N 64 --ntasks-per-node=8 "
            "/r/launch.sh\n  NEREUS_SUBMIT=true /r/launch.sh asks for nodes and tasks by itself; "
            "GPUS_PER_NODE says how many GPUs a node has, where it is not 8.");
  // With what was set for the run; the installation is exported, Slurm's are the job's own.
  EXPECT_THAT(said(run(1024), {{"SLURM_JOB_NUM_NODES", "1"},
                               {"GPU_TYPE", "h100"},
                               {"LLMB_INSTALL", "/i"},
                               {"TRAINING_STEPS", "5000"},
                               {"ADDITIONAL_SLURM_PARAMS", "constraint=a&b;exclusive"}}),
              testing::HasSubstr("\n  GPU_TYPE=h100 JOB_TOTAL_GPUS=1024 "
                                 "ADDITIONAL_SLURM_PARAMS='constraint=a&b;exclusive' "
                                 "TRAINING_STEPS=5000 sbatch -N 128 "));
  EXPECT_THAT(
      said(run(8), {{"SLURM_JOB_NUM_NODES", "2"}, {"SLURM_NTASKS", "4"}}),
      StartsWith("JOB_TOTAL_GPUS = 8 needs 1 node of 8 tasks, and this job has 2 nodes with "
                 "4 tasks in all. "));
  EXPECT_THAT(said(run(256, "gb200"), {{"SLURM_JOB_NUM_NODES", "32"}}),
              StartsWith("JOB_TOTAL_GPUS = 256 needs 64 nodes of 4 tasks, and this job has 32 "));
}

TEST(Allocation, ThatIsEnoughIsTakenAsItIs) {
  for (const Variables& enough :
       {Variables{{"SLURM_JOB_NUM_NODES", "64"}},
        {{"SLURM_JOB_NUM_NODES", "128"}, {"SLURM_NTASKS", "512"}},
        {{"SLURM_JOB_NUM_NODES", "32"}, {"GPUS_PER_NODE", "16"}},
        {{"SLURM_JOB_NUM_NODES", "1"}, {"ADDITIONAL_SLURM_PARAMS", "a=b;overcommit"}},
        {}})
    EXPECT_EQ(said(run(512), enough), "no error");
  EXPECT_EQ(refusal([] {
              check_allocation(run(512), {{"SLURM_JOB_NUM_NODES", "1"}}, "/r/launch.sh");
            }),
            "no error")
      << "no job";
  EXPECT_THAT(sbatch_for(run(6), {{"GPUS_PER_NODE", "0"}}, "/r/launch.sh"),
              ElementsAre("sbatch", "-N", "1", "--ntasks-per-node=6", "/r/launch.sh"));
}

}  // namespace
}  // namespace nereus::recipe
