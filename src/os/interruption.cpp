// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <ctime>
#include <expected>

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

module fmmap.os;

namespace fmmap::os {

namespace {

constexpr std::int64_t repetition = 100'000; // nanoseconds
constexpr std::int64_t long_ago = 1;         // a point in time of 0 would disarm the timer

// A signal that is ignored or left to the system does not interrupt; one that is handled does.
extern "C" void fmmap_interrupt(int /*signal*/) {}

auto change_mask(int how, int signal, sigset_t* before) noexcept -> outcome<void> {
  sigset_t one;
  ::sigemptyset(&one);
  ::sigaddset(&one, signal);
  return perform(call::pthread_sigmask, [&] {
    errno = ::pthread_sigmask(how, &one, before); // returns the error
    return errno == 0 ? 0 : -1;
  });
}

// The timers of the system, by number: those of the C library know no threads before glibc 2.35.
auto create_timer(int signal) noexcept -> outcome<int> {
  struct sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = signal;
  event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid)); // the name of the field until glibc 2.38
  int timer = -1;
  auto const done = invoke(call::timer_create, [&] {
    return static_cast<int>(::syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer));
  });
  return done ? outcome<int>{timer} : std::unexpected(done.error());
}

auto arm_timer(int timer, std::int64_t deadline) noexcept -> outcome<void> {
  itimerspec const when{.it_interval = time_at(repetition), .it_value = time_at(std::max(deadline, long_ago))};
  return perform(call::timer_settime,
                 [&] { return static_cast<int>(::syscall(SYS_timer_settime, timer, TIMER_ABSTIME, &when, nullptr)); });
}

void delete_timer(int timer) noexcept {
  // Fails for no timer that exists.
  (void)invoke(call::timer_delete, [&] { return static_cast<int>(::syscall(SYS_timer_delete, timer)); });
}

} // namespace

auto first_realtime_signal() noexcept -> int { return SIGRTMIN; }
auto last_realtime_signal() noexcept -> int { return SIGRTMAX; }

auto claim_signal(int signal) noexcept -> outcome<void> {
  struct sigaction now{};
  if (auto const asked = invoke(call::sigaction, [&] { return ::sigaction(signal, nullptr, &now); }); !asked) {
    return std::unexpected(asked.error());
  }
  auto const simple = (now.sa_flags & SA_SIGINFO) == 0;
  if (simple && now.sa_handler == fmmap_interrupt) {
    return {};
  }
  if (!simple || now.sa_handler != SIG_DFL) {
    return std::unexpected(EBUSY);
  }
  struct sigaction mine{};
  mine.sa_handler = fmmap_interrupt;
  mine.sa_flags = SA_ONSTACK; // and not SA_RESTART
  return perform(call::sigaction, [&] { return ::sigaction(signal, &mine, nullptr); });
}

auto time_limit::begin(int signal, std::int64_t deadline) noexcept -> outcome<time_limit> {
  auto const timer = create_timer(signal);
  if (!timer) {
    return std::unexpected(timer.error());
  }
  time_limit limit{signal, *timer};
  sigset_t before;
  if (auto const open = change_mask(SIG_UNBLOCK, signal, &before); !open) {
    return std::unexpected(open.error());
  }
  limit.was_blocked_ = ::sigismember(&before, signal) == 1;
  if (auto const armed = arm_timer(*timer, deadline); !armed) {
    return std::unexpected(armed.error());
  }
  return limit;
}

time_limit::~time_limit() {
  if (timer_ == none) {
    return;
  }
  // In this order: a signal that has been sent is handled before it is blocked again.
  delete_timer(timer_);
  if (was_blocked_) {
    (void)change_mask(SIG_BLOCK, signal_, nullptr);
  }
}

void time_limit::expire() const noexcept {
  (void)arm_timer(timer_, long_ago); // fails for no timer that exists
}

// pthread_sigmask(3) does not fail with arguments that are right.
no_handlers::no_handlers() noexcept : before_{} {
  sigset_t most;
  ::sigfillset(&most);
  for (int const fault : {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGSYS}) {
    ::sigdelset(&most, fault);
  }
  (void)::pthread_sigmask(SIG_SETMASK, &most, &before_);
}

no_handlers::~no_handlers() { (void)::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

} // namespace fmmap::os
