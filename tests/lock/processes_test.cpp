// SPDX-License-Identifier: MIT OR Apache-2.0

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <expected>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.lock;
import fmmap.os;

// What becomes of locks when processes fork, execute others, stop and die, and when files change their names.

using fmmap::access;
using fmmap::byte_range;
using fmmap::errc;
using fmmap::file;
using fmmap::file_lock;
using fmmap::lock_kind;
using fmmap::lock_mode;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;
using fmmap::whole;
using fmmap::os::call;
using namespace std::chrono_literals;
namespace seam = fmmap::os::seam;

namespace {

constexpr auto shared = lock_mode::shared;
constexpr auto exclusive = lock_mode::exclusive;
constexpr std::array kinds{lock_kind::open_file_description, lock_kind::flock};

constexpr unsigned patience = 30;           // seconds, after which something hangs
constexpr auto soon = 20s;                  // a wait that is going to end
constexpr int inherited_conversation = 100; // the descriptor at which an executed program finds its conversation

auto had(fmmap::result<bool> const& outcome) -> bool { return or_throw(outcome); }

auto open_rw(std::filesystem::path const& path) -> file {
  return or_throw(file::open(path, {.access = access::read_write}));
}

struct locked_place {
  scratch folder;
  std::filesystem::path path = folder.file("data", pattern(100));
  file data = open_rw(path);

  [[nodiscard]] auto lock(lock_kind kind = lock_kind::open_file_description, byte_range range = whole) const
      -> file_lock {
    return or_throw(file_lock::create(data, range, kind));
  }
};

// Whether a lock of all of the file can be had, as the system says without fmmap.
auto is_free(std::filesystem::path const& path, lock_kind kind = lock_kind::open_file_description,
             lock_mode mode = exclusive) -> bool {
  auto const descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (descriptor < 0) {
    throw std::runtime_error("cannot open " + path.string());
  }
  struct flock all{};
  all.l_type = mode == exclusive ? F_WRLCK : F_RDLCK;
  auto const done = kind == lock_kind::flock ? ::flock(descriptor, (mode == exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB)
                                             : ::fcntl(descriptor, F_OFD_SETLK, &all);
  auto const code = errno;
  ::close(descriptor);
  if (done != 0 && code != EAGAIN && code != EACCES) {
    throw std::runtime_error(std::strerror(code));
  }
  return done == 0;
}

// Waits until so many wait in the system for locks of the file. Source: proc_locks(5), where they follow an arrow.
void await_waiters(std::filesystem::path const& path, int count) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) {
    throw std::runtime_error("cannot stat " + path.string());
  }
  auto const inode = ':' + std::to_string(status.st_ino) + ' ';
  auto const end = std::chrono::steady_clock::now() + soon;
  while (true) {
    std::ifstream locks{"/proc/locks"};
    int found = 0;
    for (std::string line; std::getline(locks, line);) {
      found += line.contains("->") && line.contains(inode) ? 1 : 0;
    }
    if (found >= count) {
      return;
    }
    if (std::chrono::steady_clock::now() > end) {
      throw std::runtime_error("nobody waits for " + path.string());
    }
    std::this_thread::sleep_for(1ms);
  }
}

// Two ends between which processes tell each other a character at a time.
class conversation {
public:
  conversation() {
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends_.data()) != 0) {
      throw std::runtime_error("socketpair");
    }
  }
  explicit conversation(int inherited) : ends_{inherited, -1} {}
  conversation(conversation const&) = delete;
  auto operator=(conversation const&) -> conversation& = delete;
  ~conversation() {
    ::close(ends_[0]);
    ::close(ends_[1]);
  }

  // In the child, and in the parent.
  void take_child_end() {
    std::swap(ends_[0], ends_[1]);
    close_other_end();
  }
  void close_other_end() { ::close(std::exchange(ends_[1], -1)); }

  [[nodiscard]] auto own_end() const -> int { return ends_[0]; }
  [[nodiscard]] auto other_end() const -> int { return ends_[1]; }

  void say(char what) const {
    if (::send(ends_[0], &what, 1, MSG_NOSIGNAL) != 1) {
      throw std::runtime_error("nobody is there to be told");
    }
  }

  // What the other says; nothing when it has ended.
  [[nodiscard]] auto hear_or_end() const -> std::optional<char> {
    pollfd ready{.fd = ends_[0], .events = POLLIN, .revents = 0};
    while (::poll(&ready, 1, static_cast<int>(patience * 1000)) < 0 && errno == EINTR) {
    }
    char what = 0;
    auto const got = ::recv(ends_[0], &what, 1, MSG_DONTWAIT);
    if (got < 0) {
      throw std::runtime_error("nobody says anything");
    }
    return got == 1 ? std::optional{what} : std::nullopt;
  }

  [[nodiscard]] auto hear() const -> char {
    auto const what = hear_or_end();
    if (!what) {
      throw std::runtime_error("nobody is there any more");
    }
    return *what;
  }

