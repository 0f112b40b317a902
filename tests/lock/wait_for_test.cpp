// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <future>
#include <iostream>
#include <limits>
#include <optional>
#include <ratio>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <pthread.h>
#include <unistd.h>

#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.lock;
import fmmap.os;

using fmmap::access;
using fmmap::file;
using fmmap::file_lock;
using fmmap::lock_mode;
using fmmap::or_throw;
using fmmap::wait_for;
using fmmap::wait_method;
using fmmap::os::call;
using namespace std::chrono_literals;
namespace seam = fmmap::os::seam;

namespace {

using steady = std::chrono::steady_clock;

constexpr auto shared = lock_mode::shared;
constexpr auto exclusive = lock_mode::exclusive;
constexpr auto longest = std::chrono::nanoseconds::max();

static_assert(wait_for{1500us}.limit() == 1'500'000ns);
static_assert(wait_for{std::chrono::duration<double, std::nano>{0.1}}.limit() == 1ns); // rounded up: never early
static_assert(wait_for{0s} == fmmap::no_wait && wait_for{-1s} == fmmap::no_wait);
static_assert(wait_for{std::chrono::hours::min()} == fmmap::no_wait);
static_assert(wait_for{std::chrono::hours::max()} == fmmap::forever);
static_assert(wait_for{std::chrono::years{293}} == fmmap::forever);
static_assert(wait_for{longest} == fmmap::forever && wait_for{longest - 1s}.limit() == longest - 1s);
static_assert(wait_for{std::chrono::duration<double>{std::numeric_limits<double>::infinity()}} == fmmap::forever);
static_assert(wait_for{std::chrono::duration<std::int64_t, std::atto>{1}}.limit() == 1ns);

// A lock that another object of the process holds.
struct taken_place {
  scratch folder;
  file data = or_throw(file::create_new(folder / "data"));
  file_lock holder = or_throw(file_lock::create(data));
  file_lock lock = or_throw(file_lock::create(data));

  taken_place() { or_throw(holder.acquire(exclusive)); }
};

auto had(fmmap::result<bool> const& outcome) -> bool { return or_throw(outcome); }

template <class Call>
auto time_of(Call const& what) -> steady::duration {
  auto const start = steady::now();
  what();
  return steady::now() - start;
}

// The setting of the signal before the test, at its end.
struct signal_restored {
  int before = fmmap::lock_signal();
  ~signal_restored() { (void)fmmap::set_lock_signal(before); }
};

// A clock that the test moves.
struct set_clock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<set_clock>;
  [[maybe_unused]] static constexpr bool is_steady = false;

  static inline std::atomic<std::int64_t> offset{0};

  static auto now() noexcept -> time_point {
    return time_point{std::chrono::duration_cast<duration>(steady::now().time_since_epoch()) + duration{offset.load()}};
  }
};

std::vector<int> dropped;
void note_dropped(fmmap::error const& why) noexcept { dropped.push_back(why.code().value()); }

} // namespace

BOOST_AUTO_TEST_SUITE(a_wait_with_a_limit)

BOOST_AUTO_TEST_CASE(is_never_over_early_beside_processes_that_spin) {
  taken_place place;
  std::vector<pid_t> spinning;
  for (int i = 0; i < 2; ++i) {
    spinning.push_back(start_child([] {
      while (true) {
      }
      return 0;
    }));
  }
  constexpr int waits = 200;
  std::vector<std::chrono::microseconds> late;
  int early = 0;
  for (int i = 0; i < waits; ++i) {
    auto const limit = std::chrono::microseconds{500 + 37 * i % 5000};
    bool acquired = true;
    auto const taken = time_of([&] { acquired = had(place.lock.acquire_for(i % 2 == 0 ? exclusive : shared, limit)); });
    BOOST_TEST(!acquired);
    early += taken < limit ? 1 : 0;
    late.push_back(std::chrono::duration_cast<std::chrono::microseconds>(taken - limit));
  }
  for (auto const child : spinning) {
    ::kill(child, SIGKILL);
    end_of(child);
  }
  std::ranges::sort(late);
  std::cout << waits << " waits beside 2 spinning processes, " << early << " early; late by p50 "
            << late[waits / 2].count() << " us, p95 " << late[waits * 95 / 100].count() << " us, max "
            << late.back().count() << " us\n";
  BOOST_TEST(early == 0);
  BOOST_TEST((place.lock.method() == wait_method::kernel));
}

