// A file that grows: lines or records are added at its end, each by one write(2), so that a killed
// process leaves at most its last one torn.
//
// Errors: Error{kIo} naming the file and what the system said.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

namespace nereus {

class AppendFile {
 public:
  // Made where it is not there.
  explicit AppendFile(std::string path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void write(std::string_view bytes);
  // A line; on a new one where what is there does not end a line, as after a kill.
  void write_line(std::string line);

  const std::string& path() const { return path_; }
  // Have both run out of the same space when one has? The file system's number.
  dev_t file_system() const { return file_system_; }
  // The last write failed for want of space, or of quota.
  bool out_of_space() const { return out_of_space_; }

 private:
  std::string path_;
  int fd_ = -1;
  dev_t file_system_ = 0;
  bool out_of_space_ = false, torn_ = false;
};

}  // namespace nereus