private:
  std::array<int, 2> ends_{-1, -1};
};

// What another process is told to do with its lock, and what it says.
enum class order : char {
  try_shared = 's',
  try_exclusive = 'x',
  wait_shared = 'S',
  wait_exclusive = 'X',
  try_upgrade = 'u',
  downgrade = 'd',
  release = 'r',
  show_life = '?',
};
constexpr char ready = '!';
constexpr char yes = 'y';
constexpr char no = 'n';

void obey(conversation const& with, std::filesystem::path const& path, lock_kind kind) {
  auto const data = open_rw(path);
  auto lock = or_throw(file_lock::create(data, whole, kind));
  with.say(ready);
  while (auto const told = with.hear_or_end()) {
    bool done = true;
    switch (order{*told}) {
    case order::try_shared:
      done = had(lock.try_acquire(shared));
      break;
    case order::try_exclusive:
      done = had(lock.try_acquire(exclusive));
      break;
    case order::wait_shared:
      or_throw(lock.acquire(shared));
      break;
    case order::wait_exclusive:
      or_throw(lock.acquire(exclusive));
      break;
    case order::try_upgrade:
      done = had(lock.try_upgrade());
      break;
    case order::downgrade:
      or_throw(lock.downgrade());
      break;
    case order::release:
      or_throw(lock.release());
      break;
    case order::show_life:
      break;
    }
    with.say(done ? yes : no);
  }
}

// How another process comes to be: by fork(2), by fork(2) and execve(2), or by posix_spawn(3), which calls no handlers of
// pthread_atfork(3).
enum class origin : unsigned char { forked, executed, spawned };

// Runs a case of the suite `executed` in the test's own program, which talks by way of the descriptor `talking`.
auto start_program(std::string_view name, int talking, origin from) -> pid_t {
  auto program = std::string{"processes"};
  auto selected = "--run_test=executed/" + std::string{name};
  auto quiet = std::string{"--report_level=no"};
  std::array<char*, 4> const arguments{program.data(), selected.data(), quiet.data(), nullptr};
  if (from == origin::executed) {
    return start_child([&] {
      ::dup2(talking, inherited_conversation);
      ::execv("/proc/self/exe", arguments.data());
      return 127;
    });
  }
  pid_t child = -1;
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, talking, inherited_conversation);
  auto const error = ::posix_spawn(&child, "/proc/self/exe", &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    throw std::runtime_error(std::string{"posix_spawn: "} + std::strerror(error));
  }
  return child;
}

// Another process, which is killed in the end.
class other_process {
public:
  // One that does this.
  explicit other_process(std::function<void(conversation const&)> const& body) {
    child_ = start_child([&] {
      ::alarm(patience);
      with_.take_child_end();
      body(with_);
      return 0;
    });
    with_.close_other_end();
  }

  // One that does what it is told with a lock of the file.
  other_process(std::filesystem::path const& path, lock_kind kind, origin from = origin::forked)
      : other_process{[&](conversation const& with) {
          if (from == origin::forked) {
            obey(with, path, kind);
            return;
          }
          ::setenv("FMMAP_TEST_PATH", path.c_str(), 1);
          ::setenv("FMMAP_TEST_KIND", kind == lock_kind::flock ? "flock" : "", 1);
          (void)end_of(start_program("obeys", with.own_end(), from));
        }} {
    if (hear() != ready) {
      throw std::runtime_error("the other process is not ready");
    }
  }

  other_process(other_process const&) = delete;
  auto operator=(other_process const&) -> other_process& = delete;
  ~other_process() {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      (void)end_of(child_);
    }
  }

  void tell(order what) const { with_.say(static_cast<char>(what)); }
  [[nodiscard]] auto hear() const -> char { return with_.hear(); }
  [[nodiscard]] auto does(order what) const -> bool {
    tell(what);
    return hear() == yes;
  }

  void signal(int which) const { ::kill(child_, which); }

  // Once it has ended: 0, its exit status, or minus the signal that has killed it.
  [[nodiscard]] auto end() -> int { return end_of(std::exchange(child_, -1)); }
  void kill() {
    signal(SIGKILL);
    (void)end();
  }

  void stop() const {
    signal(SIGSTOP);
    int status = 0;
    if (::waitpid(child_, &status, WUNTRACED) != child_ || !WIFSTOPPED(status)) {
      throw std::runtime_error("the other process has not stopped");
    }
  }

private:
  conversation with_;
  pid_t child_ = -1;
};

// Runs `body` in a forked child that may hang, and says how it ended.
auto end_of_child(std::function<int()> const& body) -> int {
  return end_of(start_child([&] {
    ::alarm(patience / 3);
    return body();
  }));
}

