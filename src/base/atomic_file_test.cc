#include "base/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <vector>

#include "test/test_tensor.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;

class AtomicFileTest : public testing::Test {
 protected:
  AtomicFileTest() { std::ofstream(path_) << "old"; }
  ~AtomicFileTest() override { fs::permissions(folder_.path(), fs::perms::owner_all); }

  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(folder_.path()))
      out.push_back(entry.path().filename().string());
    std::sort(out.begin(), out.end());
    return out;
  }
  void expect_untouched() const {
    EXPECT_EQ(test::read_file(path_), "old");
    EXPECT_EQ(names(), std::vector<std::string>{"file"});
  }

  const test::TemporaryFolder folder_;
  const std::string path_ = folder_.file("file");
};

// Files of this process can be no longer than `bytes`: writing more fails as on a full disk.
class ShortDisk {
 public:
  explicit ShortDisk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit small{.rlim_cur = bytes, .rlim_max = old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
  }
  ~ShortDisk() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }
  ShortDisk(const ShortDisk&) = delete;
  ShortDisk& operator=(const ShortDisk&) = delete;

 private:
  rlimit old_{};
  void (*handler_)(int);
};

TEST_F(AtomicFileTest, ReplacesTheContentsAndLeavesNoOtherName) {
  for (const bool sync : {false, true}) {
    EXPECT_FALSE(replace_file(path_, sync ? "new, synced" : "new", {.sync = sync}));
    EXPECT_EQ(test::read_file(path_), sync ? "new, synced" : "new");
    EXPECT_EQ(names(), std::vector<std::string>{"file"});
  }
  EXPECT_FALSE(replace_file(path_, ""));
  EXPECT_EQ(test::read_file(path_), "");
}

TEST_F(AtomicFileTest, GivesTheNewFileTheModeThatWasAskedFor) {
  std::ofstream(path_ + ".partial") << "of a process that was killed, readable by all";
  EXPECT_FALSE(replace_file(path_, "secret", {.mode = 0600}));
  struct stat file {};
  ASSERT_EQ(::stat(path_.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600U);
  EXPECT_EQ(test::read_file(path_), "secret");
  EXPECT_EQ(names(), std::vector<std::string>{"file"});
}

TEST_F(AtomicFileTest, LeavesTheOldFileWhenTheDiskIsFull) {
  const ShortDisk disk(1000);
  EXPECT_EQ(replace_file(path_, std::string(1001, 'x')), std::errc::file_too_large);
  expect_untouched();
  EXPECT_FALSE(replace_file(path_, std::string(1000, 'x')));
  EXPECT_EQ(test::read_file(path_), std::string(1000, 'x'));
}

TEST_F(AtomicFileTest, LeavesTheOldFileWhenTheFolderCannotBeWrittenTo) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write to every folder";
  fs::permissions(folder_.path(), fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_EQ(replace_file(path_, "new"), std::errc::permission_denied);
  expect_untouched();
}

TEST_F(AtomicFileTest, ReportsWhatCannotBeCreatedOrRenamed) {
  EXPECT_EQ(replace_file(folder_.file("none/file"), "new"), std::errc::no_such_file_or_directory);
  EXPECT_EQ(replace_file(path_ + "/file", "new"), std::errc::not_a_directory);
  EXPECT_EQ(replace_file(folder_.path(), "new"), std::errc::is_a_directory);  // the rename fails
  EXPECT_FALSE(fs::exists(folder_.path() + ".partial"));
  expect_untouched();
}

TEST_F(AtomicFileTest, ThatIsNotCommittedLeavesNothing) {
  {
    AtomicFile file(path_);
    ASSERT_FALSE(file.create());
    const std::string text = "new";
    ASSERT_FALSE(file.write_at(3, std::as_bytes(std::span(text))));
    EXPECT_EQ(names(), (std::vector<std::string>{"file", "file.partial"}));
  }
  expect_untouched();
}

TEST_F(AtomicFileTest, AFolderTakesTheOldOnesPlaceOrLeavesItThere) {
  folder_.write("old/a", "old");
  folder_.write("new/a", "new");
  const std::string place = folder_.file("old"), aside = folder_.file("aside");
  EXPECT_EQ(put_in_place(folder_.file("none"), place, aside), std::errc::no_such_file_or_directory);
  EXPECT_EQ(names(), (std::vector<std::string>{"file", "new", "old"}));
  EXPECT_EQ(test::read_file(place + "/a"), "old");
  EXPECT_EQ(put_in_place(folder_.file("new"), place, ""), std::errc::directory_not_empty);
  EXPECT_EQ(put_in_place(folder_.file("new"), place, folder_.file("none/aside")),
            std::errc::no_such_file_or_directory);
  EXPECT_EQ(test::read_file(place + "/a"), "old");
  EXPECT_FALSE(put_in_place(folder_.file("new"), place, aside));
  EXPECT_EQ(names(), (std::vector<std::string>{"aside", "file", "old"}));
  EXPECT_EQ(test::read_file(place + "/a"), "new");
  EXPECT_EQ(test::read_file(aside + "/a"), "old");
  EXPECT_FALSE(put_in_place(aside, folder_.file("free"), ""));
  EXPECT_EQ(test::read_file(folder_.file("free/a")), "old");
}

TEST_F(AtomicFileTest, PartialPathIsRemovedUnlessItIsCommitted) {
  {
    const PartialPath partial(path_);
    fs::create_directories(partial.path() + "/below");
  }
  expect_untouched();
  {
    PartialPath partial(path_);
    std::ofstream(partial.path()) << "new";
    EXPECT_FALSE(partial.commit());
    EXPECT_EQ(names(), std::vector<std::string>{"file"});
    std::ofstream(partial.path()) << "another's";  // no longer this object's
  }
  EXPECT_EQ(test::read_file(path_), "new");
  EXPECT_EQ(names().size(), 2U);
}

}  // namespace
}  // namespace nereus
