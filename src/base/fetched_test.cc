#include "base/fetched.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Fetched, StandInsAreNamedWithTheRemedy) {
  const test::TemporaryFolder folder;
  const std::string file = folder.file("config.json");
  const auto said = [&](const std::string& text, const std::string& what) {
    folder.write("config.json", text);
    EXPECT_THAT([&] { read_fetched(file); }, ThrowsMessage<Error>(HasSubstr(file + what)));
  };
  said("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
       ": this is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`");
  for (const char* page : {"<!DOCTYPE html><html>", "\n <html lang=\"en\">", "\xEF\xBB\xBF<HTML>",
                           "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>"})
    said(page, ": this is a web page, not the file itself");
  said("", ": is empty; download or copy it again");
  EXPECT_THAT([&] { read_fetched(folder.file("none")); },
              ThrowsMessage<Error>(HasSubstr("none: cannot be read: No such file or directory")));
  EXPECT_THAT([&] { read_fetched(folder.path()); },
              ThrowsMessage<Error>(HasSubstr("cannot be read: Is a directory")));
}

TEST(Fetched, AFileIsReadWhole) {
  const test::TemporaryFolder folder;
  const std::string text = "{\"a\": \"<html>\"}\n" + std::string(1000, ' ');
  EXPECT_EQ(read_fetched(folder.write("a.json", text)), text);
  // The length of a header of safetensors.
  EXPECT_FALSE(is_web_page(std::string("<!\0\0\0\0\0\0{\"a\"", 12)));
  EXPECT_FALSE(is_lfs_pointer("version"));
}

}  // namespace
}  // namespace nereus