// The errors that went to the handler of dropped errors while it lives.
class dropped_errors {
public:
  dropped_errors() : before_{fmmap::set_dropped_error_handler(+[](fmmap::error const&) noexcept { ++count; })} {
    count = 0;
  }
  dropped_errors(dropped_errors const&) = delete;
  auto operator=(dropped_errors const&) -> dropped_errors& = delete;
  ~dropped_errors() { fmmap::set_dropped_error_handler(before_); }

  [[nodiscard]] static auto seen() -> int { return count; }

private:
  static inline std::atomic<int> count{0};
  fmmap::dropped_error_handler before_;
};

// Waits until a thread is parked for an object that this process has shared: nobody gets another share then.
void await_parked(file_lock& lock) {
  while (had(lock.try_acquire(shared))) {
    or_throw(lock.release());
    std::this_thread::sleep_for(1ms);
  }
}

} // namespace

BOOST_AUTO_TEST_SUITE(locks_of_two_processes)

BOOST_AUTO_TEST_CASE(exclude_each_other) {
  for (auto const kind : kinds) {
    for (auto const from : {origin::forked, origin::executed, origin::spawned}) {
      locked_place const place;
      auto mine = place.lock(kind);
      other_process const other{place.path, kind, from};
      BOOST_TEST(other.does(order::try_exclusive));
      BOOST_TEST(!had(mine.try_acquire(exclusive)));
      BOOST_TEST(!had(mine.try_acquire(shared)));
      BOOST_TEST(!had(mine.acquire_for(exclusive, 2ms)));
      BOOST_TEST(other.does(order::release));
      BOOST_TEST(had(mine.try_acquire(exclusive)));
      BOOST_TEST(!other.does(order::try_exclusive));
      BOOST_TEST(!other.does(order::try_shared));
      or_throw(mine.downgrade());
      BOOST_TEST(!other.does(order::try_exclusive));
      BOOST_TEST(other.does(order::try_shared));
    }
  }
}

BOOST_AUTO_TEST_CASE(are_shared_by_all_who_want_them_shared) {
  for (auto const kind : kinds) {
    locked_place const place;
    auto mine = place.lock(kind);
    other_process const second{place.path, kind};
    other_process const third{place.path, kind, origin::executed};
    BOOST_TEST(had(mine.try_acquire(shared)));
    BOOST_TEST(second.does(order::try_shared));
    BOOST_TEST(third.does(order::try_shared));
    or_throw(mine.release());
    BOOST_TEST(second.does(order::release));
    BOOST_TEST(!had(mine.try_acquire(exclusive)));
    BOOST_TEST(third.does(order::release));
    BOOST_TEST(had(mine.try_acquire(exclusive)));
  }
}

