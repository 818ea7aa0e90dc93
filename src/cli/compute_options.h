// What one rank computes with: the options of commands that take no configuration. For .cc files
// only.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <thread>

#include "cli/device_choice.h"
#include "config/choice_of.h"
#include "tensor/dtype.h"

namespace nereus {

class ComputeOptions {
 public:
  void add_to(CLI::App& app) {
    app.add_option("--dtype", dtype_, "float32 or bfloat16")
        ->check(CLI::IsMember({"float32", "bfloat16"}))
        ->capture_default_str();
    app.add_option("--device", device_, "auto, cpu or cuda")
        ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
        ->capture_default_str();
    app.add_option("--threads", threads_, "compute threads; 0: as many as cores")
        ->check(CLI::Range(0, 4096));
  }

  DType dtype() const { return value_of<DType>(dtype_).value(); }
  Device device() const { return choose_device(value_of<DeviceChoice>(device_).value()); }
  int threads() const {
    return threads_ > 0 ? threads_
                        : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }

 private:
  std::string dtype_ = "float32", device_ = "auto";
  int threads_ = 0;
};

}  // namespace nereus
