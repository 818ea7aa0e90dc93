// A repository of the hub: what files a revision has, with their checksums.
//
//   ENDPOINT/api/models/NAME/revision/REVISION        the commit
//   ENDPOINT/api/models/NAME/tree/COMMIT/FOLDER       its files, a page at a time
//   ENDPOINT/NAME/resolve/COMMIT/PATH                 a file; large ones lead elsewhere
//
// and the same with api/datasets and datasets/NAME.
#pragma once

#include <string>
#include <vector>

#include "hub/http.h"

namespace nereus::hub {

struct Repository {
  enum class Kind { model, dataset };
  Kind kind = Kind::model;
  std::string name;  // owner/name
  std::string revision = "main";
};

struct RepoFile {
  std::string path;  // below the repository, with /
  int64_t size = 0;
  std::string digest;  // hexadecimal
  bool lfs = false;    // digest is SHA-256; else git's blob name
  bool operator==(const RepoFile&) const = default;
};

// The commit that the revision is now. These throw Error{kConfig} for what the user can correct (no
// such repository, revision or folder, no access) and Error{kComm} when the hub does not answer.
std::string resolve_commit(HttpClient&, const HubSettings&, const Repository&, const RetryPolicy&);

// Files in `folder` ("" is the whole repository), below it too when `recursive`.
std::vector<RepoFile> list_files(HttpClient&, const HubSettings&, const Repository&,
                                 const std::string& commit, const std::string& folder,
                                 bool recursive, const RetryPolicy&);

std::string file_url(const HubSettings&, const Repository&, const std::string& commit,
                     const std::string& path);

// Throws the user's error for an answer that says no. `what` is the thing asked for.
[[noreturn]] void refuse(const HttpReply&, const HubSettings&, const Repository&,
                         const std::string& what);

}  // namespace nereus::hub
