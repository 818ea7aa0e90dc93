// Checksums of files as the hub names them: SHA-256 of large files (LFS), git's blob name (SHA-1 of
// "blob SIZE\0" and the bytes) of all others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace nereus::hub {

class Digest {
 public:
  enum class Kind { sha256, git_blob };
  Digest(Kind kind, int64_t size);
  ~Digest();
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  void restart();
  void add(std::span<const std::byte> bytes);
  std::string hex() const;  // of what was added so far

 private:
  Kind kind_;
  int64_t size_;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nereus::hub
