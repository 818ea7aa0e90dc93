// A tar archive (POSIX ustar, with pax headers where a name or a number does not fit) through zstd.
//
// Written here instead of with libarchive: that library loads libxml2 and ICU, 40 MB, at every
// start of the program, and the format needs only two kinds of 512-byte blocks.
#pragma once

#include <sys/stat.h>

#include <fstream>
#include <memory>
#include <string>

struct ZSTD_CCtx_s;

namespace nereus::recipe {

class TarZst {
 public:
  // Level 5, all cores. Throws Error{kIo}, as the others do.
  explicit TarZst(const std::string& path);
  ~TarZst();
  TarZst(const TarZst&) = delete;
  TarZst& operator=(const TarZst&) = delete;

  void add_folder(const std::string& name);
  // A file, a folder (without what is in it) or a symbolic link, as `source` is now; others are
  // left out. A file that shrinks while it is read is filled with zeros. False, and nothing is
  // added, when it is not there.
  bool add(const std::string& source, const std::string& name);
  void finish();

 private:
  void header(const std::string& name, const std::string& link, char type, const struct stat& info);
  void block(std::string text);  // padded to 512 bytes
  void write(const char* data, size_t size, bool last = false);

  std::string path_;
  std::ofstream out_;
  std::unique_ptr<ZSTD_CCtx_s, size_t (*)(ZSTD_CCtx_s*)> zstd_;
  std::string buffer_;
};

}  // namespace nereus::recipe
