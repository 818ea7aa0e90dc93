#include "control/control_plane.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "base/shown_error.h"
#include "control/control_protocol.h"
#include "control/control_server.h"

namespace nereus {

using control::FrameBuffer;
using control::Kind;
using control::Reader;
using control::step_text;
using control::Writer;
using std::chrono::milliseconds;
using tcp::Clock;

namespace {

double seconds(milliseconds t) { return std::chrono::duration<double>(t).count(); }

// Of a failure's frame.
ControlPlane::Failure read_failure(Reader& r) {
  ControlPlane::Failure f;
  f.fault = static_cast<Fault>(r.number());
  f.text = r.text();
  f.rank_is_gone = r.number() != 0;
  f.shown = r.number() != 0;
  return f;
}

[[noreturn]] void raise(const ControlPlane::Failure& f) {
  if (f.shown) throw ShownError(f.fault, f.text);
  throw Error(f.fault, f.text);
}

}  // namespace

struct ControlPlane::Impl {
  Impl(const ControlPlaneOptions& o, tcp::Listener listener) : options(o) {
    NEREUS_CHECK(kContract, o.rank >= 0 && o.rank < o.world_size, "rank {} of {} ranks", o.rank,
                 o.world_size);
    if (o.rank == 0) {
      if (!listener.fd) listener = tcp::listen_at(o.port);
      options.port = listener.port;
      server = std::make_unique<ControlServer>(options, std::move(listener));
    }
    meet();
    thread = std::thread([this] { listen(); });
  }
  ~Impl() {
    if (thread.joinable()) {
      stopping = true;
      waker.wake();
      thread.join();
    }
    fd.reset();
    server.reset();
  }

  // ---- rendezvous

  void meet() {
    const auto deadline = Clock::now() + options.rendezvous_timeout;
    const auto unknown_until =
        Clock::now() + std::min(options.rendezvous_timeout, options.name_timeout);
    const std::string host = options.rank == 0 ? "127.0.0.1" : options.address;
    std::string reason = "no answer";
    for (;;) {
      tcp::Attempt attempt = tcp::connect_to(host, options.port, deadline);
      if (attempt.fd) {
        fd = std::move(attempt.fd);
        if (say_hello(deadline, reason)) return;
      } else {
        reason = attempt.reason;
      }
      const auto now = Clock::now();
      NEREUS_CHECK(kConfig, !attempt.unknown_host || now < unknown_until,
                   "rank {}: {}.\n  MASTER_ADDR must name rank 0's host so that this host ({}) "
                   "finds it.",
                   options.rank, reason, tcp::host_name());
      NEREUS_CHECK(kComm, now < std::min(deadline, lost),
                   "rank {} (host {}) could not meet rank 0 at {}:{} within {:g} s: {}.\n  Is this "
                   "rank 0's host, does rank 0 run, and may this host reach that port?",
                   options.rank, tcp::host_name(), options.address, options.port,
                   seconds(lost < deadline ? kLostTime : options.rendezvous_timeout), reason);
      std::this_thread::sleep_for(milliseconds(50));
    }
  }

  // True when all ranks have come; false, with the reason, when it is worth another try.
  bool say_hello(Clock::time_point deadline, std::string& reason) {
    FrameBuffer in;
    std::optional<bool> greeted;
    // Short at first: who connects just as an earlier run's server closes may hear nothing at all.
    const auto answer_by = std::min(deadline, Clock::now() + greeting_time);
    greeting_time = std::min(2 * greeting_time, milliseconds(16'000));
    while (!greeted) {
      if (!wait_readable(answer_by) || in.read(fd) != FrameBuffer::State::open) {
        reason = "what listens there closes the connection or does not speak";
        if (!(greeted = in.greeting())) return false;
      } else {
        greeted = in.greeting();
      }
      NEREUS_CHECK(kConfig, greeted.value_or(true),
                   "rank {}: what listens at {}:{} is not a Nereus run.\n  Set MASTER_PORT to a "
                   "port that is free on rank 0's host, the same for all ranks.",
                   options.rank, options.address, options.port);
    }
    Writer hello(Kind::hello);
    hello.text(options.run_id).text(options.version).number(options.rank);
    hello.number(options.world_size).text(tcp::host_name()).number(getpid());
    hello.text(options.configuration);
    if (options.failed)
      hello.number(static_cast<int64_t>(options.failed->fault())).text(options.failed->what());
    if (!tcp::write_all(fd, hello.frame())) return reason = "the connection closed", false;
    // The server's own time-out decides, and it knows who is missing; it may have begun later.
    bool open = true;
    for (const auto give_up = Clock::now() + options.rendezvous_timeout + milliseconds(2000);;) {
      while (const auto frame = in.next()) {
        Reader r(*frame);
        if (r.kind() == Kind::another) {
          reason = fmt::format("another run listens there (\"{}\", this one is \"{}\")", r.text(),
                               options.run_id);
          return false;
        }
        if (r.kind() == Kind::failure) raise(read_failure(r));
        if (r.kind() != Kind::welcome) continue;
        local_rank = static_cast<int>(r.number());
        local_world_size = static_cast<int>(r.number());
        hosts = static_cast<int>(r.number());
        zero_host = r.text();
        zero_process = r.number();
        rest = std::move(in);
        return true;
      }
      if (!open || !wait_readable(give_up)) {
        reason = "rank 0 closed the connection before all ranks had come";
        lost = std::min(lost, Clock::now() + kLostTime);
        return false;
      }
      open = in.read(fd) == FrameBuffer::State::open;
    }
  }

  bool wait_readable(Clock::time_point deadline) const {
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now()).count();
    pollfd p{fd.get(), POLLIN, 0};
    return poll(&p, 1, static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30))) == 1;
  }

