// Lines of a list of text files, gz-compressed or not, one after the other in constant memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace nereus::data {

// The shards of a data set: path itself, or the *.json.gz, *.jsonl.gz, *.json and *.jsonl files of
// it or its en/, in order of their names. If there are C4 names, only those of `split` ("train",
// "validation") are taken; training shards never serve as "validation". Throws Error{kConfig} that
// names the folder, and the key that named it, when there are none.
std::vector<std::string> find_shards(const std::string& path, const std::string& split,
                                     const std::string& path_key = "training.dataset_path");

class LineReader {
 public:
  // A longer line is cut there, so that a file without line ends does not fill the memory. (Cut
  // JSON is a broken line.)
  static constexpr size_t kLongestLine = size_t{64} << 20;

  // Begins after `lines` lines of files[file].
  explicit LineReader(std::vector<std::string> files, size_t file = 0, int64_t lines = 0);
  ~LineReader();

  // The next line, without its end; false after the last one of the last file. Throws
  // Error{kConfig} for a file that cannot be read, or is no gz, truncated or corrupt, or has fewer
  // lines than were to be skipped.
  bool next(std::string& line);

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
  int64_t line_ = 0;
  std::unique_ptr<Input> input_;
  std::string buffer_;
  size_t at_ = 0;  // in buffer_
};

}  // namespace nereus::data
