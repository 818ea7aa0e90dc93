#include "recipe/install_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "recipe/installation_test.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;
using test::read_file;
using testing::ElementsAre;
using testing::HasSubstr;

class InstallFiles : public testing::Test {
 protected:
  InstallFiles() {
    root_.write("from/a.toml", "new a");
    root_.write("from/below/b.toml", "new b");
  }
  // Names of all files and folders below, in order.
  std::vector<std::string> names(const std::string& below) const {
    std::vector<std::string> out;
    for (const auto& entry : fs::recursive_directory_iterator(root_.file(below)))
      out.push_back(entry.path().lexically_relative(root_.file(below)).string());
    std::sort(out.begin(), out.end());
    return out;
  }
  void copy() const { copy_folder(root_.file("from"), root_.file("place/to")); }

  test::TemporaryFolder root_;
};

TEST_F(InstallFiles, AFolderBecomesTheOtherOneAndWhatIsStaleGoes) {
  root_.write("place/to/a.toml", "old a");
  root_.write("place/to/below/stale.toml", "old");
  root_.write("place/to/stale/c.toml", "old");
  copy();
  EXPECT_THAT(names("place"), ElementsAre("to", "to/a.toml", "to/below", "to/below/b.toml"));
  EXPECT_EQ(read_file(root_.file("place/to/a.toml")), "new a");
  copy();
  EXPECT_THAT(names("place"), ElementsAre("to", "to/a.toml", "to/below", "to/below/b.toml"));
}

TEST_F(InstallFiles, ACopyThatFailsLeavesTheOldFolderAlone) {
  root_.write("place/to/old.toml", "old");
  fs::create_symlink("nowhere", root_.file("from/below/lost"));
  EXPECT_THAT(refusal([&] { copy(); }),
              AllOf(HasSubstr(root_.file("from/below/lost") + " cannot be copied to "),
                    HasSubstr(": No such file or directory.")));
  EXPECT_THAT(names("place"), ElementsAre("to", "to/old.toml"));
  EXPECT_EQ(read_file(root_.file("place/to/old.toml")), "old");
  // Nor is there a first half where there was nothing.
  fs::remove_all(root_.file("place/to"));
  EXPECT_THAT(refusal([&] { copy(); }), HasSubstr("from/below/lost cannot be copied"));
  EXPECT_THAT(names("place"), ElementsAre());
}

TEST_F(InstallFiles, AFileThatCannotBeCopiedLeavesNothing) {
  root_.write("place/to", "old");
  EXPECT_THAT(refusal([&] { copy_file(root_.file("from/none"), root_.file("place/to")); }),
              HasSubstr("from/none cannot be copied to "));
  // Nor does one that was copied and has no place to go.
  fs::create_directory(root_.file("place/sub"));
  EXPECT_THAT(refusal([&] { copy_file(root_.file("from/a.toml"), root_.file("place/to/x")); }),
              HasSubstr("Not a directory"));
  EXPECT_THAT(names("place"), ElementsAre("sub", "to"));
  EXPECT_EQ(read_file(root_.file("place/to")), "old");
}

TEST_F(InstallFiles, LinksFilesAndFoldersGiveWayToEachOther) {
  const std::string to = root_.file("place/to"), target = root_.file("from/a.toml");
  root_.write("place/to/old.toml", "old");
  make_link(root_.file("from"), to);
  EXPECT_EQ(fs::read_symlink(to), root_.file("from"));
  copy();  // a link to the folder itself is no copy of it
  EXPECT_FALSE(fs::is_symlink(to));
  EXPECT_EQ(read_file(to + "/below/b.toml"), "new b");
  copy_file(target, to);
  EXPECT_EQ(read_file(to), "new a");
  copy();
  EXPECT_TRUE(fs::is_directory(to));
  fs::remove_all(to);
  make_link(target, to);
  make_link(root_.file("from/below/b.toml"), to);
  EXPECT_EQ(fs::read_symlink(to), root_.file("from/below/b.toml"));
  EXPECT_EQ(read_file(target), "new a");
  EXPECT_THAT(names("place"), ElementsAre("to"));
  EXPECT_THAT(names("from"), ElementsAre("a.toml", "below", "below/b.toml"));
}

TEST_F(InstallFiles, AFolderThatIsReadOnlyIsCopied) {
  fs::permissions(root_.file("from/below"), fs::perms::owner_read | fs::perms::owner_exec);
  copy();
  fs::permissions(root_.file("from/below"), fs::perms::owner_all);
  EXPECT_EQ(fs::status(root_.file("place/to/below")).permissions() & fs::perms::owner_write,
            fs::perms::owner_write);
}

TEST_F(InstallFiles, TheFileItselfIsLeftAlone) {
  const std::string a = root_.file("from/a.toml");
  copy_file(a, a);
  copy_folder(root_.file("from"), root_.file("from/../from"));
  EXPECT_THAT(names("from"), ElementsAre("a.toml", "below", "below/b.toml"));
}

}  // namespace
}  // namespace nereus::recipe
