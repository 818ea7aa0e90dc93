// The programs that tests open a run's files with (scripts/bootstrap.sh viewers). A test that needs
// one is skipped without it:
//
//   NEREUS_VIEWER(python, "python");
//   const std::string text = test::output_of(python + " script.py " + path);
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <string>

#include "test/test_tensor.h"

namespace nereus::test {

// "": it is not there.
inline std::string viewer(const std::string& name) {
  const std::string own = source_path(".cache/viewers/bin/" + name);
  if (std::filesystem::exists(own)) return own;
  const std::string other = "/usr/bin/" + name;
  return std::filesystem::exists(other) ? other : "";
}

// Of a command of the shell; a code other than 0 fails the test.
inline std::string output_of(const std::string& command) {
  std::string out;
  FILE* const pipe = ::popen(command.c_str(), "r");
  std::array<char, 4096> part{};
  for (size_t n = 0; (n = std::fread(part.data(), 1, part.size(), pipe)) > 0;)
    out.append(part.data(), n);
  EXPECT_EQ(::pclose(pipe), 0) << command << "\n" << out;
  return out;
}

}  // namespace nereus::test

#define NEREUS_VIEWER(variable, name)                        \
  const std::string variable = ::nereus::test::viewer(name); \
  if (variable.empty())                                      \
  GTEST_SKIP() << name << " is not there: scripts/bootstrap.sh viewers installs it"