  // ---- the thread

  void listen() {
    auto next_beat = Clock::now();
    heard = Clock::now();
    for (;;) {
      const auto now = Clock::now();
      if (stopping) return;
      if (!over && now - heard > options.silence)
        end({Fault::kComm,
             fmt::format("rank 0 of the world (host {}, process {}) has given no sign of life for "
                         "{:g} s; it was {}",
                         zero_host, zero_process, seconds(options.silence), step_text(zero_step)),
             true});
      if (!over && now >= next_beat) {
        next_beat = now + options.heartbeat;
        beat();
      }
      const auto wait = std::chrono::ceil<milliseconds>(next_beat - now).count();
      pollfd p[2] = {{waker.fd(), POLLIN, 0}, {over ? -1 : fd.get(), POLLIN, 0}};
      poll(p, 2, static_cast<int>(std::clamp<int64_t>(wait, 1, 1000)));
      if (p[0].revents != 0) waker.drain();
      if (over || p[1].revents == 0) continue;
      const FrameBuffer::State state = rest.read(fd);
      while (const auto frame = rest.next()) {
        Reader r(*frame);
        handle(r);
      }
      if (state == FrameBuffer::State::open || over) continue;
      end({Fault::kComm,
           fmt::format("rank 0 of the world (host {}, process {}) died {}: its connection closed "
                       "without a word (killed, out of memory, or its host is down)",
                       zero_host, zero_process, step_text(zero_step)),
           true});
    }
  }

  void handle(Reader& r) {
    heard = Clock::now();
    switch (r.kind()) {
      case Kind::beat:
        zero_step = r.number();
        return;
      case Kind::failure:
        return end(read_failure(r));
      case Kind::leaves: {
        const std::lock_guard lock(mutex);
        over = true;
        changed.notify_all();
        return;
      }
      default:
        break;
    }
    const std::lock_guard lock(mutex);
    if (r.kind() == Kind::value) {
      const std::string key = r.text();
      values[key] = r.text();
    } else if (r.kind() == Kind::answer) {
      std::vector<std::string>& texts = answers[r.number()];
      while (r.more()) texts.push_back(r.text());
    }
    changed.notify_all();
  }

  void end(Failure why) {
    std::vector<std::function<void(const Failure&)>> tell;
    {
      const std::lock_guard lock(mutex);
      over = true;
      changed.notify_all();
      if (note || closed) return;
      if (describe) why.doing = describe();
      note = why;
      tell.swap(listeners);
    }
    for (const auto& t : tell) t(why);
  }

  void beat() {
    std::string activity;
    {
      const std::lock_guard lock(mutex);
      if (describe) activity = describe();
    }
    say(Writer(Kind::beat).number(step).text(activity == last_activity ? "" : activity));
    last_activity = std::move(activity);
  }

  // ---- callers

  void say(Writer& w) {
    const std::lock_guard lock(write_mutex);
    if (!over) tcp::write_all(fd, w.frame());  // a loss is seen when it is read
  }

  template <class Done>
  bool wait(std::unique_lock<std::mutex>& lock, Clock::time_point deadline, Done done) {
    while (!done()) {
      if (note) raise(*note);
      if (changed.wait_until(lock, deadline) == std::cv_status::timeout) return done();
    }
    return true;
  }

  Failure await_note(milliseconds grace, const std::string& otherwise, Fault fault) {
    std::unique_lock lock(mutex);
    changed.wait_for(lock, grace, [&] { return note.has_value(); });
    if (note) return *note;
    lock.unlock();
    end({fault, otherwise});
    lock.lock();
    return note.value_or(Failure{fault, otherwise});
  }

