#include "recipe/archive.h"

#include <unistd.h>
#include <zstd.h>

#include <fstream>
#include <map>

#include "recipe/installation_test.h"
#include "recipe/tar_zst.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::ElementsAre;
using testing::Not;

// Unpacked by zstd's own library and the system's tar: what others will read it with.
void unpack(const std::string& path, const std::string& folder) {
  const std::string packed = test::read_file(path);
  std::string tar;
  const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> zstd(ZSTD_createDCtx(), ZSTD_freeDCtx);
  ZSTD_inBuffer in{packed.data(), packed.size(), 0};
  std::string buffer(1 << 17, '\0');
  size_t left = 1;
  while (left != 0) {
    ZSTD_outBuffer out{buffer.data(), buffer.size(), 0};
    left = ZSTD_decompressStream(zstd.get(), &out, &in);
    ASSERT_FALSE(ZSTD_isError(left)) << ZSTD_getErrorName(left);
    tar.append(buffer, 0, out.pos);
  }
  EXPECT_EQ(in.pos, packed.size());
  EXPECT_EQ(tar.size() % 512, 0u);
  fs::create_directories(folder);
  std::ofstream(folder + ".tar", std::ios::binary) << tar;
  const CommandOutput said =
      run_command({"tar", "-C", folder, "-xf", folder + ".tar"}, process_environment());
  ASSERT_EQ(said.code, 0) << said.err;
  EXPECT_EQ(said.err, "");
}

TEST(Archive, LogsAndSettingsGoInProfilesAndCheckpointsDoNot) {
  const Installation there;
  const std::string run = there.run_folder("1764000000");
  const auto add = [&run](const std::string& name, const std::string& text) {
    fs::create_directories(fs::path(run + "/" + name).parent_path());
    std::ofstream(run + "/" + name, std::ios::binary) << text;
  };
  const std::string large(1'234'567, 'x');
  add("llmb-config_7.yaml", "job_info: {}\n");
  add("log-torchtitan_x_7_0.out", large);
  add("outputs/metrics.jsonl", "");
  add("outputs/memory_snapshot/rank0.pickle", "p");
  for (const char* name :
       {"a.nsys-rep", "outputs/profile_trace/rank0_trace.json", "b.pt.trace.json", "c.tar.gz",
        "code/a.py", "outputs/checkpoint/step-10/x.safetensors", "checkpoints/x", "nsys_profile/x",
        "torch_profile/x", "pytorch_profile/x"})
    add(name, "no");
  const std::string longest = "outputs/" + std::string(150, 'd') + "/" + std::string(200, 'f');
  add(longest, "long");
  fs::create_symlink("log-torchtitan_x_7_0.out", run + "/latest");
  fs::create_directory_symlink("/nowhere/" + std::string(120, 't'), run + "/away");
  std::ofstream(there.config.llmb_install + "/workloads/" + kKey + "/outside") << "no";

  std::vector<std::string> names;
  const std::string below =
      fs::path(run).lexically_relative(there.config.llmb_install + "/workloads").string() + "/";
  for (const ArchiveEntry& e : archive_entries(there.config.llmb_install))
    names.push_back(e.name.substr(below.size()));
  EXPECT_THAT(
      names, ElementsAre("away", "latest", "llmb-config_7.yaml", "log-torchtitan_x_7_0.out",
                         longest, "outputs/memory_snapshot/rank0.pickle", "outputs/metrics.jsonl"));

  const ArchiveResult result = make_archive(there.config, "");
  EXPECT_EQ(result.runs, 1);
  EXPECT_THAT(result.path, testing::MatchesRegex(there.config.llmb_install +
                                                 "/llmb-archive_.*_[0-9]{8}T[0-9]{6}Z.tar.zst"));
  const std::string folder = there.folder.file("unpacked");
  unpack(result.path, folder);
  const std::string top = fs::directory_iterator(folder)->path().string();
  EXPECT_THAT(fs::path(top).filename().string(),
              testing::MatchesRegex("llmb-archive-[0-9]{8}T[0-9]{6}Z"));
  EXPECT_EQ(test::read_file(top + "/" + below + "log-torchtitan_x_7_0.out"), large);
  EXPECT_EQ(test::read_file(top + "/" + below + longest), "long");
  EXPECT_EQ(fs::read_symlink(top + "/" + below + "latest"), "log-torchtitan_x_7_0.out");
  EXPECT_EQ(fs::read_symlink(top + "/" + below + "away"), "/nowhere/" + std::string(120, 't'));
  EXPECT_EQ(
      fs::last_write_time(top + "/" + below + "llmb-config_7.yaml"),
      std::chrono::floor<std::chrono::seconds>(fs::last_write_time(run + "/llmb-config_7.yaml")));
}

