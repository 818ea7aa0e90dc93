// A subcommand as its tests call it: words in; exit code, output or refusal out.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace nereus::test {

class Subcommand {
 public:
  using Run = int (*)(int argc, char** argv);
  Subcommand(std::string name, Run run) : name_(std::move(name)), run_(run) {}

  // The exit code of `nereus NAME ARGS`.
  int operator()(std::vector<std::string> args) const {
    args.insert(args.begin(), name_);
    std::vector<char*> argv;
    argv.reserve(args.size());
    for (std::string& arg : args) argv.push_back(arg.data());
    return run_(static_cast<int>(argv.size()), argv.data());
  }

  // What it prints on standard output; it must end with 0.
  std::string output(const std::vector<std::string>& args) const {
    testing::internal::CaptureStdout();
    try {
      EXPECT_EQ((*this)(args), 0);
    } catch (const std::exception& e) {
      ADD_FAILURE() << e.what();
    }
    return testing::internal::GetCapturedStdout();
  }

  // The message of a user's error.
  std::string refusal(const std::vector<std::string>& args) const {
    try {
      (*this)(args);
    } catch (const Error& e) {
      EXPECT_EQ(e.exit_code(), 2);
      return e.what();
    }
    return "no error";
  }

 private:
  std::string name_;
  Run run_;
};

}  // namespace nereus::test
