#include "recipe/run_facts.h"

#include <filesystem>

#include "recipe/installation_test.h"

namespace nereus::recipe {
namespace {

using testing::ElementsAre;

// A data set of the installation, one in a folder that is here, and one on disks of other machines.
TEST(Hold, WhatIsMissingIsRefusedWhereItWouldBeMissedByTheJobToo) {
  const test::TemporaryFolder folder;
  RecipeRun run;
  run.install = folder.file("llmb");
  std::filesystem::create_directories(run.install);
  const RunFacts::Missing installed{run.install + "/datasets/c4", "A"},
      beside{folder.file("c4"), "B"}, local{"/raid/of/nodes/c4", "C"}, unnamed{"", "D"};
  const auto warnings = [&](std::vector<RunFacts::Missing> missing, Purpose purpose) {
    return hold({.missing = std::move(missing)}, run, purpose, false);
  };
  const auto refused = [&](std::vector<RunFacts::Missing> missing, Purpose purpose) {
    return refusal([&] { warnings(std::move(missing), purpose); });
  };
  const std::string elsewhere = "not found on this machine; the job checks again when it starts:";
  EXPECT_THAT(warnings({}, Purpose::launch), ElementsAre());
  EXPECT_THAT(warnings({installed, local}, Purpose::look), ElementsAre(elsewhere + "\n  A\n  C"));
  EXPECT_THAT(warnings({local}, Purpose::queue), ElementsAre(elsewhere + "\n  C"));
  EXPECT_EQ(refused({installed, local}, Purpose::queue), "input of the run is missing:\n  A");
  EXPECT_EQ(refused({beside}, Purpose::queue), "input of the run is missing:\n  B");
  EXPECT_EQ(refused({unnamed}, Purpose::queue), "input of the run is missing:\n  D");
  EXPECT_EQ(refused({installed, local}, Purpose::launch), "input of the run is missing:\n  A\n  C");
}

TEST(Hold, AnImageIsAFileOrANameInARegistry) {
  const test::TemporaryFolder folder;
  RecipeRun run;
  const auto refused = [&](const std::string& image) {
    run.image = image;
    return refusal([&] { hold({}, run, Purpose::launch, false); });
  };
  EXPECT_EQ(refused(""), "no error");
  EXPECT_EQ(refused("nvcr.io#nvidia/pytorch:25.10-py3"), "no error");
  EXPECT_EQ(refused(folder.write("a.sqsh", "x")), "no error");
  EXPECT_EQ(refused("/none/a.sqsh"),
            "input of the run is missing:\n  the container image /none/a.sqsh "
            "(RUN_CONF_IMAGE): it does not exist");
  EXPECT_THAT(hold({}, run, Purpose::look, false),
              ElementsAre("not found on this machine; the job checks again when it starts:\n  the "
                          "container image /none/a.sqsh (RUN_CONF_IMAGE): it does not exist"));
}

}  // namespace
}  // namespace nereus::recipe
