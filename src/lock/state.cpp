// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>

#include <pthread.h>

module fmmap.lock;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

using std::memory_order_acq_rel;
using std::memory_order_acquire;
using std::memory_order_relaxed;
using std::memory_order_release;

// What one thread writes before it lets go of a lock, another sees that acquires it afterwards: by the system alone where
// they are two processes, but C++ knows nothing of that, and neither does a race detector. A word for each file, roughly.
struct alignas(64) ordering_word {
  std::atomic<std::uint64_t> value{0};
};

auto ordering_of(file_identity const& identity) noexcept -> std::atomic<std::uint64_t>& {
  static constinit std::array<ordering_word, 64> words{};
  return words[std::hash<file_identity>{}(identity) % words.size()].value;
}

// A wait that is cancelled would leave the word as one in which somebody asks the system. So it is no point of cancellation:
// who is cancelled in it is at the next.
class uncancelled {
public:
  uncancelled() noexcept { ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
  uncancelled(uncancelled const&) = delete;
  auto operator=(uncancelled const&) -> uncancelled& = delete;
  ~uncancelled() { ::pthread_setcancelstate(before_, nullptr); }

private:
  int before_ = 0;
};

auto nanoseconds_of(clock::time_point when) noexcept -> std::int64_t {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(when.time_since_epoch()).count();
}

// Lets the thread go on that is about to be done with something; the longer it takes, the longer.
void pause(unsigned times) noexcept {
  constexpr unsigned brief = 8;
  constexpr std::chrono::microseconds longer{50};
  if (times < brief) {
    os::yield();
  } else {
    (void)os::sleep_until(nanoseconds_of(clock::now() + longer));
  }
}

} // namespace

// All locks of the process, for a fork: the child closes them, so that they end with the parent. Hidden: see os::at_fork.
class [[gnu::visibility("hidden")]] open_locks {
public:
  // Opens what `open` opens and notes it, in one step as a fork sees it.
  template <class Open>
  static auto add(lock_state& state, Open open) -> os::outcome<void> {
    if (failed_to_watch != 0) {
      return std::unexpected(failed_to_watch);
    }
    std::scoped_lock const guard{mutex};
    auto const descriptor = open();
    if (!descriptor) {
      return std::unexpected(descriptor.error());
    }
    state.descriptor_ = *descriptor;
    state.next_ = first;
    state.link_ = &first;
    if (first != nullptr) {
      first->link_ = &state.next_;
    }
    first = &state;
    return {};
  }

  static auto remove(lock_state& state) noexcept -> os::outcome<void> {
    std::scoped_lock const guard{mutex};
    if (state.link_ == nullptr) {
      return {};
    }
    *state.link_ = state.next_;
    if (state.next_ != nullptr) {
      state.next_->link_ = state.link_;
    }
    state.link_ = nullptr;
    auto const descriptor = state.descriptor_.exchange(os::no_descriptor);
    return descriptor >= 0 ? os::close(descriptor) : os::outcome<void>{};
  }

private:
  // Registered before the program begins: a fork during a registration would leave the child with one half done.
  static auto watch_forks() noexcept -> int {
    return os::at_fork(
        +[] { mutex.lock(); }, +[] { mutex.unlock(); },
        +[] {
          forget_all();
          mutex.unlock();
        });
  }

  // In a child. Closing leaves the parent its lock, where unlocking would take it.
  static void forget_all() noexcept {
    for (auto* state = first; state != nullptr; state = state->next_) {
      if (!state->is_forked()) {
        (void)os::close(state->descriptor_);
        state->descriptor_ = lock_state::forked;
      }
    }
  }

  static constinit std::mutex mutex;
  static constinit lock_state* first;
  static int const failed_to_watch;
};

constinit std::mutex open_locks::mutex;
constinit lock_state* open_locks::first = nullptr;
int const open_locks::failed_to_watch = open_locks::watch_forks();

auto this_thread() noexcept -> std::uint64_t {
  static constinit std::atomic<std::uint64_t> latest{0};
  thread_local auto const number = latest.fetch_add(1, memory_order_relaxed) + 1;
  return number;
}

