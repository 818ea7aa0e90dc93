// Which files a configuration's data sets are: one answer for the run and for what --dry-run says.
#pragma once

#include <string>

#include "config/job_config.h"

namespace nereus {

struct DataSet {
  std::string section;  // training or validation
  std::string name;     // c4, c4_test, c4_validation, tokens or random
  std::string path;   // a file or a folder, which may not be there; "" for random, or none is named
  std::string split;  // of a folder whose files have C4's names: train or validation

  bool has_files() const { return name != "random"; }
  bool is_text() const { return has_files() && name != "tokens"; }
  std::string path_key() const { return section + ".dataset_path"; }
  // Throws Error{kConfig} when none is named, with what is needed.
  void require_path() const;
};

// Throw Error{kConfig} for a name that is not known.
DataSet training_set(const JobConfig&);
DataSet validation_set(const JobConfig&);

}  // namespace nereus
