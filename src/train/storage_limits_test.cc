// Saving where the file system sets a limit: runs go on, complete checkpoints stay, and what is
// said names the remedy. Some need the right to mount.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>

#include "test/child_process.h"
#include "train/resume_test.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using test::Arguments;
using test::exists;
using test::operator+;
using testing::AllOf;
using testing::HasSubstr;

// Something mounted on a folder while this lives.
class Mount {
 public:
  Mount(const std::string& folder, const std::string& command) : folder_(folder) {
    fs::create_directories(folder);
    is_mounted_ = std::system((command + " " + folder + " >/dev/null 2>&1").c_str()) == 0;
  }
  ~Mount() {
    if (is_mounted_) ::umount2(folder_.c_str(), MNT_DETACH);
  }
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;
  bool is_mounted() const { return is_mounted_; }

 private:
  std::string folder_;
  bool is_mounted_ = false;
};

int64_t bytes_of(const std::string& folder) {
  int64_t bytes = 0;
  for (const auto& e : fs::recursive_directory_iterator(folder))
    if (e.is_regular_file()) bytes += static_cast<int64_t>(e.file_size());
  return bytes;
}
std::vector<std::string> steps_in(const std::string& folder) {
  std::vector<std::string> out;
  for (const auto& e : fs::directory_iterator(folder)) out.push_back(e.path().filename().string());
  std::sort(out.begin(), out.end());
  return out;
}

// From here on writes of this process of more than `bytes` fail as where a quota is used up.
bool use_up_quota(uint32_t bytes) {
  constexpr auto kLow = static_cast<uint32_t>(offsetof(seccomp_data, args) + 2 * sizeof(uint64_t));
  const sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pwritev, 5, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pwrite64, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kLow),
      BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, bytes, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDQUOT),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{.len = static_cast<unsigned short>(std::size(program)),
                          .filter = const_cast<sock_filter*>(program)};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

// Runs ARGUMENTS without any quota left, and tells what it said.
const test::ChildFunction runs_without_quota("storage_limits", [] {
  if (!use_up_quota(16 << 10)) return test::tell("no filter of system calls");
  test::tell(test::error_of(
      [] { test::train_on(2, nlohmann::json::parse(test::given("ARGUMENTS")).get<Arguments>()); }));
});

class StorageLimits : public testing::Test {
 protected:
  const test::TemporaryFolder f_;
  const std::string disk_ = f_.file("disk");

  Arguments run(const std::string& name, const Arguments& more = {}) const {
    return test::saving_run(f_.file(name), more);
  }
  // Bytes of a checkpoint; what a run without limits computes is then in "whole".
  int64_t checkpoint_bytes() const {
    test::train_on(2, run("whole"));
    return bytes_of(test::step_of(f_.file("whole"), 2));
  }
};

TEST_F(StorageLimits, AFullDiskLosesNothingAndIsGoneOnFromWhenThereIsSpace) {
  const int64_t bytes = checkpoint_bytes();
  const Mount disk(disk_, "mount -t tmpfs -o size=" + std::to_string(bytes * 17 / 10) + " tmpfs");
  if (!disk.is_mounted()) GTEST_SKIP() << "no tmpfs can be mounted here";
  const Arguments limited = run("run", {"--checkpoint.folder=" + disk_});
  const std::string error = test::error_of([&] { test::train_on(2, limited); });
  EXPECT_THAT(error, AllOf(HasSubstr("the checkpoint of step 6 was not saved: "),
                           HasSubstr("No space left on device"),
                           HasSubstr("\n  The disk is full: free space, or lower ")));
  EXPECT_EQ(steps_in(disk_), std::vector<std::string>{"step-2"}) << "nothing half-written";
  ASSERT_EQ(std::system(("mount -o remount,size=64m " + disk_).c_str()), 0);
  const test::WholeRun next = test::train_on(2, limited);
  EXPECT_EQ(next.code, 0);
  EXPECT_THAT(next.log, HasSubstr("Resuming after step 2 from "));
  EXPECT_EQ(test::figures(f_.file("run")), test::from_step(test::figures(f_.file("whole")), 3));
}