auto system_range(byte_range range) noexcept -> std::optional<os::lock_range> {
  if (range.offset > os::largest_offset) {
    return std::nullopt;
  }
  if (range.length == to_end) {
    return os::lock_range{.offset = range.offset, .length = 0};
  }
  if (range.length > os::largest_offset - range.offset) {
    return std::nullopt;
  }
  return os::lock_range{.offset = range.offset, .length = range.length};
}

// --- Opening and closing ----------------------------------------------------------------------------------------------

namespace {

// An open file description of its own for the same file: by way of /proc and, where that is not there, by the path, as long
// as it leads there.
auto open_again(file const& of, bool to_write) -> os::outcome<os::descriptor> {
  os::open_flags const flags{.write = to_write};
  auto const opened = os::retry([&] { return os::reopen(of.native_handle(), flags); });
  if (opened || opened.error() != ENOENT || of.path().empty()) {
    return opened;
  }
  std::string const path{of.path()};
  auto const by_path = os::retry([&] { return os::open(os::working_directory, path.c_str(), flags, 0); });
  if (!by_path) {
    return opened;
  }
  auto const found = os::status(*by_path);
  if (!found || file_identity{.device = found->device, .inode = found->inode} != of.identity()) {
    if (auto const closed = os::close(*by_path); !closed) {
      report_dropped_error(failure(closed.error(), "close", path).error());
    }
    return opened;
  }
  return by_path;
}

} // namespace

lock_state::lock_state(file const& of, byte_range range, os::lock_range bytes, lock_kind kind)
    : kind_{kind},
      writable_{of.access() == access::read_write},
      range_{range},
      bytes_{bytes},
      order_{&ordering_of(of.identity())},
      path_{of.path()} {}

auto lock_state::open(file const& of, byte_range range, lock_kind kind) -> result<std::unique_ptr<lock_state>> {
  if (!of.is_open()) {
    return failure(errc::closed, "lock");
  }
  auto const bytes = system_range(range);
  if (!bytes) {
    return failure(errc::out_of_range, "lock", of.path(), range, "offsets of files end at 2^63");
  }
  if (kind == lock_kind::process) {
    return failure(errc::invalid_options, "lock", of.path(), part_of_file(range),
                   "closing any descriptor of the file would drop a lock of the process");
  }
  if (kind == lock_kind::flock && range != whole) {
    return failure(errc::invalid_options, "lock", of.path(), range, "flock(2) locks whole files");
  }
  std::unique_ptr<lock_state> state{new lock_state{of, range, *bytes, kind}};
  auto const opened = open_locks::add(*state, [&] { return open_again(of, state->writable_); });
  if (!opened) {
    std::string_view const hint =
        opened.error() == EACCES   ? "a lock opens the file once more, and that is not permitted any more"
        : opened.error() == ENOENT ? "a lock opens the file once more, and neither /proc nor the path leads there"
                                   : "";
    return failure(opened.error(), "lock", of.path(), part_of_file(range), hint);
  }
  return state;
}

lock_state::~lock_state() {
  if (auto const closed = close(); !closed) {
    report_dropped_error(fail(closed.error(), "close the lock of").error());
  }
}

// Unlocks first: what a clone(2) or vfork(2) has given a child keeps the description open, and with it the lock.
auto lock_state::close() noexcept -> os::outcome<void> {
  if (descriptor_ >= 0 && held()) {
    if (auto const unlocked = unlock_in_system(); !unlocked) {
      report_dropped_error(fail(unlocked.error(), "unlock").error());
    }
    word_ = 0;
  }
  return open_locks::remove(*this);
}

void lock_state_deleter::operator()(lock_state* state) const noexcept {
  // Threads that waited when the process was forked are not in the child, and what they waited at cannot be destroyed there:
  // pthread_cond_destroy(3) would wait for them. No other lock that goes is waited for.
  if (state->is_waited_for()) {
    (void)state->close();
    return;
  }
  delete state;
}

// --- The system's lock ------------------------------------------------------------------------------------------------

// POSIX lets fcntl(2) say either; flock(2) has but one.
auto lock_state::is_contention(int code) const noexcept -> bool {
  return code == EAGAIN || (code == EACCES && kind_ == lock_kind::open_file_description);
}

