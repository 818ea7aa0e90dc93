#include "comm/socket_mesh.h"

#include <poll.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"

namespace nereus {

using std::chrono::milliseconds;
using tcp::Clock;

namespace {

struct Header {
  uint64_t group = 0, bytes = 0;
  uint32_t channel = 0;
  int32_t from = -1;  // in the first of a connection, the sender; -2 in its last
};
constexpr int32_t kLast = -2;
constexpr size_t kPiece = size_t{1} << 20;  // bytes moved before others get their turn

struct Outgoing {
  Header header;
  const std::byte* data = nullptr;
  std::vector<std::byte> owned;
  size_t done = 0;  // of header and data
  int* unsent = nullptr;
};

struct Peer {
  tcp::Fd out;  // from here to there
  std::deque<Outgoing> queue;
  std::map<SocketMesh::Tag, std::deque<SocketMesh::Message>> inbox;
  std::atomic<bool> left{false};  // will send nothing any more
};

// A connection from another rank to this one: the thread's alone.
struct Incoming {
  tcp::Fd fd;
  int rank = -1;
  Header header;
  size_t header_done = 0, body_done = 0;
  SocketMesh::Message body;
};

}  // namespace

struct SocketMesh::Impl {
  Impl(ControlPlane& c, milliseconds t)
      : control(c), timeout(t), peers(static_cast<size_t>(c.world_size())) {
    listener = tcp::listen_at(0);
    control.set(key(control.rank()), fmt::format("{} {}", listener.port, control.local_address()));
    // The control plane may outlive this.
    control.on_failure([alive = std::weak_ptr(shared), this](const ControlPlane::Failure&) {
      const auto hold = alive.lock();
      if (!hold) return;
      const std::lock_guard in(hold->mutex);
      if (!hold->here) return;
      const std::lock_guard lock(mutex);  // nobody is between looking and sleeping
      failed = true;
      changed.notify_all();
    });
    thread = std::thread([this] { move(); });
  }
  ~Impl() {
    {
      std::unique_lock lock(mutex);
      const auto flushed = [&] {
        for (const Peer& p : peers)
          if (!p.queue.empty()) return false;
        return true;
      };
      for (Peer& p : peers) {
        if (!p.out || failed) continue;
        p.queue.emplace_back();
        p.queue.back().header.from = kLast;
      }
      waker.wake();
      changed.wait_for(lock, timeout, [&] { return failed || flushed(); });
    }
    {
      const std::lock_guard in(shared->mutex);
      shared->here = false;
    }
    stopping = true;
    waker.wake();
    thread.join();
  }
  static std::string key(int rank) { return fmt::format("sockets/{}", rank); }

  // ---- the thread

  void move() {
    std::vector<pollfd> fds;
    while (!stopping) {
      fds.clear();
      fds.push_back({waker.fd(), POLLIN, 0});
      fds.push_back({listener.fd.get(), POLLIN, 0});
      for (const Incoming& c : incoming) fds.push_back({c.fd.get(), POLLIN, 0});
      const size_t readers = fds.size();
      writers.clear();
      {
        const std::lock_guard lock(mutex);
        for (Peer& p : peers) {
          if (!p.out || p.queue.empty()) continue;
          writers.push_back(&p);
          fds.push_back({p.out.get(), POLLOUT, 0});
        }
      }
      poll(fds.data(), fds.size(), -1);
      if (fds[0].revents != 0) waker.drain();
      for (size_t i = 0; i < writers.size(); ++i) {
        if (fds[readers + i].revents == 0) continue;
        const std::lock_guard lock(mutex);
        pump(*writers[i]);
      }
      size_t i = 2;
      for (auto c = incoming.begin(); c != incoming.end() && i < readers; ++i) {
        const bool open = fds[i].revents == 0 || read(*c);
        c = open ? std::next(c) : incoming.erase(c);
      }
      if (fds[1].revents == 0) continue;
      while (tcp::Fd fd = tcp::accept_from(listener)) {
        incoming.emplace_back();
        incoming.back().fd = std::move(fd);
      }
    }
  }

  // Under the mutex: gives the network what it takes.
  void pump(Peer& p) {
    for (size_t moved = 0; !p.queue.empty() && moved < kPiece;) {
      Outgoing& o = p.queue.front();
      constexpr size_t kHead = sizeof(Header);
      const bool head = o.done < kHead;
      const std::byte* from =
          head ? reinterpret_cast<const std::byte*>(&o.header) + o.done : o.data + (o.done - kHead);
      const size_t left = (head ? kHead : kHead + o.header.bytes) - o.done;
      const long n = left == 0 ? 0 : tcp::write_some(p.out, from, std::min(left, kPiece));
      if (n < 0) {
        // The other side is gone, which its own connection reports too.
        for (Outgoing& rest : p.queue)
          if (rest.unsent != nullptr) --*rest.unsent;
        p.queue.clear();
        break;
      }
      if (n == 0 && left > 0) return;
      o.done += static_cast<size_t>(n);
      moved += static_cast<size_t>(n);
      if (o.done < kHead + o.header.bytes) continue;
      if (o.unsent != nullptr) --*o.unsent;
      p.queue.pop_front();
    }
    if (p.queue.empty()) changed.notify_all();
  }