  static constexpr milliseconds kLostTime{
      10'000};  // for rank 0 to come back: an earlier run's ends

  ControlPlaneOptions options;
  std::unique_ptr<ControlServer> server;
  tcp::Fd fd;
  tcp::Waker waker;
  FrameBuffer rest;
  int local_rank = 0, local_world_size = 1, hosts = 1;
  std::string zero_host;
  int64_t zero_process = 0, zero_step = -1;
  milliseconds greeting_time{500};
  Clock::time_point heard, lost = Clock::time_point::max();
  std::string last_activity;
  std::atomic<int64_t> step{-1};
  std::atomic<bool> stopping{false};
  std::atomic<bool> over{false};  // nothing comes from the server any more

  std::mutex write_mutex;
  std::mutex mutex;  // of what follows
  std::condition_variable changed;
  bool closed = false;
  std::optional<Failure> note;
  std::vector<std::function<void(const Failure&)>> listeners;
  std::function<std::string()> describe;
  std::map<std::string, std::string> values;
  std::map<int64_t, std::vector<std::string>> answers;
  int64_t questions = 0;
  std::thread thread;
};

ControlPlane::ControlPlane(const ControlPlaneOptions& options, tcp::Listener listener)
    : impl_(std::make_unique<Impl>(options, std::move(listener))) {}

ControlPlane::~ControlPlane() {
  bool closed = false;
  {
    const std::lock_guard lock(impl_->mutex);
    closed = impl_->closed || impl_->note;
  }
  if (!closed)
    fail(fmt::format("rank {} of the world (host {}, process {}) ended {}, before the others",
                     rank(), tcp::host_name(), getpid(), step_text(impl_->step)));
}

int ControlPlane::rank() const { return impl_->options.rank; }
int ControlPlane::world_size() const { return impl_->options.world_size; }
int ControlPlane::local_rank() const { return impl_->local_rank; }
int ControlPlane::local_world_size() const { return impl_->local_world_size; }
int ControlPlane::hosts() const { return impl_->hosts; }
std::string ControlPlane::local_address() const {
  // Ranks of rank 0's host may reach it by the loopback, which is of no use to other hosts.
  const std::string address = tcp::local_address(impl_->fd);
  const bool loopback = address == "::1" || address.starts_with("127.");
  return loopback && hosts() > 1 ? impl_->options.address : address;
}

void ControlPlane::set(const std::string& key, const std::string& bytes) {
  impl_->say(Writer(Kind::set).text(key).text(bytes));
}

std::string ControlPlane::get(const std::string& key, milliseconds timeout) {
  std::unique_lock lock(impl_->mutex);
  if (!impl_->values.contains(key)) {
    lock.unlock();
    impl_->say(Writer(Kind::get).text(key));
    lock.lock();
  }
  const bool there =
      impl_->wait(lock, Clock::now() + timeout, [&] { return impl_->values.contains(key); });
  NEREUS_CHECK(kComm, there, "rank {} waited {:g} s for {}, which no rank has set", rank(),
               seconds(timeout), key);
  return impl_->values[key];
}

std::string ControlPlane::take(const std::string& key, milliseconds timeout) {
  impl_->say(Writer(Kind::take).text(key));
  std::unique_lock lock(impl_->mutex);
  const bool there =
      impl_->wait(lock, Clock::now() + timeout, [&] { return impl_->values.contains(key); });
  NEREUS_CHECK(kComm, there, "rank {} waited {:g} s for {}, which no rank has set", rank(),
               seconds(timeout), key);
  return std::move(impl_->values.extract(key).mapped());
}

void ControlPlane::set_step(int64_t step) {
  impl_->step = step;
  impl_->say(Writer(Kind::beat).number(step).text(""));
}

void ControlPlane::describe_by(std::function<std::string()> describe) {
  const std::lock_guard lock(impl_->mutex);
  impl_->describe = std::move(describe);
}

std::vector<std::string> ControlPlane::activities(const std::vector<int>& ranks) {
  std::unique_lock lock(impl_->mutex);
  const int64_t question = ++impl_->questions;
  lock.unlock();
  Writer w(Kind::ask);
  w.number(question);
  for (const int r : ranks) w.number(r);
  impl_->say(w);
  lock.lock();
  std::vector<std::string> out(ranks.size());
  const auto done = [&] { return impl_->note || impl_->answers.contains(question); };
  impl_->changed.wait_for(lock, milliseconds(1000), done);
  if (const auto it = impl_->answers.find(question); it != impl_->answers.end()) {
    out = std::move(it->second);
    out.resize(ranks.size());
    impl_->answers.erase(it);
  }
  return out;
}

std::optional<ControlPlane::Failure> ControlPlane::failure() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->note;
}

void ControlPlane::on_failure(std::function<void(const Failure&)> tell) {
  std::unique_lock lock(impl_->mutex);
  if (!impl_->note) return impl_->listeners.push_back(std::move(tell));
  const Failure note = *impl_->note;
  lock.unlock();
  tell(note);
}

ControlPlane::Failure ControlPlane::fail(const std::string& reason, Fault fault) {
  impl_->say(Writer(Kind::fail).number(static_cast<int64_t>(fault)).text(reason));
  return impl_->await_note(milliseconds(2000), reason, fault);
}

ControlPlane::Failure ControlPlane::lost(const std::string& reason) {
  {
    std::unique_lock lock(impl_->mutex);
    impl_->changed.wait_for(lock, milliseconds(1000), [&] { return impl_->note.has_value(); });
    if (impl_->note) return *impl_->note;
  }
  return fail(reason);
}

void ControlPlane::close() {
  {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->closed || impl_->note) return;
    impl_->closed = true;
    impl_->listeners.clear();
  }
  Writer bye(Kind::bye);
  impl_->say(bye);
  impl_->server.reset();  // waits for the others
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(lock, [&] { return impl_->over.load(); });
}

}  // namespace nereus
