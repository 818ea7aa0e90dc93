// Lines of a list of text files, gz-compressed or not, one after the other in constant memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace nereus::data {

class LineReader {
 public:
  // A longer line is cut there, so that a file without line ends does not fill the memory. (Cut
  // JSON is a broken line.)
  static constexpr size_t kLongestLine = size_t{64} << 20;

  // Called with each file before it is read; may throw.
  using Check = std::function<void(const std::string& file)>;
  // Begins after `lines` lines of files[file].
  explicit LineReader(std::vector<std::string> files, size_t file = 0, int64_t lines = 0,
                      Check check = {});
  ~LineReader();

  // The next line, without its end; false after the last one of the last file. Throws Error{kIo}
  // for a file that cannot be read, or is truncated or corrupt as gz, and Error{kConfig} for one
  // that has fewer lines than were to be skipped.
  bool next(std::string& line);
  // Passes over the rest of the file; false at the last one.
  bool next_file();

  size_t file_index() const { return file_; }    // of the last line
  int64_t line_number() const { return line_; }  // in its file, from 1
  const std::string& file() const { return files_[file_]; }

 private:
  struct Input;
  bool fill();                      // more bytes into buffer_; false at the end of the file
  bool next_of_file(std::string&);  // false at the end of the file

  std::vector<std::string> files_;
  size_t file_;
  int64_t skip_;  // lines to skip in the file that is opened first
  Check check_;
  int64_t line_ = 0;
  std::unique_ptr<Input> input_;
  std::string buffer_;
  size_t at_ = 0;  // in buffer_
};

}  // namespace nereus::data
