#include "control/control_server.h"

#include <sys/epoll.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "control/config_text.h"
#include "control/control_protocol.h"

namespace nereus {

using control::FrameBuffer;
using control::Kind;
using control::Reader;
using control::step_text;
using control::Writer;
using std::chrono::milliseconds;
using tcp::Clock;

namespace {

using Frame = std::shared_ptr<const std::string>;  // one for all who get it

struct Connection {
  tcp::Fd fd;
  FrameBuffer in;
  std::deque<Frame> out;
  size_t sent = 0;  // of out.front()
  bool polls_out = false;
  bool draining = false;  // closes when all is sent
  int rank = -1;          // before its hello
};

// A rank, from the start of the run to its end.
struct Member {
  enum class State : uint8_t { missing, here, left };
  State state = State::missing;
  Connection* connection = nullptr;
  std::string host, activity;
  int64_t process = 0, step = -1;
  Clock::time_point heard;
};

}  // namespace

struct ControlServer::Impl {
  Impl(const ControlPlaneOptions& o, tcp::Listener l)
      : options(o),
        listener(std::move(l)),
        members(static_cast<size_t>(o.world_size)),
        poller(epoll_create1(EPOLL_CLOEXEC)),
        deadline(Clock::now() + o.rendezvous_timeout) {
    NEREUS_CHECK(kComm, static_cast<bool>(poller), "epoll_create1: {}", std::strerror(errno));
    tcp::allow_descriptors(options.world_size + 64);
    watch(listener.fd.get(), EPOLLIN, nullptr);
    watch(waker.fd(), EPOLLIN, &waker);
    if (!tcp::is_this_host(options.address)) {
      wrong_host = fmt::format(
          "\n  {} is no address of this host ({}), where rank 0 runs: MASTER_ADDR must name rank "
          "0's host.",
          options.address, tcp::host_name());
      log::warning("control plane:{}", wrong_host.substr(2));
    }
    thread = std::thread([this] { serve(); });
  }
  ~Impl() {
    stopping = true;
    waker.wake();
    thread.join();
  }

  // ---- the thread

  void serve() {
    const milliseconds tick =
        std::clamp(options.heartbeat / 2, milliseconds(10), milliseconds(100));
    std::vector<epoll_event> events(256);
    // Before any hello: such a rank 0 may know neither version nor configuration to compare.
    if (options.failed) fail(options.failed->fault(), options.failed->what());
    while (!finished()) {
      const int n = epoll_wait(poller.get(), events.data(), static_cast<int>(events.size()),
                               static_cast<int>(tick.count()));
      for (int i = 0; i < n; ++i) {
        void* who = events[static_cast<size_t>(i)].data.ptr;
        if (who == nullptr) {
          accept_all();
        } else if (who == &waker) {
          waker.drain();
        } else {
          auto* c = static_cast<Connection*>(who);
          if (!is_closed(c)) serve(*c, events[static_cast<size_t>(i)].events);
        }
      }
      check_deadlines();
      closed.clear();
    }
    if (!failure) {
      broadcast(Writer(Kind::leaves).frame());
      const auto end = Clock::now() + milliseconds(500);  // what the sockets do not take at once
      while (unsent() && Clock::now() < end) std::this_thread::sleep_for(milliseconds(1)), flush();
    }
  }

  bool finished() {
    if (!stopping) return false;
    if (stop_began == Clock::time_point()) stop_began = Clock::now();
    const auto since = Clock::now() - stop_began;
    if (failure) {
      // Who is here has the note; who is still to come shall get it too: it would look for this
      // server until its own time-out.
      const bool all_came = hellos >= options.world_size;
      if (all_came && !unsent() && connections.empty()) return true;
      return since >
             (all_came ? kCloseTime : std::clamp(deadline - stop_began, kCloseTime, kLateTime));
    }
    return std::all_of(members.begin(), members.end(),
                       [](const Member& m) { return m.state == Member::State::left; });
  }

