// Decompresses a gz stream piece by piece: ISA-L where it is there, else zlib.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace nereus::data {

// The members of a gz file, one after the other, as many as there are. Zeros after a member are
// padding.
class Gunzip {
 public:
  explicit Gunzip(std::string path);  // for messages
  ~Gunzip();

  // Consumes bytes from the front of `in` until it is empty or `out` is full, and returns how many
  // were written; 0 with an empty `in` means that more input is needed. Throws Error{kIo} with
  // the file and the offset when the data is not gz, is corrupt or has a wrong checksum.
  size_t run(std::span<const std::byte>& in, std::span<std::byte> out);

  // At the end of the file: throws Error{kIo} when the last member is not whole.
  void finish() const;

 private:
  struct State;  // the library's
  std::unique_ptr<State> state_;
  std::string path_;
  int64_t taken_ = 0;  // compressed bytes
  bool any_ = false;   // has a member begun?
  bool within_ = false;
};

}  // namespace nereus::data
