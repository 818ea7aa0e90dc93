#include <algorithm>
#include <filesystem>
#include <vector>

#include "base/check.h"
#include "base/philox.h"
#include "test/fuzz.h"
#include "test/test_tensor.h"

#ifndef NEREUS_LIBFUZZER
namespace nereus::test {

void replay_corpus(const char* name, void (*target)(std::span<const uint8_t>)) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry :
       std::filesystem::directory_iterator(source_path(std::string("tests/corpus/") + name)))
    files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  NEREUS_CHECK(kContract, !files.empty(), "tests/corpus/{} has no file", name);
  constexpr uint64_t kVariants = 200;  // of each file
  for (const auto& path : files) {
    const std::string text = read_file(path.string());
    const std::vector<uint8_t> whole(text.begin(), text.end());
    target(whole);
    for (uint64_t i = 0; i < kVariants && !whole.empty(); ++i) {
      const Philox4 r = philox(hash_name(name), i);
      target(std::span(whole).first(r.v[0] % whole.size()));
      std::vector<uint8_t> changed = whole;
      changed[r.v[1] % changed.size()] = static_cast<uint8_t>(r.v[2]);
      target(changed);
    }
  }
}

}  // namespace nereus::test
#endif