BOOST_AUTO_TEST_CASE(of_nothing_or_less_does_not_wait) {
  taken_place place;
  for (wait_for const limit : {wait_for{0s}, wait_for{-1ns}, wait_for{std::chrono::hours::min()}, fmmap::no_wait}) {
    seam::armed const table;
    BOOST_TEST(!had(place.lock.acquire_for(exclusive, limit)));
    BOOST_TEST(seam::calls().size() == 1U);
  }
  std::chrono::duration<double> const no_number{std::numeric_limits<double>::quiet_NaN()};
  BOOST_TEST((wait_for{no_number} == fmmap::no_wait));
  seam::armed const table;
  BOOST_TEST(!had(place.lock.acquire_until(exclusive, steady::time_point::min())));
  BOOST_TEST(!had(place.lock.acquire_until(exclusive, steady::now() - 1h)));
  BOOST_TEST(!had(place.lock.acquire_until(shared, std::chrono::system_clock::time_point{})));
  BOOST_TEST(!place.lock.try_lock_for(-1s));
  BOOST_TEST(!place.lock.try_lock_shared_for(0s));
  BOOST_TEST(!place.lock.try_lock_until(steady::now()));
  BOOST_TEST(!place.lock.try_lock_shared_until(steady::now()));
  BOOST_TEST(seam::calls().size() == 7U);
}

BOOST_AUTO_TEST_CASE(of_ages_ends_when_the_lock_is_free) {
  for (wait_for const limit :
       {wait_for{std::chrono::hours::max()}, wait_for{longest}, wait_for{longest - 1ns}, wait_for{24h}}) {
    taken_place place;
    std::jthread const releasing{[&] {
      std::this_thread::sleep_for(2ms);
      or_throw(place.holder.release());
    }};
    BOOST_TEST(had(place.lock.acquire_for(exclusive, limit)));
  }
  taken_place place;
  std::jthread const releasing{[&] {
    std::this_thread::sleep_for(2ms);
    or_throw(place.holder.release());
  }};
  BOOST_TEST(had(place.lock.acquire_until(exclusive, steady::time_point::max())));
}

BOOST_AUTO_TEST_CASE(is_told_from_one_that_is_over_however_far_away_it_ends) {
  taken_place place;
  using namespace std::chrono;
  for (int const past : {-30000, 1, 1000, 1500, 1600, 1969}) {
    seam::armed const table;
    BOOST_TEST(!had(place.lock.acquire_until(exclusive, sys_days{year{past} / 1 / 1})));
    BOOST_TEST(seam::calls().size() == 1U, past << " was waited for");
  }
  duration<double> const no_number{std::numeric_limits<double>::quiet_NaN()};
  BOOST_TEST(!had(place.lock.acquire_until(exclusive, time_point<system_clock, duration<double>>{no_number})));
  BOOST_TEST(!place.lock.try_lock_shared_until(time_point<steady, duration<double>>{no_number}));
  for (int const future : {2263, 2300, 2700, 9999, 30000}) {
    taken_place other;
    std::jthread const releasing{[&] {
      std::this_thread::sleep_for(2ms);
      or_throw(other.holder.release());
    }};
    BOOST_TEST(had(other.lock.acquire_until(exclusive, sys_days{year{future} / 1 / 1})),
               future << " was not waited for");
  }
  taken_place other;
  std::jthread const releasing{[&] {
    std::this_thread::sleep_for(2ms);
    or_throw(other.holder.release());
  }};
  BOOST_TEST(had(other.lock.acquire_until(exclusive, sys_time<hours>::max())));
}

