#include "base/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Files, WhatCannotBeLookedAtIsNotThereAndSaysWhy) {
  const test::TemporaryFolder folder;
  const std::string file = folder.write("file", ""), loop = folder.file("loop");
  fs::create_symlink(loop, loop);
  fs::create_symlink(folder.path(), folder.file("link"));
  EXPECT_TRUE(is_there(file));
  EXPECT_FALSE(is_folder(file));
  EXPECT_TRUE(is_folder(folder.file("link")));
  EXPECT_EQ(what_is_at(file), "it is a file");
  EXPECT_EQ(what_is_at(folder.file("link")), "it is a folder");
  EXPECT_EQ(what_is_at("/dev/null"), "it is neither a file nor a folder");
  for (const auto& [path, what] : std::vector<std::pair<std::string, std::string>>{
           {folder.file("none"), "there is no such file or folder"},
           {file + "/below", "there is no such file or folder"},
           {loop, "Too many levels of symbolic links"},
           {folder.file(std::string(300, 'x')), "File name too long"}}) {
    EXPECT_FALSE(is_there(path)) << path;
    EXPECT_FALSE(is_folder(path)) << path;
    EXPECT_EQ(what_is_at(path), what) << path;
  }
}

TEST(Files, AFoldersEntriesAreAllOrAnError) {
  const test::TemporaryFolder folder;
  std::error_code error;
  EXPECT_TRUE(entries_of(folder.path(), error).empty());
  EXPECT_FALSE(error);
  folder.write("a", "");
  folder.write("b/c", "");
  std::vector<std::string> names;
  for (const fs::directory_entry& e : entries_of(folder.path(), error))
    names.push_back(e.path().filename().string());
  EXPECT_FALSE(error);
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(entries_of(folder.file("none"), error).empty());
  EXPECT_EQ(error, std::errc::no_such_file_or_directory);
}

TEST(Files, APathFromAFolderThatIsGoneIsNamed) {
  EXPECT_EQ(absolute_path("/a/./b/../c"), "/a/c");
  const std::string here = fs::current_path().string();
  EXPECT_EQ(absolute_path("a"), here + "/a");
  {
    const test::TemporaryFolder gone;
    fs::current_path(gone.path());
  }
  EXPECT_THAT([] { absolute_path("a"); },
              ThrowsMessage<Error>(HasSubstr("a: it has no place: the folder that this program was "
                                             "started in: No such file or directory")));
  fs::current_path(here);
}

}  // namespace
}  // namespace nereus