// A run that goes on removes files, and folders with them.
TEST(Archive, WhatIsRemovedMeanwhileIsLeftOut) {
  const Installation there;
  const std::string run = there.run_folder("1");
  fs::create_directories(run + "/gone");
  for (const char* name : {"a", "gone/b", "llmb-config_7.yaml", "z"})
    std::ofstream(run + "/" + name) << name;
  const std::vector<ArchiveEntry> entries = archive_entries(there.config.llmb_install);
  fs::remove_all(run + "/gone");
  fs::remove(run + "/llmb-config_7.yaml");
  const ArchiveResult result = make_archive(there.config, there.folder.file("a.tar.zst"), entries);
  EXPECT_EQ(result.runs, 0);
  EXPECT_THAT(result.warnings,
              ElementsAre(run + "/gone/b: was removed meanwhile and is left out.",
                          run + "/llmb-config_7.yaml: was removed meanwhile and is left out."));
  unpack(result.path, there.folder.file("unpacked"));
  const std::string below =
      fs::directory_iterator(there.folder.file("unpacked"))->path().string() + "/" +
      fs::path(run).lexically_relative(there.config.llmb_install + "/workloads").string();
  EXPECT_EQ(test::read_file(below + "/a"), "a");
  EXPECT_EQ(test::read_file(below + "/z"), "z");
  // What cannot be read for another reason is an error.
  EXPECT_THROW(make_archive(there.config, there.folder.file("b.tar.zst"), {{run + "/a/b", "b"}}),
               Error);
}

// One of the same name that another process is writing at this moment.
TEST(Archive, AnUnfinishedOneOfAnotherProcessIsNotTouched) {
  const Installation there;
  std::ofstream(there.run_folder("1") + "/log") << "x";
  const std::string output = there.folder.file("a.tar.zst");
  const std::vector<std::string> others = {
      there.folder.write("a.tar.zst.new", "half"),
      there.folder.write("a.tar.zst." + std::to_string(getppid()) + ".new", "half")};
  make_archive(there.config, output);
  unpack(output, there.folder.file("unpacked"));
  for (const std::string& other : others) EXPECT_EQ(test::read_file(other), "half");
}

TEST(Archive, NothingIsOverwrittenOrHalfWritten) {
  const Installation there;
  const std::string output = there.folder.write("a.tar.zst", "mine");
  EXPECT_EQ(refusal([&] { make_archive(there.config, output); }),
            "Archive output already exists: " + output + ". Name another with --output.");
  EXPECT_EQ(test::read_file(output), "mine");
  EXPECT_EQ(refusal([&] { make_archive(there.config, "/nowhere/a.tar.zst"); }),
            "Output directory does not exist: /nowhere");
  const std::string run = there.run_folder("1");
  std::ofstream(run + "/log") << "x";
  EXPECT_EQ(make_archive(there.config, there.folder.file("b.tar.zst")).runs, 0);
  EXPECT_EQ(std::distance(fs::directory_iterator(there.folder.path()), {}), 4)
      << "the archives, bin and llmb";
  // The disk is full.
  try {
    TarZst full("/dev/full");
    full.add(run + "/log", "log");
    full.finish();
    ADD_FAILURE() << "written to a full disk";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kIo);
    EXPECT_STREQ(e.what(), "/dev/full: cannot be written: No space left on device.");
  }
}

}  // namespace
}  // namespace nereus::recipe