  void check_deadlines() {
    const auto now = Clock::now();
    if (!failure && !complete && now > deadline) fail(Fault::kComm, missing_text());
    if (complete && now - last_beat > options.heartbeat) {
      last_beat = now;
      broadcast(Writer(Kind::beat).number(members[0].step).frame());
    }
    for (size_t r = 0; r < members.size() && !failure && complete; ++r) {
      const Member& m = members[r];
      if (m.state == Member::State::here && now - m.heard > options.silence)
        fail(Fault::kComm,
             fmt::format("rank {} of the world (host {}, process {}) has given no sign of life for "
                         "{:g} s; it was {}",
                         r, m.host, m.process,
                         std::chrono::duration<double>(options.silence).count(), step_text(m.step)),
             true);
    }
  }

  // ---- connections

  void watch(int fd, uint32_t events, void* who) {
    epoll_event e{};
    e.events = events;
    e.data.ptr = who;
    epoll_ctl(poller.get(), EPOLL_CTL_ADD, fd, &e);
  }

  void accept_all() {
    while (tcp::Fd fd = tcp::accept_from(listener)) {
      connections.emplace_back();
      Connection& c = connections.back();
      c.fd = std::move(fd);
      watch(c.fd.get(), EPOLLIN, &c);
      send(c, std::make_shared<std::string>(control::kGreeting));
    }
  }

  bool is_closed(const Connection* c) const {
    return std::any_of(closed.begin(), closed.end(), [&](const Connection& b) { return &b == c; });
  }
  // Its memory stays until this round's events are through.
  void close(Connection& c) {
    epoll_ctl(poller.get(), EPOLL_CTL_DEL, c.fd.get(), nullptr);
    c.fd.reset();
    const auto it = std::find_if(connections.begin(), connections.end(),
                                 [&](const Connection& x) { return &x == &c; });
    if (it != connections.end()) closed.splice(closed.begin(), connections, it);
  }

  void serve(Connection& c, uint32_t events) {
    if ((events & EPOLLOUT) != 0 && !flush(c)) return connection_closed(c);
    const FrameBuffer::State state = c.in.read(c.fd);
    while (const auto frame = c.in.next()) {
      Reader reader(*frame);
      if (!handle(c, reader)) return connection_closed(c);
    }
    if (c.in.broken() || state != FrameBuffer::State::open) connection_closed(c);
  }

  void connection_closed(Connection& c) {
    const int rank = c.rank;
    close(c);
    if (rank < 0) return;
    Member& m = members[static_cast<size_t>(rank)];
    m.connection = nullptr;
    if (m.state == Member::State::left || failure) return;
    m.state = Member::State::left;
    fail(Fault::kComm,
         fmt::format("rank {} of the world (host {}, process {}) died {}: its connection closed "
                     "without a word (killed, out of memory, or its host is down)",
                     rank, m.host, m.process, step_text(m.step)),
         true);
  }

  void send(Connection& c, Frame frame) {
    c.out.push_back(std::move(frame));
    flush(c);  // a loss is seen when it is read
  }
  void broadcast(std::string frame) {
    const auto shared = std::make_shared<const std::string>(std::move(frame));
    for (Member& m : members)
      if (m.connection != nullptr) send(*m.connection, shared);
  }
  bool flush(Connection& c) {
    bool open = true;
    while (!c.out.empty() && open) {
      const std::string& s = *c.out.front();
      const long n = tcp::write_some(c.fd, reinterpret_cast<const std::byte*>(s.data()) + c.sent,
                                     s.size() - c.sent);
      if (n < 0) {
        c.out.clear();
        open = false;
        break;
      }
      if (n == 0) break;
      c.sent += static_cast<size_t>(n);
      if (c.sent < s.size()) continue;
      c.sent = 0;
      c.out.pop_front();
    }
    if (c.polls_out != !c.out.empty()) {
      c.polls_out = !c.out.empty();
      epoll_event e{};
      e.events = EPOLLIN | (c.polls_out ? EPOLLOUT : 0u);
      e.data.ptr = &c;
      epoll_ctl(poller.get(), EPOLL_CTL_MOD, c.fd.get(), &e);
    }
    return open && !(c.draining && c.out.empty());
  }
  void flush() {
    for (Connection& c : connections) flush(c);
  }
  bool unsent() const {
    return std::any_of(connections.begin(), connections.end(),
                       [](const Connection& c) { return !c.out.empty(); });
  }

  // ---- what ranks say; false ends the connection