  // False when the connection is over.
  bool read(Incoming& c) {
    for (size_t moved = 0; moved < kPiece;) {
      const bool head = c.header_done < sizeof(Header);
      std::byte* to = head ? reinterpret_cast<std::byte*>(&c.header) + c.header_done
                           : c.body.data.get() + c.body_done;
      const size_t left = head ? sizeof(Header) - c.header_done : c.body.size - c.body_done;
      const long n = tcp::read_some(c.fd, to, std::min(left, kPiece));
      if (n < 0) return lose(c), false;
      if (n == 0) return true;
      moved += static_cast<size_t>(n);
      (head ? c.header_done : c.body_done) += static_cast<size_t>(n);
      if (c.header_done < sizeof(Header)) continue;
      if (head && !begin(c)) return false;
      if (c.body_done < c.body.size) continue;
      const std::lock_guard lock(mutex);
      peers[static_cast<size_t>(c.rank)].inbox[{c.header.group, c.header.channel}].push_back(
          std::move(c.body));
      c.body = {};
      c.header_done = c.body_done = 0;
      changed.notify_all();
    }
    return true;
  }

  // A header has come. False: it was the last, or no rank's.
  bool begin(Incoming& c) {
    if (c.header.from == kLast) {
      if (c.rank < 0) return false;
      const std::lock_guard lock(mutex);
      peers[static_cast<size_t>(c.rank)].left = true;
      changed.notify_all();
      return false;
    }
    if (c.rank < 0) c.rank = c.header.from;
    if (c.rank < 0 || c.rank >= control.world_size()) return false;
    c.body.size = c.header.bytes;
    c.body.data = std::make_unique_for_overwrite<std::byte[]>(c.body.size);
    return true;
  }

  void lose(const Incoming& c) {
    if (c.rank < 0 || failed || stopping) return;
    control.lost(
        fmt::format("the connection from rank {} to rank {} of the world closed: the process died, "
                    "or the network between the two is down",
                    c.rank, control.rank()));
    const std::lock_guard lock(mutex);
    failed = true;
    changed.notify_all();
  }

  // ---- callers

  void enqueue(int to, Outgoing&& o) {
    Peer& p = peers[static_cast<size_t>(to)];
    std::unique_lock lock(mutex);
    if (!p.out) {
      lock.unlock();
      {
        const std::lock_guard one(connecting);
        if (!p.out) connect(to);
      }
      lock.lock();
    }
    if (o.unsent != nullptr) ++*o.unsent;
    p.queue.push_back(std::move(o));
    const bool first = p.queue.size() == 1;
    if (first) pump(p);
    if (first && !p.queue.empty()) waker.wake();
  }

  void connect(int to) {
    const std::string where = control.get(key(to), timeout);
    const size_t space = where.find(' ');
    const std::string address = where.substr(space + 1);
    const int port = std::stoi(where.substr(0, space));
    tcp::Attempt attempt = tcp::connect_to(address, port, Clock::now() + timeout);
    if (!attempt.fd) {
      const ControlPlane::Failure why = control.lost(
          fmt::format("rank {} of the world could not reach rank {} at {}:{}: {}. Ranks must reach "
                      "each other's hosts at any port.",
                      control.rank(), to, address, port, attempt.reason));
      throw Error(why.fault, why.text);
    }
    tcp::set_blocking(attempt.fd, false);
    const std::lock_guard lock(mutex);
    peers[static_cast<size_t>(to)].out = std::move(attempt.fd);
  }

  ControlPlane& control;
  const milliseconds timeout;
  struct Shared {
    std::mutex mutex;
    bool here = true;
  };
  std::shared_ptr<Shared> shared = std::make_shared<Shared>();
  tcp::Listener listener;
  tcp::Waker waker;
  std::list<Incoming> incoming;  // the thread's
  std::vector<Peer*> writers;    // the thread's
  std::atomic<bool> stopping{false}, failed{false};
  std::mutex connecting;
  std::mutex mutex;  // of what follows
  std::condition_variable changed;
  std::vector<Peer> peers;
  std::thread thread;
};

SocketMesh::SocketMesh(ControlPlane& control, milliseconds timeout)
    : impl_(std::make_unique<Impl>(control, timeout)) {}
SocketMesh::~SocketMesh() = default;

void SocketMesh::send(int to, Tag tag, std::span<const std::byte> bytes, int* unsent) {
  Outgoing o;
  o.header = {tag.group, bytes.size(), tag.channel, impl_->control.rank()};
  o.data = bytes.data();
  o.unsent = unsent;
  impl_->enqueue(to, std::move(o));
}

void SocketMesh::post(int to, Tag tag, std::span<const std::byte> head,
                      std::span<const std::byte> body) {
  Outgoing o;
  o.owned.reserve(head.size() + body.size());
  o.owned.assign(head.begin(), head.end());
  o.owned.insert(o.owned.end(), body.begin(), body.end());
  o.header = {tag.group, o.owned.size(), tag.channel, impl_->control.rank()};
  o.data = o.owned.data();  // which moves with it
  impl_->enqueue(to, std::move(o));
}

SocketMesh::Outcome SocketMesh::wait(Clock::time_point deadline, FunctionRef<bool()> done,
                                     FunctionRef<bool()> hopeless) {
  std::unique_lock lock(impl_->mutex);
  for (;;) {
    if (done()) return Outcome::done;
    if (impl_->failed) return Outcome::failed;
    if (hopeless()) return Outcome::hopeless;
    if (impl_->changed.wait_until(lock, deadline) == std::cv_status::timeout)
      return done() ? Outcome::done : impl_->failed ? Outcome::failed : Outcome::late;
  }
}

bool SocketMesh::take(int from, Tag tag, Message& out) {
  auto& inbox = impl_->peers[static_cast<size_t>(from)].inbox;
  const auto it = inbox.find(tag);
  if (it == inbox.end()) return false;
  out = std::move(it->second.front());
  it->second.pop_front();
  if (it->second.empty()) inbox.erase(it);
  return true;
}

bool SocketMesh::has_left(int rank) const { return impl_->peers[static_cast<size_t>(rank)].left; }

void SocketMesh::forget() {
  const std::lock_guard lock(impl_->mutex);
  for (Peer& p : impl_->peers) p.queue.clear();
}

}  // namespace nereus
