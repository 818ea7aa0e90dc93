// Folders with files of a run, for tests.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/check.h"
#include "report/run.h"

namespace nereus::report::test {

class RunFiles : public ::testing::Test {
 protected:
  using Run = report::Run;  // and not testing::Test's
  RunFiles() { std::filesystem::remove_all(folder_); }
  ~RunFiles() override {
    std::error_code error;  // a browser may be writing its last files yet
    std::filesystem::remove_all(folder_, error);
  }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  std::string write(const std::string& name, std::string_view text) const {
    const std::filesystem::path file = path(name);
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << text;
    return file.string();
  }

  // A step of one second of 1000 tokens on each of two ranks.
  static std::string step(int64_t n, double loss, double seconds = 1) {
    return fmt::format(
        "{{\"step\":{},\"loss\":{},\"grad_norm\":1.5,\"lr\":0.001,\"tps\":{},\"tflops\":10.0,"
        "\"mfu\":null,\"step_seconds\":{},\"data_seconds\":0.01,\"tokens_seen\":{},"
        "\"expert_overflows\":0}}\n",
        n, loss, 1000 / seconds, seconds, 2000 * n);
  }
  static std::string steps(int64_t first, int64_t last, double seconds = 1) {
    std::string out;
    for (int64_t n = first; n <= last; ++n)
      out += step(n, 10 - 0.01 * static_cast<double>(n), seconds);
    return out;
  }

  const std::string folder_ = testing::TempDir() + "report_" +
                              testing::UnitTest::GetInstance()->current_test_info()->name();
};

}  // namespace nereus::report::test