  bool handle(Connection& c, Reader& r) {
    if (r.kind() == Kind::hello) return c.rank < 0 && hello(c, r);
    if (c.rank < 0) return false;
    Member& m = members[static_cast<size_t>(c.rank)];
    m.heard = Clock::now();
    switch (r.kind()) {
      case Kind::beat: {
        m.step = r.number();
        if (std::string activity = r.text(); !activity.empty()) m.activity = std::move(activity);
        break;
      }
      case Kind::set: {
        const std::string key = r.text();
        set(c.rank, key, r.text());
        break;
      }
      case Kind::get:
      case Kind::take: {
        const std::string key = r.text();
        const auto it = values.find(key);
        if (it == values.end()) {
          waiting[key].push_back({c.rank, r.kind() == Kind::take});
        } else {
          send(c, it->second);
          if (r.kind() == Kind::take) values.erase(it);
        }
        break;
      }
      case Kind::ask: {
        Writer w(Kind::answer);
        w.number(r.number());
        while (r.more()) {
          const int64_t rank = r.number();
          if (rank < 0 || rank >= options.world_size) return false;
          w.text(members[static_cast<size_t>(rank)].activity);
        }
        send(c, std::make_shared<std::string>(w.frame()));
        break;
      }
      case Kind::fail: {
        const auto fault = static_cast<Fault>(r.number());
        fail(fault, r.text());
        break;
      }
      case Kind::bye:
        m.state = Member::State::left;
        break;
      default:
        return false;
    }
    return r.ok();
  }

  bool hello(Connection& c, Reader& r) {
    const std::string run_id = r.text(), version = r.text();
    const int64_t rank = r.number(), world = r.number();
    Member m;
    m.host = r.text();
    m.process = r.number();
    const std::string configuration = r.text();
    std::optional<Error> failed;
    if (r.more()) {
      const auto fault = static_cast<Fault>(r.number());
      failed.emplace(fault, r.text());
    }
    if (!r.ok()) return false;
    if (run_id != options.run_id) {
      c.draining = true;
      send(c, std::make_shared<std::string>(Writer(Kind::another).text(options.run_id).frame()));
      return !c.out.empty();
    }
    ++hellos;
    const std::string who = fmt::format("rank {} (host {}, process {})", rank, m.host, m.process);
    const std::string me = fmt::format("rank 0 (host {})", tcp::host_name());
    if (failure) {
      // It comes too late for anything but this.
    } else if (failed) {
      fail(failed->fault(), failed->what());
    } else if (version != options.version) {
      fail(Fault::kConfig,
           fmt::format("the ranks run different builds of the program: {} has {}, {} has {}.\n  "
                       "Start the same program on all hosts.",
                       me, options.version, who, version));
    } else if (world != options.world_size) {
      fail(Fault::kConfig, fmt::format("{} says that the world has {} ranks, {} says {}. All must "
                                       "have the same WORLD_SIZE.",
                                       me, options.world_size, who, world));
    } else if (rank < 0 || rank >= world) {
      return false;
    } else if (const Member& before = members[static_cast<size_t>(rank)];
               before.state != Member::State::missing) {
      fail(Fault::kConfig,
           fmt::format("two processes say that they are rank {}: {} on host {} and {} on host {}. "
                       "Each needs its own RANK.",
                       rank, before.process, before.host, m.process, m.host));
    } else if (const std::string wrong =
                   first_difference(options.configuration, configuration, me, who);
               !wrong.empty()) {
      fail(Fault::kConfig, wrong);
    }
    if (rank >= 0 && rank < options.world_size) {
      Member& slot = members[static_cast<size_t>(rank)];
      if (slot.state == Member::State::missing) {
        m.state = Member::State::here;
        m.connection = &c;
        m.heard = Clock::now();
        slot = std::move(m);
        c.rank = static_cast<int>(rank);
        ++arrived;
      }
    }
    if (failure) {
      send(c, failure);
    } else if (arrived == options.world_size) {
      welcome_all();
    }
    return true;
  }

  void welcome_all() {
    complete = true;
    std::map<std::string, int> by_host;
    std::vector<int> local;
    for (const Member& m : members) local.push_back(by_host[m.host]++);
    for (size_t r = 0; r < members.size(); ++r) {
      Member& m = members[r];
      m.heard = Clock::now();  // those who came first have waited
      Writer w(Kind::welcome);
      w.number(local[r]).number(by_host[m.host]).number(static_cast<int64_t>(by_host.size()));
      w.text(members[0].host).number(members[0].process);
      send(*m.connection, std::make_shared<std::string>(w.frame()));
    }
  }

