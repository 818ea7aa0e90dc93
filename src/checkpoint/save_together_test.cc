#include "checkpoint/save_together.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "base/error.h"
#include "checkpoint/step_folders.h"
#include "control/local_world.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// On a thread for each rank; what each of them is told.
std::vector<std::string> save(
    const std::string& place, int ranks,
    const std::function<Manifest(int, const std::string&, const std::string&)>& write,
    bool verify = false) {
  const LocalWorld world(ranks, std::chrono::seconds(60));
  std::vector<std::string> told(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      told[static_cast<size_t>(r)] = save_together(
          world.rank(r),
          {.place = place,
           .key = "save",
           .write_shard = [&, r](const std::string& folder,
                                 const std::string& name) { return write(r, folder, name); },
           .make_run =
               [](const std::vector<std::string>& facts) {
                 return "{\"facts\":" + std::to_string(facts.size()) + "}";
               },
           .verify = verify,
           .visible = std::chrono::seconds(0)});
    });
  for (std::thread& t : threads) t.join();
  return told;
}

Manifest shard(const test::TemporaryFolder& f, int rank, const std::string& folder,
               const std::string& name) {
  f.write(folder.substr(f.path().size() + 1) + "/" + name, "12345678");
  Manifest m;
  m.files.push_back({name, 8});
  m.tensors.push_back({.name = "x",
                       .shape = {6},
                       .slices = {{.origin = {2 * rank}, .extent = {2}, .checksum = 5}}});
  return m;
}

TEST(SaveTogether, IsCompleteOrAbsent) {
  const test::TemporaryFolder f;
  const std::string place = f.file("step-7");
  EXPECT_THAT(save(place, 3,
                   [&](int rank, const std::string& folder, const std::string& name) {
                     EXPECT_EQ(folder, place + ".partial");
                     return shard(f, rank, folder, name);
                   }),
              testing::Each(""));
  const Manifest m = read_manifest(place);
  EXPECT_EQ(m.tensors[0].slices.size(), 3u);
  EXPECT_EQ(m.tensors[0].checksum(), 15u);
  EXPECT_EQ(m.run, "{\"facts\":3}");
  EXPECT_FALSE(std::filesystem::exists(place + ".partial"));

  // One rank fails: all are told, nothing is left, and what was there stays.
  const auto fails = [&](int rank, const std::string& folder, const std::string& name) {
    if (rank == 1) throw Error(Fault::kIo, "no space");
    return shard(f, rank, folder, name);
  };
  for (const std::string& told : save(place, 3, fails))
    EXPECT_THAT(told, AllOf(HasSubstr("rank 1 on "), HasSubstr(": no space")));
  EXPECT_FALSE(std::filesystem::exists(place + ".partial"));
  EXPECT_EQ(read_manifest(place).tensors[0].checksum(), 15u);

  // Rank 0 does not see a shard.
  const auto elsewhere = [&](int rank, const std::string& folder, const std::string& name) {
    Manifest part = shard(f, rank, folder, name);
    if (rank == 2) std::filesystem::remove(folder + "/" + name);
    return part;
  };
  for (const std::string& told : save(place, 3, elsewhere))
    EXPECT_THAT(told, HasSubstr("is it one file system on all hosts?"));
  EXPECT_EQ(read_manifest(place).tensors[0].checksum(), 15u);
}

TEST(SaveTogether, WhatIsReadBackAndDiffersIsNotComplete) {
  const test::TemporaryFolder f;
  const std::string place = f.file("step-7");
  const auto sum = [](int rank) {  // of "1234" and "5678" as little-endian numbers
    const auto index = static_cast<uint64_t>(2 * rank);
    return 0x34333231 * (2 * index + 1) + 0x38373635 * (2 * index + 3);
  };
  const auto summed = [&](int rank, const std::string& folder, const std::string& name) {
    Manifest part = shard(f, rank, folder, name);
    part.tensors[0].slices[0].checksum = sum(rank);
    return part;
  };
  EXPECT_THAT(save(place, 3, summed, true), testing::Each(""));
  const auto spoiled = [&](int rank, const std::string& folder, const std::string& name) {
    Manifest part = summed(rank, folder, name);
    if (rank == 2) f.write("step-8.partial/" + name, "12345679");
    return part;
  };
  EXPECT_THAT(save(f.file("step-8"), 3, spoiled, true),
              testing::Each(AllOf(HasSubstr("rank 2 on "), HasSubstr("has checksum "),
                                  HasSubstr("It was read back (checkpoint.verify): the disk"))));
  EXPECT_FALSE(std::filesystem::exists(f.file("step-8")));
  EXPECT_FALSE(std::filesystem::exists(f.file("step-8.partial")));
  EXPECT_THAT(save(f.file("step-8"), 3, spoiled), testing::Each("")) << "nobody looked";
}

TEST(StepFolders, AreSetAsideReplacedAndDeleted) {
  const test::TemporaryFolder f;
  for (const char* name : {"step-1/manifest.json", "step-2/manifest.json", "step-3/manifest.json",
                           "step-4/model.safetensors", "step-5/shard", "step-x/manifest.json",
                           "step-6.partial/manifest.json", "step-7", "step-3.damaged/x"})
    f.write(name, "");
  std::vector<int64_t> steps;
  for (const StepFolder& s : step_folders(f.path())) steps.push_back(s.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{5, 4, 3, 2, 1}));
  EXPECT_EQ(step_folders(f.path())[0].kind, StepFolder::Kind::incomplete);
  EXPECT_EQ(step_folders(f.path())[1].kind, StepFolder::Kind::hugging_face);
  EXPECT_TRUE(step_folders(f.file("none")).empty());

  EXPECT_EQ(set_aside(f.file("step-5"), "damaged"), f.file("step-5.damaged"));
  EXPECT_EQ(set_aside(f.file("step-3"), "damaged"), f.file("step-3.damaged-2"));
  commit_step(f.file("step-6"));
  EXPECT_TRUE(std::filesystem::exists(f.file("step-6/manifest.json")));
  f.write("step-7.partial/manifest.json", "");
  commit_step(f.file("step-7"));  // a file is in the way
  EXPECT_TRUE(std::filesystem::exists(f.file("step-7/manifest.json")));
  EXPECT_TRUE(std::filesystem::exists(f.file("step-7.old")));
  EXPECT_EQ(purge_steps(f.path(), 2, 0), (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(purge_steps(f.path(), 1, 6), (std::vector<int64_t>{}));
  EXPECT_TRUE(std::filesystem::exists(f.file("step-4"))) << "weights are not purged";
}

}  // namespace
}  // namespace nereus
