// The lines of a text file, read a block at a time: a file of any size takes the memory of its
// longest line.
//
// Errors: Error{kConfig} when the file cannot be opened, Error{kIo} when it cannot be read on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nereus::report {

class FileLines {
 public:
  // Bytes behind every line that may be read, as simdjson does.
  static constexpr size_t kPadding = 64;
  // What is longer is no line of a log or of metrics: it is passed over.
  static constexpr size_t kLongest = size_t{1} << 23;

  // From `offset` bytes after the start.
  explicit FileLines(const std::string& path, int64_t offset = 0);
  ~FileLines();
  FileLines(const FileLines&) = delete;
  FileLines& operator=(const FileLines&) = delete;

  // The next line, without its end (\n or \r\n); it lives until the next call. False: no more.
  bool next(std::string_view& line);

  // Of the line that next() gave last: did a newline end it? A writer may be in the middle of it.
  bool whole() const { return whole_; }
  // Where the next line begins, in bytes.
  int64_t offset() const { return offset_; }

 private:
  bool fill();  // more of the file behind what is there; false at its end

  std::string path_;
  int file_ = -1;
  std::vector<char> buffer_;
  size_t begin_ = 0, end_ = 0;  // of what is read and was not given yet
  int64_t offset_ = 0;
  bool whole_ = true, at_end_ = false;
};

}  // namespace nereus::report