  void set(int rank, const std::string& key, const std::string& bytes) {
    const auto frame =
        std::make_shared<const std::string>(Writer(Kind::value).text(key).text(bytes).frame());
    const auto [it, is_new] = values.emplace(key, frame);
    if (!is_new && *it->second != *frame)
      fail(Fault::kContract,
           fmt::format("control plane: rank {} sets {}, which has another value", rank, key));
    bool taken = false;
    for (const Waiting& w : waiting[key]) {
      if (Connection* c = members[static_cast<size_t>(w.rank)].connection) send(*c, it->second);
      taken = taken || w.takes;
    }
    waiting.erase(key);
    if (taken) values.erase(it);
  }

  // The first is everybody's.
  void fail(Fault fault, const std::string& text, bool rank_is_gone = false) {
    if (failure) return;
    const bool shown = fault == Fault::kConfig && options.show;
    if (shown) options.show(text);
    Writer w(Kind::failure);
    w.number(static_cast<int64_t>(fault)).text(text).number(rank_is_gone ? 1 : 0);
    w.number(shown ? 1 : 0);
    failure = std::make_shared<const std::string>(w.frame());
    for (Member& m : members)
      if (m.connection != nullptr) send(*m.connection, failure);
  }

  std::string missing_text() const {
    std::vector<int> missing;
    std::map<std::string, int> came;
    for (size_t r = 0; r < members.size(); ++r) {
      if (members[r].state == Member::State::missing) {
        missing.push_back(static_cast<int>(r));
      } else {
        ++came[members[r].host];
      }
    }
    std::string hosts;
    int listed = 0;
    for (const auto& [host, n] : came) {
      if (++listed > 8) continue;
      hosts += fmt::format("{}{} of host {}", listed > 1 ? ", " : "", n, host);
    }
    if (listed > 8) hosts += fmt::format(", and of {} more hosts", listed - 8);
    return fmt::format(
        "{} of {} ranks did not come to {}:{} within {:g} s: {}.\n  Came: {}.\n  Did they start, "
        "with the same MASTER_ADDR and MASTER_PORT, and may their hosts reach this port? "
        "comm.init_timeout_seconds is how long they are waited for.{}",
        missing.size(), members.size(), options.address, listener.port,
        std::chrono::duration<double>(options.rendezvous_timeout).count(), ranks_text(missing),
        hosts, wrong_host);
  }

  std::string ranks_text(const std::vector<int>& ranks) const {  // "ranks 1-3, 7"
    std::string text = ranks.size() == 1 ? "rank " : "ranks ";
    size_t runs = 0;
    for (size_t i = 0; i < ranks.size(); ++runs) {
      size_t j = i;
      while (j + 1 < ranks.size() && ranks[j + 1] == ranks[j] + 1) ++j;
      if (runs == 16) return text + fmt::format(", and {} more", ranks.size() - i);
      text += runs > 0 ? ", " : "";
      text += i == j ? std::to_string(ranks[i])
                     : fmt::format("{}{}{}", ranks[i], j == i + 1 ? ", " : "-", ranks[j]);
      i = j + 1;
    }
    return text;
  }

  static constexpr Clock::duration kCloseTime = std::chrono::seconds(1);  // of who has the note
  static constexpr Clock::duration kLateTime = std::chrono::seconds(10);  // of who has not come

  const ControlPlaneOptions options;
  tcp::Listener listener;
  tcp::Waker waker;
  std::vector<Member> members;
  std::list<Connection> connections, closed;
  std::map<std::string, Frame> values;
  struct Waiting {
    int rank;
    bool takes;
  };
  std::map<std::string, std::vector<Waiting>> waiting;  // by key
  tcp::Fd poller;
  Clock::time_point deadline, last_beat, stop_began;
  std::string wrong_host;
  int arrived = 0;
  int hellos = 0;  // of this run's processes; two that say the same rank are two
  bool complete = false;
  Frame failure;
  std::atomic<bool> stopping{false};
  std::thread thread;
};

ControlServer::ControlServer(const ControlPlaneOptions& options, tcp::Listener listener)
    : impl_(std::make_unique<Impl>(options, std::move(listener))) {}
ControlServer::~ControlServer() = default;

}  // namespace nereus
