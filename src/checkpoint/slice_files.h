// The shards of a checkpoint for reading at any place; each is opened when it is needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "checkpoint/manifest.h"

namespace nereus {

class SliceFiles {
 public:
  // The manifest must outlive this.
  SliceFiles(std::string folder, const Manifest& m) : folder_(std::move(folder)), files_(m.files) {}
  ~SliceFiles() { close_all(); }
  SliceFiles(const SliceFiles&) = delete;
  SliceFiles& operator=(const SliceFiles&) = delete;

  // Throws Error{kIo}: it cannot be read, or ends too early.
  void read(int32_t file, int64_t offset, int64_t bytes, std::byte* to);
  std::string path(int32_t file) const;

 private:
  int open(int32_t file);
  void close_all();

  const std::string folder_;
  const std::vector<Manifest::File>& files_;
  std::map<int32_t, int> open_;
};

}  // namespace nereus
