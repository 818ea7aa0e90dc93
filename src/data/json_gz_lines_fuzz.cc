// Any bytes as a shard of a text data set, compressed and not: rows of tokens of the vocabulary, or
// one Error of the user.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/check.h"
#include "base/log.h"
#include "data/row_source.h"
#include "test/fuzz.h"

namespace {

using namespace nereus;

void read_all(const std::string& path) {
  constexpr int64_t kSeqLen = 3;
  try {
    const auto source =
        data::text_rows({.dataset = "fuzz",
                         .path = path,
                         .workers = 1,
                         .loop = false,
                         .vocab_size = 256,
                         .make_encoder =
                             [] {
                               return [](std::string_view text, std::vector<int32_t>& ids) {
                                 for (const char c : text)
                                   ids.push_back(static_cast<unsigned char>(c));
                               };
                             }},
                        {.seq_len = kSeqLen});
    std::vector<int32_t> inputs(kSeqLen), labels(kSeqLen);
    while (source->next(1, inputs, labels) == 1)
      for (const int32_t id : labels) NEREUS_CHECK(kContract, id >= 0 && id < 256, "id {}", id);
  } catch (const Error& e) {
    NEREUS_CHECK(kContract, e.fault() == Fault::kConfig || e.fault() == Fault::kIo,
                 "neither the user's fault nor the file's: {}", e.what());
  }
}

}  // namespace

NEREUS_FUZZ(json_gz_lines, data) {
  const log::Capture quiet;
  const std::string base =
      std::filesystem::temp_directory_path() / ("nereus-fuzz-" + std::to_string(getpid()));
  for (const char* ending : {".json", ".json.gz"}) {
    const std::string path = base + ending;
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(data.data()),
               static_cast<std::streamsize>(data.size()));
    read_all(path);
    std::remove(path.c_str());
  }
}
