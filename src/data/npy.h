// NumPy's .npy files of integers (format 1.0 to 3.0), one dim or more, C order, little endian.
#pragma once

#include <cstdint>
#include <fstream>
#include <span>
#include <string>

namespace nereus::data {

// Opening reads the header only. Throws Error{kConfig} that names the file and what is wrong.
class NpyFile {
 public:
  explicit NpyFile(const std::string& path);

  int64_t count() const { return count_; }  // elements
  // Elements [begin, begin + out.size()) of the flattened array.
  void read(int64_t begin, std::span<int64_t> out);

 private:
  std::string path_;
  std::ifstream in_;
  int64_t data_ = 0;  // offset of the first element
  int64_t count_ = 0;
  int width_ = 0;  // bytes of an element
  bool signed_ = false;
  std::string raw_;
};

}  // namespace nereus::data
