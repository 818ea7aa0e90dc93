#include "base/program_files.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "test/test_tensor.h"

namespace nereus {
namespace {

TEST(ProgramFiles, AreTheInstalledOnesBeforeTheSourceTreesBeforeTheWorkingFolders) {
  const test::TemporaryFolder folder;
  const std::string program = folder.file("bin/nereus");
  const auto add = [&](const std::string& name) {
    std::filesystem::create_directories(std::filesystem::path(folder.file(name)).parent_path());
    std::ofstream(folder.file(name)) << "x";
  };
  EXPECT_EQ(program_file("configs/a.toml", program), "configs/a.toml");
  add("configs/a.toml");
  EXPECT_EQ(program_file("configs/a.toml", program), folder.file("configs/a.toml"));
  add("share/nereus/configs/a.toml");
  EXPECT_EQ(program_file("configs/a.toml", program), folder.file("share/nereus/configs/a.toml"));
}

TEST(ProgramFiles, OfAnUnknownProgramAreTheWorkingFolders) {
  EXPECT_EQ(program_file("no/such/file", ""), "no/such/file");
}

}  // namespace
}  // namespace nereus
