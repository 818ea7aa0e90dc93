// The folder that a conversion fills: FOLDER.partial until it is complete, then FOLDER. A
// conversion that was interrupted finds its files there and goes on; what says whether they are its
// own is conversion.json, with everything that the result depends on.
//
// Errors: kConfig for a place that is taken, kIo while writing.
#pragma once

#include <cstdint>
#include <string>

namespace nereus {

class ConversionFolder {
 public:
  // `what`: a JSON object, the same for conversions whose files are the same. Refuses a `place`
  // that has something in it, and a partial folder of something else or in use by another process;
  // one of another conversion is emptied, and said.
  ConversionFolder(const std::string& place, const std::string& what);
  // Ends the hold. The files stay; without any the folder does not.
  ~ConversionFolder();
  ConversionFolder(const ConversionFolder&) = delete;
  ConversionFolder& operator=(const ConversionFolder&) = delete;

  const std::string& path() const { return path_; }  // of the partial folder
  bool resumed() const { return resumed_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  void write(const std::string& name, const std::string& contents) const;
  void remove(const std::string& name) const;

  // Of its file system; INT64_MAX where it does not say.
  int64_t free_bytes() const;

  // All files are there: the folder gets its name.
  void finish();

 private:
  void begin_anew(const std::string& what) const;

  std::string place_, path_;
  bool resumed_ = false;
  int lock_ = -1;
};

}  // namespace nereus