BOOST_AUTO_TEST_CASE(pass_to_who_waits) {
  for (auto const kind : kinds) {
    locked_place const place;
    auto mine = place.lock(kind);
    or_throw(mine.acquire(exclusive));
    other_process const other{place.path, kind};
    other.tell(order::wait_exclusive);
    await_waiters(place.path, 1);
    or_throw(mine.release());
    BOOST_TEST(other.hear() == yes);
    BOOST_TEST(!had(mine.try_acquire(shared)));
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_holder)

BOOST_AUTO_TEST_CASE(that_is_killed_lets_go) {
  for (auto const kind : kinds) {
    for (auto const held : {order::try_shared, order::try_exclusive}) {
      locked_place const place;
      other_process holder{place.path, kind};
      BOOST_TEST(holder.does(held));
      other_process const waiter{place.path, kind};
      waiter.tell(order::wait_exclusive);
      await_waiters(place.path, 1);
      holder.kill();
      BOOST_TEST(waiter.hear() == yes);
    }
  }
}

BOOST_AUTO_TEST_CASE(that_is_stopped_keeps_the_lock_and_waits_end_at_their_limits) {
  for (auto const kind : kinds) {
    locked_place const place;
    other_process const holder{place.path, kind};
    BOOST_TEST(holder.does(order::try_exclusive));
    holder.stop();
    auto mine = place.lock(kind);
    auto const begin = std::chrono::steady_clock::now();
    BOOST_TEST(!had(mine.acquire_for(exclusive, 20ms)));
    BOOST_TEST((std::chrono::steady_clock::now() - begin >= 20ms));
    BOOST_TEST(!had(mine.acquire_for(shared, 1ms)));
    holder.signal(SIGCONT);
    holder.tell(order::release);
    BOOST_TEST(had(mine.acquire_for(exclusive, soon)));
    BOOST_TEST(holder.hear() == yes);
  }
}

BOOST_AUTO_TEST_CASE(that_executes_another_program_lets_go) {
  for (auto const kind : kinds) {
    locked_place const place;
    other_process const holder{[&](conversation const& with) {
      auto lock = place.lock(kind);
      or_throw(lock.acquire(exclusive));
      with.say(ready);
      (void)with.hear();
      ::dup2(with.own_end(), inherited_conversation);
      ::execl("/proc/self/exe", "processes", "--run_test=executed/lives", "--report_level=no", nullptr);
    }};
    BOOST_TEST(holder.hear() == ready);
    BOOST_TEST(!is_free(place.path, kind));
    holder.tell(order::show_life);
    BOOST_TEST(holder.hear() == ready); // the other program
    BOOST_TEST(is_free(place.path, kind));
    BOOST_TEST(holder.does(order::show_life));
  }
}

BOOST_AUTO_TEST_CASE(does_not_leave_the_lock_to_programs_that_it_has_started) {
  for (auto const kind : kinds) {
    for (auto const from : {origin::executed, origin::spawned}) {
      locked_place const place;
      other_process holder{[&](conversation const& with) {
        auto lock = place.lock(kind);
        or_throw(lock.acquire(exclusive));
        (void)start_program("lives", with.own_end(), from);
        ::pause();
      }};
      BOOST_TEST(holder.hear() == ready); // the program
      BOOST_TEST(!is_free(place.path, kind));
      holder.kill();
      BOOST_TEST(is_free(place.path, kind));
      BOOST_TEST(holder.does(order::show_life));
    }
  }
}

BOOST_AUTO_TEST_CASE(leaves_nothing_locked_when_it_closes_while_programs_that_it_has_started_live) {
  for (auto const kind : kinds) {
    for (auto const from : {origin::executed, origin::spawned}) {
      locked_place const place;
      auto lock = place.lock(kind);
      or_throw(lock.acquire(exclusive));
      conversation const program;
      auto const child = start_program("lives", program.other_end(), from);
      BOOST_TEST(program.hear() == ready);
      or_throw(lock.close());
      BOOST_TEST(is_free(place.path, kind));
      program.say(static_cast<char>(order::show_life));
      BOOST_TEST(program.hear() == yes);
      ::kill(child, SIGKILL);
      (void)end_of(child);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_forked_child)

BOOST_AUTO_TEST_CASE(does_not_keep_the_lock_of_a_parent_that_is_killed) {
  for (auto const kind : kinds) {
    locked_place const place;
    other_process parent{[&](conversation const& with) {
      auto lock = place.lock(kind);
      or_throw(lock.acquire(exclusive));
      (void)start_child([&] {
        ::alarm(patience);
        with.say(ready);
        (void)with.hear();
        with.say(yes);
        return 0;
      });
      ::pause();
    }};
    BOOST_TEST(parent.hear() == ready); // the child
    BOOST_TEST(!is_free(place.path, kind));
    parent.kill();
    BOOST_TEST(is_free(place.path, kind));
    BOOST_TEST(parent.does(order::show_life));
  }
}

BOOST_AUTO_TEST_CASE(does_not_keep_the_lock_of_a_parent_whose_threads_wait_for_it) {
  locked_place const place;
  other_process parent{[&](conversation const& with) {
    auto lock = place.lock();
    auto second = place.lock();
    auto third = place.lock();
    or_throw(lock.acquire(shared));
    std::jthread const parked{[&] { (void)lock.acquire(exclusive); }};
    std::jthread const in_system{[&] { (void)second.acquire(exclusive); }};
    std::jthread const with_limit{[&] { (void)third.acquire_for(exclusive, 1h); }};
    await_parked(lock);
    await_waiters(place.path, 2);
    (void)start_child([&] {
      ::alarm(patience);
      or_throw(lock.close());
      second = {};
      or_throw(third.close());
      with.say(ready);
      (void)with.hear();
      with.say(yes);
      return 0;
    });
    ::pause();
  }};
  BOOST_TEST(parent.hear() == ready); // the child
  BOOST_TEST(!is_free(place.path));
  parent.kill();
  BOOST_TEST(is_free(place.path));
  BOOST_TEST(parent.does(order::show_life));
}

BOOST_AUTO_TEST_CASE(holds_nothing_and_leaves_the_parent_its_lock) {
  for (auto const kind : kinds) {
    locked_place const place;
    auto lock = place.lock(kind);
    or_throw(lock.acquire(exclusive));
    BOOST_TEST(found_in_child([&](findings& found) {
                 dropped_errors const dropped;
                 auto const stays = [&](std::string_view what) {
                   found.expect(!is_free(place.path, kind, shared),
                                std::string{"not locked any more after "}.append(what));
                 };
                 stays("fork");
                 found.expect(!lock.held(), "the child holds it");
                 found.expect(lock.is_open() && lock.kind() == kind && lock.path() == place.path.native(),
                              "another lock than before");
                 found.expect(fails(lock.release(), errc::forked), "released");
                 found.expect(fails(lock.downgrade(), errc::forked), "downgraded");
                 found.expect(fails(lock.try_upgrade(), errc::forked), "upgraded");
                 found.expect(fails(lock.upgrade_for(1h), errc::forked), "upgraded with a limit");
                 found.expect(fails(lock.try_acquire(shared), errc::forked), "tried");
                 found.expect(fails(lock.acquire(exclusive), errc::forked), "acquired");
                 found.expect(fails(lock.acquire_for(exclusive, 1h), errc::forked), "acquired with a limit");
                 stays("calls");
                 lock.unlock();
                 lock.unlock_shared();
                 stays("unlock");
                 file_lock moved{std::move(lock)};
                 found.expect(fails(moved.try_acquire(shared), errc::forked), "tried after a move");
                 found.expect(moved.close().has_value(), "it cannot be closed");
                 found.expect(fails(moved.try_acquire(shared), errc::closed), "not closed");
                 stays("close");
                 found.expect(dropped_errors::seen() == 0, "an error was dropped");
               }) == "");
    BOOST_TEST(!is_free(place.path, kind, shared));
    BOOST_TEST((lock.held() == exclusive));
    or_throw(lock.downgrade());
    BOOST_TEST(is_free(place.path, kind, shared));
    or_throw(lock.release());
    BOOST_TEST(is_free(place.path, kind));
  }
}

BOOST_AUTO_TEST_CASE(leaves_the_scope_of_the_standards_wrappers_in_silence) {
  locked_place const place;
  BOOST_TEST(found_in_child([&](findings& found) { // the parent, to have wrappers of its own
               dropped_errors const dropped;
               auto lock = place.lock(lock_kind::open_file_description, {.offset = 0, .length = 100});
               auto second = place.lock(lock_kind::open_file_description, {.offset = 1000, .length = 1});
               {
                 std::unique_lock const held{lock};
                 std::shared_lock const also_held{second};
                 auto const child = ::fork();
                 if (child != 0) {
                   found.expect(end_of(child) == 0, "an error was dropped, or the lock was");
                   found.expect(!is_free(place.path, lock_kind::open_file_description, shared), "not locked any more");
                   return;
                 }
               }
               ::_exit(dropped_errors::seen() == 0 && !is_free(place.path) ? 0 : 1);
             }) == "");
}

BOOST_AUTO_TEST_CASE(destroys_its_copy_and_leaves_the_parent_its_lock) {
  for (auto const kind : kinds) {
    locked_place const place;
    std::optional<file_lock> lock{place.lock(kind)};
    or_throw(lock->acquire(exclusive));
    BOOST_TEST(end_of_child([&] {
                 lock.reset();
                 return is_free(place.path, kind) ? 1 : 0;
               }) == 0);
    BOOST_TEST(!is_free(place.path, kind));
  }
}

BOOST_AUTO_TEST_CASE(has_locks_of_its_own_that_exclude_the_parents) {
  for (auto const kind : kinds) {
    locked_place const place;
    auto lock = place.lock(kind);
    or_throw(lock.acquire(exclusive));
    other_process const child{place.path, kind};
    BOOST_TEST(!child.does(order::try_shared));
    or_throw(lock.release());
    BOOST_TEST(child.does(order::try_exclusive));
    BOOST_TEST(!had(lock.try_acquire(shared)));
    // And its child has another.
    BOOST_TEST(found_in_child([&](findings& found) {
                 auto own = place.lock(kind);
                 found.expect(child.does(order::release) && had(own.try_acquire(exclusive)), "it cannot be had");
                 found.expect(end_of_child([&] {
                                auto third = place.lock(kind);
                                auto const forked = fails(lock.try_acquire(shared), errc::forked) &&
                                                    fails(own.try_acquire(shared), errc::forked);
                                return forked && !had(third.try_acquire(shared)) ? 0 : 1;
                              }) == 0,
                              "wrong in a child of a child");
                 found.expect(!is_free(place.path, kind), "not locked any more");
               }) == "");
  }
}

BOOST_AUTO_TEST_CASE(destroys_its_copy_of_an_object_that_the_parents_threads_wait_for) {
  locked_place const place;
  std::vector<std::function<void(file_lock&)>> const ways{
      [](file_lock& lock) { lock = {}; }, [](file_lock& lock) { file_lock const gone{std::move(lock)}; },
      [](file_lock& lock) { or_throw(lock.close()); }, // once waited for the parent's threads for ever
  };
  for (auto const& destroy : ways) {
    auto lock = place.lock();
    or_throw(lock.acquire(shared));
    std::jthread const writer{[&] {
      or_throw(lock.acquire(exclusive));
      or_throw(lock.release());
    }};
    await_parked(lock);
    BOOST_TEST(end_of_child([&] {
                 destroy(lock);
                 return is_free(place.path) ? 1 : 0;
               }) == 0);
    or_throw(lock.release());
  }
}

// Hung, now and then: threads that have been woken, but have not run yet, still are where they waited.
BOOST_AUTO_TEST_CASE(destroys_its_copy_of_an_object_that_the_parents_threads_have_just_been_woken_from) {
  if (thread_sanitized) {
    skip("the thread sanitizer takes threads that have ended, and that nobody in the child can join, for leaks");
    return;
  }
  locked_place const place;
  for (int round = 0; round < 20; ++round) {
    auto lock = place.lock();
    or_throw(lock.acquire(shared));
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        or_throw(lock.acquire(exclusive));
        or_throw(lock.release());
      });
    }
    await_parked(lock);
    or_throw(lock.release());
    BOOST_TEST_REQUIRE(end_of_child([&] {
                         lock = {};
                         return 0;
                       }) == 0);
  }
}

