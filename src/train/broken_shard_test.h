// For tests of runs whose data set breaks in the middle: two shards, the second of them whole at
// its start and cut short at its end, and a run that comes there within a second.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "data/rows_test.h"
#include "test/test_tensor.h"

namespace nereus::test {

// In `folder`/data.
inline void write_shards_of_which_the_last_breaks(const TemporaryFolder& folder) {
  std::string text;
  // What is beside the text makes them longer than what is looked at before the start.
  for (int i = 0; i < 140; ++i) {
    std::string numbers;
    for (int k = 0; k < 12; ++k) numbers += std::to_string((i + k) * 7919) + " ";
    text += "{\"url\": \"" + std::string(400, 'x') + "\", \"text\": \"" + numbers + "\"}\n";
  }
  const std::string whole = gz(text);
  folder.write("data/a.json.gz", whole);
  folder.write("data/b.json.gz", whole.substr(0, whole.size() - 9));
}

// Arguments of `nereus train`; `cases` is tests/golden/cases/.
inline std::vector<std::string> run_on_these_shards(const TemporaryFolder& folder,
                                                    const std::string& cases) {
  return {cases + "minimal.toml",
          "--model.hf_assets_path=" + cases + "eos_of_config",
          "--training.dataset_path=" + folder.file("data"),
          "--training.seq_len=128",
          "--training.local_batch_size=8",
          "--lr_scheduler.decay_ratio=0",
          "--checkpoint.enable",
          "--checkpoint.no_last_save_model_only"};
}

// The name of the one file or folder in `folder`; "" when there is another number of them.
inline std::string only_entry(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    names.push_back(entry.path().filename().string());
  EXPECT_EQ(names.size(), 1u) << folder;
  return names.size() == 1 ? names[0] : "";
}

}  // namespace nereus::test