BOOST_AUTO_TEST_CASE(is_no_point_of_cancellation) {
  taken_place place;
  struct waiting {
    file_lock* lock;
    bool acquired = true;
    bool over = false;
  } here{.lock = &place.lock};
  for (int i = 0; i < 2; ++i) {
    pthread_t thread{};
    BOOST_TEST(::pthread_create(
                   &thread, nullptr,
                   +[](void* of) -> void* {
                     auto& me = *static_cast<waiting*>(of);
                     me.acquired = had(me.lock->acquire_for(exclusive, 20ms));
                     me.over = true;
                     ::pthread_testcancel();
                     return nullptr;
                   },
                   &here) == 0);
    std::this_thread::sleep_for(5ms);
    ::pthread_cancel(thread);
    void* end = nullptr;
    ::pthread_join(thread, &end);
    BOOST_TEST((end == PTHREAD_CANCELED && here.over && !here.acquired));
    (void)fmmap::set_lock_signal(i == 0 ? 0 : SIGRTMAX); // the second wait polls
  }
  or_throw(place.holder.release());
  BOOST_TEST(had(place.lock.try_acquire(exclusive)));
}

BOOST_AUTO_TEST_CASE(waits_in_the_system_and_does_not_ask_again) {
  taken_place place;
  seam::armed const table;
  BOOST_TEST(!had(place.lock.acquire_for(exclusive, 30ms)));
  auto const calls = seam::calls();
  BOOST_TEST(std::ranges::count(calls, call::fcntl) <= 4); // one try, one wait; the signal repeats every millisecond
  BOOST_TEST(std::ranges::count(calls, call::clock_nanosleep) == 0);
  BOOST_TEST(std::ranges::count(calls, call::timer_create) == 1);
  BOOST_TEST(std::ranges::count(calls, call::timer_delete) == 1);
}

BOOST_AUTO_TEST_CASE(goes_on_when_the_clock_is_set_back) {
  taken_place place;
  set_clock::offset = 0;
  std::jthread const setting{[] {
    std::this_thread::sleep_for(5ms);
    set_clock::offset = -400'000'000;
  }};
  auto const taken = time_of([&] { BOOST_TEST(!had(place.lock.acquire_until(exclusive, set_clock::now() + 200ms))); });
  BOOST_TEST((taken >= 600ms));
}

BOOST_AUTO_TEST_CASE(goes_on_after_other_signals) {
  struct sigaction action{};
  action.sa_handler = [](int) {};
  struct sigaction before{};
  ::sigaction(SIGUSR1, &action, &before);
  for (bool const limited : {true, false}) {
    taken_place place;
    std::atomic<bool> over{false};
    auto const waiter = ::pthread_self();
    std::jthread const disturbing{[&] {
      for (int i = 0; i < 20; ++i) {
        std::this_thread::sleep_for(1ms);
        ::pthread_kill(waiter, SIGUSR1);
      }
      over = true;
      or_throw(place.holder.release());
    }};
    BOOST_TEST((limited ? had(place.lock.acquire_for(exclusive, 60s)) : place.lock.acquire(exclusive).has_value()));
    BOOST_TEST(over);
  }
  ::sigaction(SIGUSR1, &before, nullptr);
}

