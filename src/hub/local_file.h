// A file of a repository in the local folder: whole, partial or absent.
#pragma once

#include <span>
#include <string>

#include "hub/digest.h"
#include "hub/repository.h"

namespace nereus::hub {

class LocalFile {
 public:
  LocalFile(const std::string& folder, const RepoFile& file);

  // There under its name with its size and, if `read`, with its checksum.
  bool is_whole(bool read) const;
  int64_t partial_bytes() const;  // 0 when there is no partial file
  const std::string& path() const { return path_; }
  const std::string& partial() const { return partial_; }

 private:
  std::string path_, partial_;
  RepoFile file_;
};

// Writes the partial file, and gives it its name when it is complete. Errors: kConfig when the
// folder cannot be written to, kIo when the disk is full or fails.
class FileWriter {
 public:
  FileWriter(const LocalFile& local, const RepoFile& file);  // takes up what is there
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  int64_t offset() const { return offset_; }
  void restart();  // from the first byte
  void add(std::span<const std::byte> bytes);
  std::string digest() const { return digest_.hex(); }
  void finish();   // synchronised and renamed
  void discard();  // the partial file is removed

 private:
  const LocalFile& local_;
  Digest digest_;
  int64_t offset_ = 0;
  int fd_ = -1;
};

}  // namespace nereus::hub
