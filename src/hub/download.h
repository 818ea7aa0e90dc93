// Files of a repository into a folder, under the repository's own paths.
//
// A file is downloaded as NAME.<checksum>.partial, checked against the hub's checksum, and renamed,
// so that a file with its final name is complete. A partial file is resumed, also by a later call.
// Several files are downloaded at a time.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hub/repository.h"

namespace nereus::hub {

struct DownloadRequest {
  Repository repository;
  std::string folder;
  // Shell patterns over whole paths, where * also matches /; a path without * ? [ must be there.
  std::vector<std::string> include;
  std::vector<std::string> exclude = {};
  bool verify = false;  // files that are there are read again; small ones always are
  int workers = 4;
  RetryPolicy retry = {};
  HttpTimeouts timeouts = {};
};

struct DownloadPlan {
  std::string commit;
  std::vector<RepoFile> files;    // all that match, sorted
  std::vector<RepoFile> missing;  // of them, what is not there whole
  int64_t bytes = 0;              // of all
  int64_t missing_bytes = 0;      // still to come
};

struct DownloadProgress {
  int64_t bytes = 0, of_bytes = 0;  // of the missing ones
  size_t files = 0, of_files = 0;
  std::string finished;  // path of the file that has just become whole; else empty
};

using DownloadReport = std::function<void(const DownloadProgress&)>;

// Asks the hub and looks into the folder; writes nothing. Throws Error{kConfig} when nothing
// matches, a named file is not there, or the folder's file system has not the space.
DownloadPlan plan_download(const HubSettings&, const DownloadRequest&);

// Throws Error{kComm} when the network fails, Error{kIo} when the disk does, Error{kConfig} when
// the folder cannot be written to. What was received is kept for the next call. `report` is called
// by one thread at a time.
void run_download(const HubSettings&, const DownloadRequest&, const DownloadPlan&,
                  const DownloadReport& report);

}  // namespace nereus::hub