BOOST_AUTO_TEST_CASE(of_one_thread_does_not_end_that_of_another) {
  taken_place place;
  auto patient = or_throw(file_lock::create(place.data));
  auto waiting = std::async(std::launch::async, [&] {
    bool acquired = true;
    auto const taken = time_of([&] { acquired = had(patient.acquire_for(exclusive, 60ms)); });
    return !acquired && taken >= 60ms;
  });
  for (int i = 0; i < 10; ++i) {
    BOOST_TEST(!had(place.lock.acquire_for(exclusive, 3ms)));
  }
  BOOST_TEST(waiting.get());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(the_signal_of_waits)

BOOST_AUTO_TEST_CASE(is_the_highest_that_nobody_uses_unless_one_is_set) {
  // In a process of its own, in which none has been needed yet.
  BOOST_TEST(found_in_child([](findings& found) {
               struct sigaction used{};
               used.sa_handler = [](int) {};
               ::sigaction(SIGRTMAX, &used, nullptr);
               ::signal(SIGRTMAX - 1, SIG_IGN);
               taken_place place;
               found.expect(!had(place.lock.acquire_for(exclusive, 2ms)), "the lock was had");
               found.expect(fmmap::lock_signal() == SIGRTMAX - 2, "another signal was taken");
               found.expect(place.lock.method() == wait_method::kernel, "it polled");
               struct sigaction now{};
               ::sigaction(SIGRTMAX, nullptr, &now);
               found.expect(now.sa_handler == used.sa_handler, "a handler was replaced");
             }) == "");
}

BOOST_AUTO_TEST_CASE(can_be_chosen) {
  signal_restored const restored;
  or_throw(fmmap::set_lock_signal(SIGRTMIN + 3));
  BOOST_TEST(fmmap::lock_signal() == SIGRTMIN + 3);
  taken_place place;
  BOOST_TEST(!had(place.lock.acquire_for(exclusive, 2ms)));
  BOOST_TEST((place.lock.method() == wait_method::kernel));
  BOOST_TEST(fmmap::lock_signal() == SIGRTMIN + 3);
}

BOOST_AUTO_TEST_CASE(is_refused_where_it_is_somebody_elses_or_none) {
  signal_restored const restored;
  or_throw(fmmap::set_lock_signal(SIGRTMIN + 3));
  ::signal(SIGRTMIN + 4, SIG_IGN);
  for (int const signal : {SIGKILL, SIGSTOP, SIGSEGV, SIGUSR1, -1, 1000, 32}) {
    auto const set = fmmap::set_lock_signal(signal);
    BOOST_TEST((!set && set.error() == std::errc::invalid_argument), signal << " was not refused");
  }
  auto const set = fmmap::set_lock_signal(SIGRTMIN + 4);
  BOOST_TEST((!set && set.error() == std::errc::device_or_resource_busy));
  BOOST_TEST(set.error().message() == "cannot use signal " + std::to_string(SIGRTMIN + 4) +
                                          " for locks: Device or resource busy; it has a handler, or is ignored");
  BOOST_TEST(fmmap::lock_signal() == SIGRTMIN + 3);
  ::signal(SIGRTMIN + 4, SIG_DFL);
}

BOOST_AUTO_TEST_CASE(is_another_once_somebody_has_taken_it) {
  signal_restored const restored;
  or_throw(fmmap::set_lock_signal(SIGRTMIN + 5));
  struct sigaction theirs{};
  theirs.sa_handler = [](int) {};
  theirs.sa_flags = SA_RESTART; // with which a wait would go on for ever
  ::sigaction(SIGRTMIN + 5, &theirs, nullptr);
  taken_place place;
  BOOST_TEST(!had(place.lock.acquire_for(exclusive, 2ms)));
  BOOST_TEST(fmmap::lock_signal() != SIGRTMIN + 5);
  BOOST_TEST((place.lock.method() == wait_method::kernel));
  ::signal(SIGRTMIN + 5, SIG_DFL);
}

BOOST_AUTO_TEST_CASE(is_let_through_while_it_is_needed_and_blocked_again) {
  taken_place place;
  BOOST_TEST(!had(place.lock.acquire_for(exclusive, 1ms))); // it is chosen
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  BOOST_TEST(!had(place.lock.acquire_for(exclusive, 5ms)));
  sigset_t now;
  ::pthread_sigmask(SIG_SETMASK, &before, &now);
  BOOST_TEST(::sigismember(&now, fmmap::lock_signal()) == 1);
  BOOST_TEST(::sigismember(&now, SIGUSR1) == 1);
  BOOST_TEST(!had(place.lock.acquire_for(exclusive, 1ms)));
  sigset_t after;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &after);
  BOOST_TEST(::sigismember(&after, fmmap::lock_signal()) == 0);
}

