// Replacing a file so that a reader finds the old contents or the new ones, never a part of them:
// the new contents are written under a second name in the same folder, which is then renamed.
//
// Whatever goes wrong (a full disk, a folder that cannot be written to, an exception), the old file
// stays as it was and the second name is removed. Only a process that is killed leaves it behind.
// Functions return what the system reported, an empty code for success: what the user is told
// differs from caller to caller.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

namespace nereus {

struct ReplaceOptions {
  std::string suffix = ".partial";  // of the second name
  mode_t mode = 0666;               // of the new file, less the umask
  bool sync = false;                // on the disk before it is renamed, and the rename too
};

// Makes `contents` the contents of `path`.
[[nodiscard]] std::error_code replace_file(const std::string& path, std::string_view contents,
                                           const ReplaceOptions& options = {});

// The suffix of a second name that no other process uses: ".PID.new".
std::string suffix_of_process();

// Puts what is at `from` in the place of `to`, in the same folder, for what no single rename can
// replace: a folder with something in it. What was in the place is at `aside` then ("": nothing is
// in the place, or a rename replaces it). On an error it is in its place again, and `from` is where
// it was. The names are on the disk when this returns; the contents of files in `from` must have
// been before.
[[nodiscard]] std::error_code put_in_place(const std::string& from, const std::string& to,
                                           const std::string& aside);

// The same in steps, for contents that are written piece by piece. After a function has failed,
// call none but discard().
class AtomicFile {
 public:
  explicit AtomicFile(std::string path, const std::string& suffix = ".partial");
  ~AtomicFile() { discard(); }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // A new file under the second name; one that a killed process left there is removed.
  [[nodiscard]] std::error_code create(mode_t mode = 0666);
  // All of `bytes`, from `offset` bytes after the start of the file.
  [[nodiscard]] std::error_code write_at(int64_t offset, std::span<const std::byte> bytes);
  // Waits until the contents are on the disk; commit() then waits for the rename as well.
  [[nodiscard]] std::error_code sync();
  [[nodiscard]] std::error_code commit();  // closes and renames
  void discard();                          // closes and removes; nothing after commit()

  int fd() const { return fd_; }  // -1 unless created and neither committed nor discarded

 private:
  std::string path_, partial_;
  int fd_ = -1;
  bool synced_ = false;
};

// A second name for what other code writes (a library, a stream, a folder): its own to this
// process, and removed at both ends of this object's life with all that is in it, unless it was
// renamed.
class PartialPath {
 public:
  explicit PartialPath(std::string path);
  ~PartialPath();
  PartialPath(const PartialPath&) = delete;
  PartialPath& operator=(const PartialPath&) = delete;

  const std::string& path() const { return partial_; }  // the second name
  [[nodiscard]] std::error_code commit();               // renames

 private:
  std::string path_, partial_;
  bool committed_ = false;
};

}  // namespace nereus
