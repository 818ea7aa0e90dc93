// Runs that are interrupted and go on, in tests.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "test/test_tensor.h"
#include "train/whole_run_test.h"

namespace nereus::test {

// Six steps, with everything saved after each second one.
inline Arguments saving_run(const std::string& folder, const Arguments& more = {}) {
  return small_model(folder) + Arguments{"--training.steps=6",
                                         "--training.global_batch_size=8",
                                         "--training.local_batch_size=1",
                                         "--optimizer.lr=1e-3",
                                         "--lr_scheduler.warmup_steps=2",
                                         "--checkpoint.enable",
                                         "--checkpoint.interval=2",
                                         "--checkpoint.no_last_save_model_only"} +
         more;
}

// step: what metrics.jsonl says of it, times left out.
struct Figures {
  double loss = 0, grad_norm = 0, lr = 0;
  int64_t tokens = 0;
  bool operator==(const Figures&) const = default;
};
inline void PrintTo(const Figures& f, std::ostream* out) {
  *out << f.loss << " " << f.grad_norm << " " << f.lr << " " << f.tokens;
}
inline std::map<int64_t, Figures> figures(const std::string& folder) {
  std::map<int64_t, Figures> out;
  std::istringstream in(read_file(folder + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);) {
    const auto m = nlohmann::json::parse(line);
    if (m.contains("loss")) out[m["step"]] = {m["loss"], m["grad_norm"], m["lr"], m["tokens_seen"]};
  }
  return out;
}
inline std::map<int64_t, Figures> from_step(std::map<int64_t, Figures> all, int64_t first) {
  all.erase(all.begin(), all.lower_bound(first));
  return all;
}

inline std::string step_of(const std::string& folder, int64_t step) {
  return folder + "/checkpoint/step-" + std::to_string(step);
}
inline bool exists(const std::string& path) { return std::filesystem::exists(path); }
// A folder with one checkpoint of another folder's, as a run that was killed leaves it.
inline void copy_step(const std::string& from, int64_t step, const std::string& to) {
  std::filesystem::create_directories(to + "/checkpoint");
  std::filesystem::copy(step_of(from, step), step_of(to, step),
                        std::filesystem::copy_options::recursive);
}

// All bytes of a checkpoint's shards.
inline std::string shards(const std::string& folder, int64_t step) {
  std::map<std::string, std::string> files;
  for (const auto& e : std::filesystem::directory_iterator(step_of(folder, step)))
    if (e.path().extension() == ".safetensors")
      files[e.path().filename()] = read_file(e.path().string());
  std::string all;
  for (const auto& [name, bytes] : files) all += name + bytes;
  return all;
}

inline std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace nereus::test
