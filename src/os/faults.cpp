// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <mutex>
#include <span>
#include <utility>

#include <ucontext.h>

module fmmap.os;

namespace fmmap::os {

namespace {

// What a thread has under guard, innermost first. It lives in the frame of run_guarded.
struct guard {
  std::uintptr_t begin;
  std::uintptr_t end;
  guard* outer;
  fault caught;
  sigjmp_buf resume;
};

// In the static thread-local storage, which a signal handler may touch: the dynamic one may have to be allocated first.
[[gnu::tls_model("initial-exec")]] constinit thread_local guard* innermost = nullptr;

// The handler from before. A signal may come in the middle of another installation, and reads whichever is in place.
struct sigaction previous[2]{};
std::atomic<struct sigaction const*> previous_in_place{nullptr};
std::atomic<bool> handler_is_set{false};
std::mutex installation;

// The signal that this thread is passing on. Handlers are given a copy, by which one is known that comes back: two that each
// take the other for the one before would pass it on for ever. A flag would not do, for handlers may jump away.
[[gnu::tls_model("initial-exec")]] constinit thread_local siginfo_t const* passed_on = nullptr;

// Whether an access raised the signal, and is made again when the handler returns; others have been sent.
auto raised_by_an_access(siginfo_t const& info) noexcept -> bool {
  switch (info.si_code) {
  case BUS_ADRALN:
  case BUS_ADRERR:
  case BUS_OBJERR:
  case BUS_MCEERR_AR:
  case SI_KERNEL:
    return true;
  default:
    return false;
  }
}

// Makes the system do what it does by default: to the access when it is made again, or to a signal that was sent.
void leave_to_the_system(int signal, siginfo_t const& info) noexcept {
  struct sigaction standard{};
  standard.sa_handler = SIG_DFL;
  ::sigaction(signal, &standard, nullptr);
  if (!raised_by_an_access(info)) {
    ::raise(signal);
  }
}

constexpr struct sigaction by_default{}; // SIG_DFL

// Does with a signal what would be done with it if fmmap were not there.
void pass_on(int signal, siginfo_t* info, void* context) noexcept {
  auto const* before = previous_in_place.load(std::memory_order_acquire);
  if (before == nullptr || info == passed_on) {
    leave_to_the_system(signal, *info);
    return;
  }
  auto const action = *before;
  auto const with_information = (action.sa_flags & SA_SIGINFO) != 0;
  if (!with_information && action.sa_handler == SIG_IGN && !raised_by_an_access(*info)) {
    return;
  }
  if (!with_information && (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN)) {
    leave_to_the_system(signal, *info); // an access that is ignored would be made again for ever
    return;
  }
  if ((static_cast<unsigned>(action.sa_flags) & SA_RESETHAND) != 0) {
    previous_in_place.compare_exchange_strong(before, &by_default);
  }
  auto blocked = action.sa_mask;
  if ((action.sa_flags & SA_NODEFER) == 0) {
    ::sigaddset(&blocked, signal);
  }
  sigset_t mine;
  ::pthread_sigmask(SIG_BLOCK, &blocked, &mine);
  // It may jump away, out of frames that hold guards: they are taken off before.
  auto* const waiting = std::exchange(innermost, nullptr);
  auto copy = *info;
  auto const* const outer = std::exchange(passed_on, &copy);
  if (with_information) {
    action.sa_sigaction(signal, &copy, context);
  } else {
    action.sa_handler(signal);
  }
  passed_on = outer;
  innermost = waiting;
  ::pthread_sigmask(SIG_SETMASK, &mine, nullptr);
}

auto kind_of(siginfo_t const& info) noexcept -> fault_kind {
  switch (info.si_code) {
  case BUS_ADRERR:
  case BUS_OBJERR:
    return fault_kind::no_page;
  case BUS_MCEERR_AR:
    return fault_kind::memory_failure;
  default:
    return fault_kind::none;
  }
}

void handle_bus_error(int signal, siginfo_t* info, void* context) noexcept {
  auto const error = errno;
  auto const kind = kind_of(*info);
  // Of failed memory the system tells a unit, which may begin before what is guarded.
  auto const unit = kind == fault_kind::memory_failure ? std::uintptr_t{1} << info->si_addr_lsb : 1;
  auto const address = reinterpret_cast<std::uintptr_t>(info->si_addr) & ~(unit - 1);
  for (auto* waiting = kind == fault_kind::none ? nullptr : innermost; waiting != nullptr; waiting = waiting->outer) {
    if (waiting->begin < address + unit && address < waiting->end) {
      waiting->caught = {.kind = kind, .address = reinterpret_cast<std::byte*>(std::max(address, waiting->begin))};
      // Signals may be blocked more than SA_NODEFER says: the thread sanitizer's own handler blocks all.
      ::pthread_sigmask(SIG_SETMASK, &static_cast<ucontext_t const*>(context)->uc_sigmask, nullptr);
      ::siglongjmp(waiting->resume, 1);
    }
  }
  pass_on(signal, info, context);
  errno = error;
}

auto is_ours(struct sigaction const& action) noexcept -> bool {
  return (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == handle_bus_error;
}

} // namespace

auto install_fault_handler() noexcept -> outcome<void> {
  std::scoped_lock const lock{installation};
  struct sigaction now{};
  if (auto const done = invoke(call::sigaction, [&] { return ::sigaction(SIGBUS, nullptr, &now); }); !done) {
    return std::unexpected(done.error());
  }
  if (is_ours(now)) {
    handler_is_set.store(true, std::memory_order_release);
    return {};
  }
  auto& before = previous_in_place.load(std::memory_order_relaxed) == &previous[0] ? previous[1] : previous[0];
  before = now;
  previous_in_place.store(&before, std::memory_order_release);
  struct sigaction mine{};
  mine.sa_sigaction = handle_bus_error;
  // Not deferred: the handler is left by a jump, and saving the signal mask at every guard would cost 100 ns.
  mine.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK | SA_RESTART;
  ::sigemptyset(&mine.sa_mask);
  if (auto const done = invoke(call::sigaction, [&] { return ::sigaction(SIGBUS, &mine, nullptr); }); !done) {
    return std::unexpected(done.error());
  }
  handler_is_set.store(true, std::memory_order_release);
  return {};
}

auto ensure_fault_handler() noexcept -> outcome<void> {
  return handler_is_set.load(std::memory_order_acquire) ? outcome<void>{} : install_fault_handler();
}

auto run_guarded(std::span<std::byte const> memory, void (*work)(void*) noexcept, void* context) noexcept -> fault {
  auto const begin = reinterpret_cast<std::uintptr_t>(memory.data());
  guard mine;
  mine.begin = begin;
  mine.end = begin + memory.size();
  mine.outer = innermost;
  if (sigsetjmp(mine.resume, 0) != 0) {
    innermost = mine.outer;
    return mine.caught;
  }
  innermost = &mine;
  std::atomic_signal_fence(std::memory_order_seq_cst); // the handler sees it from the first access on
  work(context);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  innermost = mine.outer;
  return {};
}

} // namespace fmmap::os