BOOST_AUTO_TEST_CASE(serves_forked_children) {
  taken_place place;
  BOOST_TEST(!had(place.lock.acquire_for(exclusive, 1ms)));
  BOOST_TEST(found_in_child([&](findings& found) {
               auto lock = or_throw(file_lock::create(place.data));
               auto const taken = time_of([&] { found.expect(!had(lock.acquire_for(exclusive, 5ms)), "it was had"); });
               found.expect(taken >= 5ms, "it did not wait");
               found.expect(lock.method() == wait_method::kernel, "it polled");
             }) == "");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_wait_that_polls)

BOOST_AUTO_TEST_CASE(is_made_where_no_signal_may_be_used) {
  signal_restored const restored;
  or_throw(fmmap::set_lock_signal(0));
  taken_place place;
  for (auto const limit : {1ms, 20ms}) {
    auto const taken = time_of([&] { BOOST_TEST(!had(place.lock.acquire_for(exclusive, limit))); });
    BOOST_TEST((taken >= limit));
    BOOST_TEST((place.lock.method() == wait_method::polling));
  }
  std::jthread const releasing{[&] {
    std::this_thread::sleep_for(5ms);
    or_throw(place.holder.release());
  }};
  BOOST_TEST(had(place.lock.acquire_for(exclusive, 60s)));
  BOOST_TEST(fmmap::lock_signal() == 0);
}

BOOST_AUTO_TEST_CASE(is_reported_where_the_system_has_no_timer) {
  auto const before = fmmap::set_dropped_error_handler(note_dropped);
  for (auto const which : {call::timer_create, call::timer_settime, call::pthread_sigmask}) {
    dropped.clear();
    taken_place place;
    seam::armed const table;
    seam::fail(which, EAGAIN);
    auto const taken = time_of([&] { BOOST_TEST(!had(place.lock.acquire_for(exclusive, 5ms))); });
    BOOST_TEST((taken >= 5ms));
    BOOST_TEST((place.lock.method() == wait_method::polling));
    BOOST_TEST((dropped == std::vector{EAGAIN}));
  }
  fmmap::set_dropped_error_handler(before);
}

BOOST_AUTO_TEST_CASE(is_made_where_all_signals_are_taken) {
  BOOST_TEST(found_in_child([](findings& found) {
               for (int signal = SIGRTMIN; signal <= SIGRTMAX; ++signal) {
                 ::signal(signal, SIG_IGN);
               }
               dropped.clear();
               (void)fmmap::set_dropped_error_handler(note_dropped);
               taken_place place;
               found.expect(!had(place.lock.acquire_for(exclusive, 2ms)), "it was had");
               found.expect(place.lock.method() == wait_method::polling, "it did not poll");
               found.expect(dropped == std::vector{EBUSY}, "nobody was told");
               ::signal(SIGRTMAX, SIG_DFL);
               found.expect(!had(place.lock.acquire_for(exclusive, 2ms)), "it was had");
               found.expect(place.lock.method() == wait_method::kernel, "it polls for ever");
             }) == "");
}

BOOST_AUTO_TEST_CASE(reports_errors) {
  signal_restored const restored;
  or_throw(fmmap::set_lock_signal(0));
  taken_place place;
  seam::armed const table;
  seam::fail(call::fcntl, ENOLCK, seam::every_time, 2);
  auto const acquired = place.lock.acquire_for(exclusive, 1h);
  BOOST_TEST((!acquired && acquired.error() == std::errc::no_lock_available));
}

BOOST_AUTO_TEST_SUITE_END()