TEST_F(StorageLimits, AUsedUpQuotaIsNamed) {
  test::Child child("storage_limits", {{"ARGUMENTS", nlohmann::json(run("run")).dump()}});
  const std::string said = child.wait();
  if (said == "no filter of system calls\n") GTEST_SKIP() << said;
  const std::string remedy =
      "\n  The quota of the user, group or project is used up (`quota -s`, `lfs "
      "quota -h`): free space, have it raised, or lower checkpoint.keep_latest_k.";
  EXPECT_THAT(said, AllOf(HasSubstr("the checkpoint of step 6 was not saved: "),
                          HasSubstr("Disk quota exceeded"), HasSubstr(remedy)))
      << "it has trained to the end";
  EXPECT_EQ(steps_in(f_.file("run/checkpoint")), std::vector<std::string>{})
      << "nothing half-written";
}

// As root, whom permissions do not stop.
TEST_F(StorageLimits, AFileSystemThatBecomesReadOnlyLosesNothing) {
  checkpoint_bytes();
  const Mount disk(disk_, "mount -t tmpfs -o size=64m tmpfs");
  if (!disk.is_mounted()) GTEST_SKIP() << "no tmpfs can be mounted here";
  fs::copy(test::step_of(f_.file("whole"), 2), disk_ + "/step-2", fs::copy_options::recursive);
  ASSERT_EQ(std::system(("mount -o remount,ro " + disk_).c_str()), 0);
  const Arguments limited = run("run", {"--checkpoint.folder=" + disk_});
  EXPECT_THAT(test::error_of([&] { test::train_on(2, limited); }),
              HasSubstr("checkpoint.folder = " + disk_ +
                        ": cannot be written to: Read-only file "
                        "system. Choose another folder."));
  EXPECT_EQ(steps_in(disk_), std::vector<std::string>{"step-2"});
  const test::WholeRun reads = test::train_on(2, limited + Arguments{"--checkpoint.load_only"});
  EXPECT_EQ(reads.code, 0) << "what only loads needs to write nothing";
  EXPECT_EQ(test::figures(f_.file("run")), test::from_step(test::figures(f_.file("whole")), 3));
}

// Links among checkpoints, and in their folder's place, are no way into a circle.
TEST_F(StorageLimits, LinksToThemselvesAreRefusedOrPassedOver) {
  fs::create_directory(f_.file("a"));
  fs::create_directory_symlink(f_.file("loop"), f_.file("loop"));
  EXPECT_THAT(test::error_of([&] { test::train_on(2, run("loop/run")); }),
              AllOf(HasSubstr("job.dump_folder = " + f_.file("loop/run")),
                    HasSubstr("Too many levels of symbolic links")));
  const std::string folder = f_.file("run/checkpoint");
  fs::create_directories(folder);
  fs::create_directory_symlink("step-4", folder + "/step-4");
  fs::create_directory_symlink("..", folder + "/step-3");  // the run's folder
  fs::create_directory_symlink("step-9.partial", folder + "/step-9.partial");
  const test::WholeRun first = test::train_on(2, run("run", {"--training.steps=2"}));
  EXPECT_EQ(first.code, 0);
  const test::WholeRun next = test::train_on(2, run("run"));
  EXPECT_EQ(next.code, 0);
  EXPECT_THAT(next.log, HasSubstr("Resuming after step 2 from "));
  EXPECT_TRUE(fs::is_directory(fs::symlink_status(folder + "/step-4"))) << "a checkpoint now";
  EXPECT_TRUE(exists(folder + "/step-4/manifest.json"));
  EXPECT_TRUE(exists(f_.file("run/metrics.jsonl")));
}

}  // namespace
}  // namespace nereus