auto lock_state::wait_in_system(lock_mode mode, wait_end end) -> os::outcome<bool> {
  announce_wait();
  if (end.is_never()) {
    auto const made = os::retry([&] { return make_lock(mode, true); });
    return made ? os::outcome<bool>{true} : std::unexpected(made.error());
  }
  auto const signal = interrupting_signal();
  auto const limit = !signal        ? os::outcome<os::time_limit>{std::unexpected(signal.error())}
                     : *signal == 0 ? os::outcome<os::time_limit>{std::unexpected(0)}
                                    : os::time_limit::begin(*signal, nanoseconds_of(end.deadline));
  method_ = limit ? wait_method::kernel : wait_method::polling;
  if (!limit) {
    if (limit.error() != 0) {
      auto const* const why =
          limit.error() == EBUSY ? "all real-time signals are taken; the wait polls instead" : "the wait polls instead";
      report_dropped_error(fail(limit.error(), "set a timer for the lock of", why).error());
    }
    return poll_system(mode, end);
  }
  std::stop_callback const expiring{end.token(), [&]() noexcept {
                                      if (!is_forked()) { // a child may have a timer of that number
                                        limit->expire();
                                      }
                                    }};
  while (true) {
    auto const made = make_lock(mode, true);
    if (made) {
      return true;
    }
    if (made.error() != EINTR) {
      return std::unexpected(made.error());
    }
    if (end.is_over()) {
      return false;
    }
  }
}

auto lock_state::poll_system(lock_mode mode, wait_end end) -> os::outcome<bool> {
  using namespace std::chrono_literals;
  constexpr clock::duration longest = 1ms;
  clock::duration pause = 20us;
  while (!end.is_over()) {
    auto const now = clock::now();
    (void)os::sleep_until(nanoseconds_of(std::min(end.deadline, now + pause))); // a signal only makes it shorter
    if (end.is_stopped()) {
      return false;
    }
    auto const made = os::retry([&] { return make_lock(mode, false); });
    if (made) {
      return true;
    }
    if (!is_contention(made.error())) {
      return std::unexpected(made.error());
    }
    pause = std::min(longest, pause * 2);
  }
  return false;
}

// --- The threads of this process --------------------------------------------------------------------------------------

// Ends a change that this thread has made, with what is so from now on. Threads that wait look again.
void lock_state::settle(std::uint32_t now) noexcept {
  if ((word_.exchange(now, memory_order_acq_rel) & parked) != 0) [[unlikely]] {
    wake();
  }
}

// The same after the last share, which those have waited for who want it exclusively: they are not to be overtaken by those
// who come to share it.
void lock_state::settle_free() noexcept {
  auto seen = word_.load(memory_order_relaxed);
  while (!word_.compare_exchange_weak(seen, seen & wanted, memory_order_acq_rel)) {
  }
  if ((seen & parked) != 0) [[unlikely]] {
    wake();
  }
}

// A thread that has wished for something gives up.
void lock_state::withdraw(std::uint32_t wish) noexcept {
  if (wish != 0) {
    word_.fetch_and(~(wish | parked), memory_order_acq_rel);
    wake(); // others who wish for the same say so again
  }
}

// Lets those go away who would wait for a moment, but not for as long as this thread is about to.
void lock_state::announce_wait() noexcept {
  if ((word_.fetch_or(waiting, memory_order_acq_rel) & parked) != 0) {
    word_.fetch_and(~parked, memory_order_acq_rel);
    wake();
  }
}

// All look again, and park again where they have to.
void lock_state::wake() noexcept {
  {
    std::scoped_lock const guard{mutex_};
    ++changes_;
  }
  changed_.notify_all();
}

// Waits for the word to be another than `seen`, and notes what the thread wishes while it does.
auto lock_state::wait_for_change(std::uint32_t seen, std::uint32_t wish, wait_end end) -> change {
  // Who only asks the system, and does not wait there, is done in a moment, and the only one to change the word until then.
  // Not even a try gives up for that.
  for (unsigned times = 0; (seen & changing) != 0 && (seen & waiting) == 0; ++times) {
    pause(times);
    if (word_.load(memory_order_relaxed) != seen) {
      return change::seen;
    }
  }
  if (end.is_over()) {
    return change::too_late;
  }
  std::stop_callback const waking{end.token(), [&]() noexcept {
                                    if (!is_forked()) { // the mutex may be that of a thread the child has not
                                      wake();
                                    }
                                  }};
  std::unique_lock guard{mutex_};
  if (!word_.compare_exchange_strong(seen, seen | parked | wish, memory_order_acq_rel)) {
    return change::seen;
  }
  auto const before = changes_;
  auto const is_time = [&] { return changes_ != before || end.is_stopped(); };
  ++waiters_;
  if (end.deadline == never) {
    changed_.wait(guard, is_time);
  } else {
    (void)changed_.wait_until(guard, end.deadline, is_time);
  }
  --waiters_;
  return change::seen;
}

