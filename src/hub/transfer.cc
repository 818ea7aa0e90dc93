#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "base/text.h"
#include "hub/download.h"
#include "hub/local_file.h"

namespace nereus::hub {
namespace {

namespace fs = std::filesystem;

// One download at a time in a folder: two would write the same partial files.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (!error) fd_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    NEREUS_CHECK(kConfig, fd_ >= 0,
                 "{}: cannot be made or opened: {}. Choose a folder that you may write to.", folder,
                 error ? error.message() : std::strerror(errno));
    // On a file system without locks there is none.
    const bool taken = ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (taken) ::close(fd_);
    NEREUS_CHECK(kConfig, !taken,
                 "{}: another `nereus download` is at work there. Wait for its end.", folder);
  }
  ~FolderLock() { ::close(fd_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

struct Stopped {};  // another thread has failed

// Links of the hub to another host that in a row may be refused there.
constexpr int kExpiredLinks = 3;

class Transfer {
 public:
  Transfer(const HubSettings& settings, const DownloadRequest& request, const DownloadPlan& plan,
           const DownloadReport& report)
      : settings_(settings), request_(request), plan_(plan), report_(report) {
    progress_.of_bytes = plan.missing_bytes;
    progress_.of_files = plan.missing.size();
  }

  void run() {
    const FolderLock lock(request_.folder);
    const size_t n =
        std::min(static_cast<size_t>(std::max(1, request_.workers)), plan_.missing.size());
    std::vector<std::thread> threads;
    for (size_t i = 0; i < n; ++i) threads.emplace_back([this] { work(); });
    for (std::thread& t : threads) t.join();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void work() {
    try {
      HttpClient client(settings_, request_.timeouts);
      for (size_t i = next_++; i < plan_.missing.size() && !stop_; i = next_++)
        fetch(client, plan_.missing[i]);
    } catch (const Stopped&) {
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      stop_ = true;
    }
  }

  void fetch(HttpClient& client, const RepoFile& file) {
    const LocalFile local(request_.folder, file);
    FileWriter writer(local, file);
    fill(client, file, writer);
    if (writer.digest() != file.digest) {  // a broken partial file, or a broken way: once more
      note(-writer.offset(), "");
      writer.restart();
      fill(client, file, writer);
    }
    if (writer.digest() != file.digest) {
      const std::string got = writer.digest();
      writer.discard();
      NEREUS_FAIL(kIo,
                  "{}: its checksum is {}, and the hub's list says {}; it was downloaded twice.\n  "
                  "Something on the way changes it (a proxy, a mirror: HF_ENDPOINT).",
                  file.path, got, file.digest);
    }
    writer.finish();
    note(0, file.path);
  }

  // All bytes of the file, in as many answers as it takes.
  void fill(HttpClient& client, const RepoFile& file, FileWriter& writer) {
    const std::string url = file_url(settings_, request_.repository, plan_.commit, file.path);
    Retry retry(request_.retry);
    int expired = 0;
    while (writer.offset() < file.size) {
      const int64_t begin = writer.offset();
      const HttpReply reply = client.get(
          url, begin, [&](const HttpReply& r) { begin_answer(r, begin, writer); },
          [&](std::span<const std::byte> bytes) {
            if (stop_) throw Stopped{};
            NEREUS_CHECK(kComm, writer.offset() + static_cast<int64_t>(bytes.size()) <= file.size,
                         "{}: more than the {} bytes come that the hub's list says", file.path,
                         file.size);
            writer.add(bytes);
            note(static_cast<int64_t>(bytes.size()), "");
          });
      if (writer.offset() == file.size) return;
      if (writer.offset() > begin) {
        retry.progressed();
        expired = 0;
      }
      if (reply.status == 416) {  // the partial file is no part of it
        note(-writer.offset(), "");
        writer.restart();
      }
      HttpReply short_answer = reply;  // a cut connection may look like a good end
      if (reply.ok() || reply.status == 416)
        short_answer.failure = fmt::format("{}: the connection was cut", reply.host);
      // The hub leads to another host by a link that expires: it gives a new one.
      const bool refused_link = reply.status == 403 && reply.origin != origin(url);
      if (refused_link)
        short_answer.failure = fmt::format("{}: HTTP 403, the link has expired", reply.host);
      NEREUS_CHECK(kComm, !refused_link || ++expired < kExpiredLinks,
                   "{}: {} refuses the link that the hub gives (HTTP 403), {} times in a row.\n  "
                   "What came is kept: run the same command again; a proxy or firewall may be in "
                   "the way.",
                   file.path, reply.host, expired);
      if (retry.again(short_answer)) continue;
      if (!worth_retrying(short_answer)) refuse(reply, settings_, request_.repository, file.path);
      NEREUS_FAIL(kComm,
                  "{}: {} of {} came, and {} attempts in a row gave nothing more: {}.\n  What came "
                  "is kept: run the same command again.",
                  file.path, size_text(writer.offset()), size_text(file.size), retry.failed(),
                  short_answer.outcome());
    }
  }

  // A server may answer with the whole file where a part was asked for.
  void begin_answer(const HttpReply& r, int64_t begin, FileWriter& writer) {
    if (r.status == 206 && r.header("content-range").starts_with(fmt::format("bytes {}-", begin)))
      return;
    NEREUS_CHECK(kComm, r.status == 200, "{}: answers {} with \"{}\" to a request from byte {}",
                 r.host, r.status, r.header("content-range"), begin);
    if (begin == 0) return;
    note(-writer.offset(), "");
    writer.restart();
  }

  void note(int64_t bytes, const std::string& finished) {
    const std::lock_guard lock(mutex_);
    progress_.bytes += bytes;
    progress_.files += finished.empty() ? 0 : 1;
    progress_.finished = finished;
    if (report_) report_(progress_);
  }

  const HubSettings& settings_;
  const DownloadRequest& request_;
  const DownloadPlan& plan_;
  const DownloadReport& report_;
  std::mutex mutex_;
  DownloadProgress progress_;
  std::exception_ptr failure_;
  std::atomic<size_t> next_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace

void run_download(const HubSettings& settings, const DownloadRequest& request,
                  const DownloadPlan& plan, const DownloadReport& report) {
  if (!plan.missing.empty()) Transfer(settings, request, plan, report).run();
}

}  // namespace nereus::hub