// Once hung: another thread of the parent had what the child needs to choose a signal.
BOOST_AUTO_TEST_CASE(waits_with_a_limit_when_it_was_forked_in_the_middle_of_such_a_wait) {
  locked_place const place;
  auto holder = place.lock();
  or_throw(holder.acquire(exclusive));
  std::atomic<bool> choosing{false};
  seam::armed const table;
  seam::observe([&](seam::observation const& seen) {
    if (seen.which == call::sigaction && !seen.over && !choosing.exchange(true)) {
      std::this_thread::sleep_for(100ms);
    }
  });
  std::jthread const waiter{[&] {
    auto lock = place.lock();
    (void)lock.acquire_for(exclusive, 1ms);
  }};
  while (!choosing) {
    std::this_thread::sleep_for(1ms);
  }
  BOOST_TEST(end_of_child([&] {
               seam::disarm();
               auto lock = place.lock();
               return had(lock.acquire_for(exclusive, 1ms)) ? 1 : 0;
             }) == 0);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(other_descriptors_and_mappings_of_the_file)

BOOST_AUTO_TEST_CASE(do_not_let_go_of_the_lock) {
  for (auto const kind : kinds) {
    locked_place place;
    auto lock = place.lock(kind);
    or_throw(lock.acquire(exclusive));
    auto const copy = ::dup(place.data.native_handle());
    struct flock none{};
    none.l_type = F_UNLCK;
    BOOST_TEST(::fcntl(copy, F_OFD_SETLK, &none) == 0);
    none = {};
    none.l_type = F_UNLCK;
    BOOST_TEST(::fcntl(copy, F_SETLK, &none) == 0);
    BOOST_TEST(::flock(copy, LOCK_UN) == 0);
    BOOST_TEST(!is_free(place.path, kind));
    ::close(copy);
    BOOST_TEST(!is_free(place.path, kind));
    ::close(::open(place.path.c_str(), O_RDWR | O_CLOEXEC));
    BOOST_TEST(!is_free(place.path, kind));
    {
      auto const mapped = or_throw(mutable_mapped_file::open(place.path));
    }
    BOOST_TEST(!is_free(place.path, kind));
    or_throw(place.data.close());
    BOOST_TEST(!is_free(place.path, kind));
    or_throw(lock.release());
    BOOST_TEST(is_free(place.path, kind));
  }
}

BOOST_AUTO_TEST_CASE(do_not_keep_the_lock) {
  for (auto const kind : kinds) {
    locked_place const place;
    auto const mapped = or_throw(mutable_mapped_file::open(place.path));
    auto lock = or_throw(file_lock::create(mapped.as_file(), whole, kind));
    or_throw(lock.acquire(exclusive));
    auto const later = or_throw(mutable_mapped_file::open(place.path));
    or_throw(lock.close());
    BOOST_TEST(is_free(place.path, kind));
    BOOST_TEST(text_of(mapped.bytes()) == pattern(100));
    BOOST_TEST(text_of(later.bytes()) == pattern(100));
    auto opened = or_throw(fmmap::open_locked(place.path, {.kind = kind}));
    BOOST_TEST(!is_free(place.path, kind));
    or_throw(opened.lock.close());
    BOOST_TEST(is_free(place.path, kind));
    BOOST_TEST(text_of(opened.file.bytes()) == pattern(100));
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(an_upgrade_between_processes)

BOOST_AUTO_TEST_CASE(that_is_refused_keeps_the_shared_lock) {
  locked_place const place;
  other_process const one{place.path, lock_kind::open_file_description};
  other_process const two{place.path, lock_kind::open_file_description, origin::executed};
  other_process const third{place.path, lock_kind::open_file_description};
  BOOST_TEST(one.does(order::try_shared));
  BOOST_TEST(two.does(order::try_shared));
  BOOST_TEST(!one.does(order::try_upgrade));
  BOOST_TEST(!two.does(order::try_upgrade));
  BOOST_TEST(!third.does(order::try_exclusive));
  BOOST_TEST(two.does(order::release));
  BOOST_TEST(!third.does(order::try_exclusive)); // the first has it shared still
  BOOST_TEST(one.does(order::try_upgrade));
  BOOST_TEST(!third.does(order::try_shared));
  BOOST_TEST(one.does(order::downgrade));
  BOOST_TEST(third.does(order::try_shared));
}

BOOST_AUTO_TEST_CASE(is_had_when_the_other_is_killed) {
  locked_place const place;
  auto lock = place.lock();
  or_throw(lock.acquire(shared));
  other_process other{place.path, lock_kind::open_file_description};
  BOOST_TEST(other.does(order::try_shared));
  BOOST_TEST(!had(lock.upgrade_for(2ms)));
  std::jthread const killer{[&] {
    await_waiters(place.path, 1);
    other.kill();
  }};
  BOOST_TEST(had(lock.upgrade_for(soon)));
  BOOST_TEST(!is_free(place.path, lock_kind::open_file_description, shared));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_locked_name)

namespace {

// What a process says that has opened a file under its lock: its content, then an end.
constexpr char the_end = '.';
constexpr char failed = '-';

// A process that opens the file and says what is in it.
auto opens(std::filesystem::path const& path, fmmap::locked_options const& options)
    -> std::function<void(conversation const&)> {
  return [=](conversation const& with) {
    auto const opened = fmmap::open_locked(path, options);
    if (!opened) {
      with.say(failed);
      return;
    }
    for (auto const letter : text_of(opened->file.bytes())) {
      with.say(letter);
    }
    with.say(the_end);
    (void)with.hear();
  };
}

auto told_by(other_process const& other) -> std::string {
  std::string text;
  for (char letter = 0; letter != the_end && letter != failed;) {
    letter = other.hear();
    text += letter;
  }
  return text;
}

} // namespace

BOOST_AUTO_TEST_CASE(is_of_the_file_that_has_replaced_the_one_waited_for) {
  for (auto const kind : kinds) {
    for (auto const truncate : {false, true}) {
      locked_place const place;
      auto const old = place.folder / "old";
      std::filesystem::create_hard_link(place.path, old);
      auto old_lock = place.lock(kind);
      or_throw(old_lock.acquire(exclusive));
      other_process const opener{opens(place.path, {.truncate = truncate, .kind = kind, .mapping = {.size = 3}})};
      await_waiters(place.path, 1);
      std::filesystem::rename(place.folder.file("new", "new content"), place.path);
      or_throw(old_lock.release());
      BOOST_TEST(told_by(opener) == (truncate ? std::string{"\0\0\0.", 4} : "new content."));
      BOOST_TEST(!is_free(place.path, kind));
      BOOST_TEST(had(old_lock.try_acquire(exclusive))); // it is let go
      BOOST_TEST(read_back(old) == pattern(100));
    }
  }
}

BOOST_AUTO_TEST_CASE(is_waited_for_again_when_the_new_file_is_locked_too) {
  locked_place const place;
  auto lock = place.lock();
  or_throw(lock.acquire(exclusive));
  other_process const opener{opens(place.path, {.truncate = true, .mapping = {.size = 1}})};
  for (auto const* const name : {"second", "third", "fourth"}) {
    await_waiters(place.path, 1);
    auto const path = place.folder.file(name, name);
    auto const next = open_rw(path);
    auto next_lock = or_throw(file_lock::create(next));
    or_throw(next_lock.acquire(exclusive));
    std::filesystem::rename(path, place.path);
    lock = std::move(next_lock); // and lets the waiter see
  }
  await_waiters(place.path, 1);
  BOOST_TEST(read_back(place.path) == "fourth");
  or_throw(lock.release());
  BOOST_TEST(told_by(opener) == (std::string{"\0.", 2}));
}

BOOST_AUTO_TEST_CASE(is_of_a_new_file_when_the_one_waited_for_was_removed) {
  locked_place const place;
  auto lock = place.lock();
  or_throw(lock.acquire(exclusive));
  other_process const opener{opens(place.path, {.mapping = {.size = 2}})};
  await_waiters(place.path, 1);
  std::filesystem::remove(place.path);
  or_throw(lock.release());
  BOOST_TEST(told_by(opener) == (std::string{"\0\0.", 3}));
  BOOST_TEST(!is_free(place.path));
  BOOST_TEST(or_throw(place.data.size()) == 100U);
}

BOOST_AUTO_TEST_CASE(is_an_error_when_the_file_was_removed_and_none_may_be_created) {
  locked_place const place;
  auto lock = place.lock();
  or_throw(lock.acquire(exclusive));
  other_process const opener{opens(place.path, {.create = false})};
  other_process const reader{[&](conversation const& with) {
    with.say(fmmap::open_locked_for_reading(place.path).has_value() ? the_end : failed);
  }};
  await_waiters(place.path, 2);
  std::filesystem::remove(place.path);
  or_throw(lock.release());
  BOOST_TEST(opener.hear() == failed);
  BOOST_TEST(reader.hear() == failed);
  BOOST_TEST(!std::filesystem::exists(place.path));
  BOOST_TEST(or_throw(place.data.size()) == 100U);
}

BOOST_AUTO_TEST_CASE(is_read_as_the_new_file_has_it) {
  locked_place const place;
  auto lock = place.lock();
  or_throw(lock.acquire(exclusive));
  other_process const reader{[&](conversation const& with) {
    auto const opened = or_throw(fmmap::open_locked_for_reading(place.path));
    with.say(text_of(opened.file.bytes()) == "new content" ? yes : no);
    (void)with.hear();
  }};
  await_waiters(place.path, 1);
  std::filesystem::rename(place.folder.file("new", "new content"), place.path);
  or_throw(lock.release());
  BOOST_TEST(reader.hear() == yes);
  BOOST_TEST(!is_free(place.path));
  BOOST_TEST(is_free(place.path, lock_kind::open_file_description, shared));
}

BOOST_AUTO_TEST_CASE(is_not_what_a_plain_lock_is_of) {
  for (auto const kind : kinds) {
    locked_place const place;
    auto lock = place.lock(kind);
    auto const moved = place.folder / "moved";
    or_throw(lock.acquire(exclusive));
    std::filesystem::rename(place.path, moved);
    (void)place.folder.file("data", "another");
    BOOST_TEST(is_free(place.path, kind));
    BOOST_TEST(!is_free(moved, kind));
    or_throw(lock.release());
    BOOST_TEST(is_free(moved, kind));
    or_throw(lock.acquire(exclusive));
    auto later = place.lock(kind); // through the handle, which is the moved file's
    std::filesystem::remove(moved);
    BOOST_TEST(!had(later.try_acquire(shared)));
  }
}

BOOST_AUTO_TEST_CASE(that_another_process_holds_is_not_cut) {
  for (auto const held : {order::try_shared, order::try_exclusive}) {
    locked_place const place;
    other_process const holder{place.path, lock_kind::open_file_description};
    BOOST_TEST(holder.does(held));
    for (auto const limit : {fmmap::no_wait, fmmap::wait_for{5ms}}) {
      auto const opened = fmmap::open_locked(place.path, {.truncate = true, .mapping = {.size = 7}}, exclusive, limit);
      BOOST_TEST(fails(opened, std::errc::timed_out));
      BOOST_TEST(read_back(place.path) == pattern(100));
    }
    BOOST_TEST(holder.does(order::release));
    auto const opened = or_throw(fmmap::open_locked(place.path, {.truncate = true, .mapping = {.size = 7}}));
    BOOST_TEST(opened.file.size() == 7U);
  }
}

// Once lost it: the name was removed, as if nobody could have been there before the lock.
BOOST_AUTO_TEST_CASE(that_another_process_has_filled_meanwhile_stays_when_mapping_fails) {
  scratch const folder;
  auto const path = folder / "data";
  seam::armed const table;
  bool filled = false;
  seam::observe([&](seam::observation const& seen) {
    if (seen.which == call::fcntl && !std::exchange(filled, true)) { // the file is created, and not locked yet
      BOOST_TEST(end_of_child([&] {
                   seam::disarm();
                   auto opened = or_throw(fmmap::open_locked(path, {.create = false}));
                   or_throw(opened.file.append(bytes_of("content")));
                   return 0;
                 }) == 0);
      seam::fail(call::mmap, ENOMEM);
    }
  });
  BOOST_TEST(fails(fmmap::open_locked(path, {.mapping = {.size = 4096}}), std::errc::not_enough_memory));
  seam::disarm();
  BOOST_TEST(filled);
  BOOST_TEST(read_back(path) == "content");
}

BOOST_AUTO_TEST_SUITE_END()

// What an executed program does; not run by itself.
BOOST_AUTO_TEST_SUITE(executed, *boost::unit_test::disabled())

BOOST_AUTO_TEST_CASE(obeys) {
  ::alarm(patience);
  auto const* const path = std::getenv("FMMAP_TEST_PATH");
  auto const* const kind = std::getenv("FMMAP_TEST_KIND");
  BOOST_REQUIRE((path != nullptr && kind != nullptr));
  obey(conversation{inherited_conversation}, path,
       std::string_view{kind} == "flock" ? lock_kind::flock : lock_kind::open_file_description);
}

BOOST_AUTO_TEST_CASE(lives) {
  ::alarm(patience);
  conversation const with{inherited_conversation};
  with.say(ready);
  (void)with.hear();
  with.say(yes);
}

BOOST_AUTO_TEST_SUITE_END()