// Asks the system on behalf of all threads: this one has marked the word as changing. `refusal` is what the system has said
// already, when it has been asked; `otherwise` is how it goes on when the lock cannot be had.
auto lock_state::ask_system(lock_mode mode, wait_end end, std::uint32_t otherwise, int refusal) -> result<bool> {
  uncancelled const here;
  auto made = refusal == 0 ? make_lock(mode, false) : os::outcome<void>{std::unexpected(refusal)};
  while (!made && made.error() == EINTR) {
    made = make_lock(mode, false);
  }
  auto const acquired = made                           ? os::outcome<bool>{true}
                        : !is_contention(made.error()) ? os::outcome<bool>{std::unexpected(made.error())}
                        : end.deadline == at_once      ? os::outcome<bool>{false}
                                                       : wait_in_system(mode, end);
  if (!acquired || !*acquired) {
    settle(otherwise);
    return acquired ? given_up(end) : fail(acquired.error(), otherwise == 0 ? "lock" : "upgrade the lock of");
  }
  (void)order_->load(memory_order_acquire);
  auto const alone = mode == lock_mode::exclusive;
  owner_.store(alone ? this_thread() : nobody, memory_order_relaxed);
  settle(alone ? exclusive : 1);
  return true;
}

auto lock_state::acquire_slowly(lock_mode mode, wait_end end) -> result<bool> {
  uncancelled const here;
  if (is_forked()) {
    return fail(errc::forked, "lock");
  }
  if (!allows(mode)) {
    return fail(errc::read_only, "lock", "an exclusive lock needs access::read_write, or lock_kind::flock");
  }
  auto const alone = mode == lock_mode::exclusive;
  auto const wish = alone ? wanted : 0;
  auto const in_the_way = sharers | exclusive | changing | (wanted & ~wish);
  std::uint32_t wished = 0;
  while (!end.is_stopped()) {
    auto seen = word_.load(memory_order_relaxed);
    auto const can_be_shared = !alone && (seen & sharers) != 0 && (seen & (changing | wanted | upgrading)) == 0;
    if ((seen & in_the_way) == 0) {
      if (word_.compare_exchange_weak(seen, seen | changing, memory_order_acquire)) {
        return ask_system(mode, end, 0);
      }
    } else if (can_be_shared && (seen & sharers) == sharers) {
      return fail(EAGAIN, "lock", "too many threads share it");
    } else if (can_be_shared) {
      if (word_.compare_exchange_weak(seen, seen + 1, memory_order_acquire)) {
        return true;
      }
    } else if (end.deadline != at_once && is_of_this_thread(seen)) {
      return fail(EDEADLK, "lock", "this thread has it exclusively");
    } else if (wait_for_change(seen, wish, end) == change::too_late) {
      break;
    } else {
      wished = wish;
    }
  }
  withdraw(wished);
  return given_up(end);
}

auto lock_state::given_up(wait_end end) const -> result<bool> {
  return end.is_stopped() ? result<bool>{fail(ECANCELED, "lock", "a stop was requested")} : result<bool>{false};
}

auto lock_state::upgrade(wait_end end) -> result<bool> {
  constexpr std::string_view operation = "upgrade the lock of";
  if (is_forked()) {
    return fail(errc::forked, operation);
  }
  if (kind_ == lock_kind::flock) {
    return fail(EOPNOTSUPP, operation, "flock(2) would let go of the shared lock first");
  }
  if (!writable_) {
    return fail(errc::read_only, operation, "an exclusive lock needs access::read_write");
  }
  uncancelled const here;
  auto const waits = end.deadline != at_once;
  bool announced = false;
  while (true) {
    auto seen = word_.load(memory_order_relaxed);
    auto const count = seen & sharers;
    if (count == 0) {
      withdraw(announced ? upgrading : 0);
      return fail(errc::lock_not_held, operation, "it has to be shared");
    }
    if (count == 1 && (seen & changing) == 0) {
      if (word_.compare_exchange_weak(seen, seen | changing, memory_order_acquire)) {
        return ask_system(lock_mode::exclusive, end, 1);
      }
    } else if (!announced && (!waits || (seen & upgrading) != 0)) {
      return false;
    } else if (!announced) {
      announced = word_.compare_exchange_weak(seen, seen | upgrading, memory_order_acquire);
    } else if (wait_for_change(seen, 0, end) == change::too_late) {
      withdraw(upgrading);
      return false;
    }
  }
}

auto lock_state::downgrade() -> result<void> {
  constexpr std::string_view operation = "downgrade the lock of";
  if (is_forked()) {
    return fail(errc::forked, operation);
  }
  auto seen = word_.load(memory_order_relaxed);
  do {
    if ((seen & exclusive) == 0) {
      return fail(errc::lock_not_held, operation, "it has to be exclusive");
    }
  } while (!word_.compare_exchange_weak(seen, (seen & ~exclusive) | changing, memory_order_acquire));
  order_->fetch_add(1, memory_order_release);
  auto const shared = os::retry([&] { return make_lock(lock_mode::shared, false); });
  if (!shared) {
    // fcntl(2) has then changed nothing. Of flock(2) the manual says that it lets go of the lock first: somebody may have it.
    auto const lost = kind_ == lock_kind::flock && is_contention(shared.error());
    settle(lost ? 0 : exclusive);
    return fail(shared.error(), operation, lost ? "it is lost to somebody else" : "it is still exclusive");
  }
  owner_.store(nobody, memory_order_relaxed);
  settle(1);
  return {};
}

auto lock_state::release_slowly(bool for_sure) -> result<void> {
  constexpr std::string_view operation = "unlock";
  if (is_forked()) {
    return fail(errc::forked, operation);
  }
  auto seen = word_.load(memory_order_relaxed);
  while (true) {
    auto const count = seen & sharers;
    if (count == 0 && (seen & exclusive) == 0) {
      return fail(errc::lock_not_held, operation);
    }
    if (count > 1) {
      // Who waits to upgrade has one of the shares, and goes on when it is the last.
      auto const last = count == 2 && (seen & upgrading) != 0;
      auto const rest = last ? (seen - 1) & ~parked : seen - 1;
      if (word_.compare_exchange_weak(seen, rest, memory_order_release)) {
        if (last) {
          wake();
        }
        return {};
      }
      continue;
    }
    if ((seen & changing) != 0) {
      return fail(errc::lock_not_held, operation, "the last share is being upgraded");
    }
    auto const held = count + (seen & exclusive);
    if (word_.compare_exchange_weak(seen, (seen - held) | changing, memory_order_acq_rel)) {
      return after_release(held, for_sure, unlock_in_system());
    }
  }
}

// What is so after the system was asked to let go of the lock, which the threads of this process held as `held` says.
auto lock_state::after_release(std::uint32_t held, bool for_sure, os::outcome<void> const& unlocked) -> result<void> {
  if (!unlocked && !for_sure) {
    settle(held);
  } else {
    owner_.store(nobody, memory_order_relaxed);
    held == exclusive ? settle(0) : settle_free();
  }
  return unlocked ? result<void>{} : fail(unlocked.error(), "unlock");
}

auto lock_state::held() const noexcept -> std::optional<lock_mode> {
  auto const seen = word_.load(memory_order_relaxed);
  return is_forked()               ? std::nullopt
         : (seen & exclusive) != 0 ? std::optional{lock_mode::exclusive}
         : (seen & sharers) != 0   ? std::optional{lock_mode::shared}
                                   : std::nullopt;
}

auto lock_state::fail(int code, std::string_view operation, std::string_view hint) const -> std::unexpected<error> {
  return failure(code, operation, path_, part_of_file(range_), hint);
}

auto lock_state::fail(errc code, std::string_view operation, std::string_view hint) const -> std::unexpected<error> {
  return failure(code, operation, path_, part_of_file(range_), hint);
}

} // namespace fmmap
