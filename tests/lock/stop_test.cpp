// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <functional>
#include <future>
#include <iostream>
#include <optional>
#include <random>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <poll.h>
#include <unistd.h>

#include "support/process.hpp"
#include "support/scratch.hpp"
#include "support/seed.hpp"

import fmmap.core;
import fmmap.lock;
import fmmap.os;

// Waits for a lock that a std::stop_token ends: in the system, behind other threads of the object, and by polling.

using fmmap::errc;
using fmmap::file;
using fmmap::file_lock;
using fmmap::forever;
using fmmap::lock_kind;
using fmmap::lock_mode;
using fmmap::or_throw;
using fmmap::wait_for;
using fmmap::wait_method;
using fmmap::whole;
using fmmap::os::call;
using namespace std::chrono_literals;
namespace seam = fmmap::os::seam;

namespace {

using steady = std::chrono::steady_clock;

constexpr auto shared = lock_mode::shared;
constexpr auto exclusive = lock_mode::exclusive;
constexpr std::array modes{shared, exclusive};
constexpr std::array kinds{lock_kind::open_file_description, lock_kind::flock};

// Where a wait is made.
enum class where : unsigned char { in_the_system, behind_a_thread, polling };
constexpr std::array everywhere{where::in_the_system, where::behind_a_thread, where::polling};

auto name_of(where place) -> std::string_view {
  return place == where::in_the_system     ? "in the system"
         : place == where::behind_a_thread ? "behind a thread of the object"
                                           : "polling";
}

// A lock, and somebody who has it: another object, or a thread of the same one.
class taken_place {
public:
  explicit taken_place(where place = where::in_the_system, lock_kind kind = lock_kind::open_file_description)
      : lock{or_throw(file_lock::create(data_, whole, kind))},
        other_{or_throw(file_lock::create(data_, whole, kind))},
        holder_{place == where::behind_a_thread ? &lock : &other_},
        polls_{place == where::polling} {
    if (polls_) {
      or_throw(fmmap::set_lock_signal(0));
    }
    or_throw(holder_->acquire(exclusive));
  }
  taken_place(taken_place const&) = delete;
  auto operator=(taken_place const&) -> taken_place& = delete;
  ~taken_place() {
    if (polls_) {
      (void)fmmap::set_lock_signal(SIGRTMAX);
    }
  }

  [[nodiscard]] auto holder() -> file_lock& { return *holder_; }
  [[nodiscard]] auto path() const -> std::filesystem::path { return path_; }

  // Whether nobody has it, as another object sees it.
  [[nodiscard]] auto is_free() const -> bool {
    auto witness = or_throw(file_lock::create(data_, whole, lock.kind()));
    return or_throw(witness.try_acquire(exclusive));
  }

private:
  scratch folder_;
  std::filesystem::path path_ = folder_ / "data";
  file data_ = or_throw(file::create_new(path_));

public:
  file_lock lock;

private:
  file_lock other_;
  file_lock* holder_;
  bool polls_;
};

enum class outcome : unsigned char { had, too_late, stopped };

auto outcome_of(fmmap::result<bool> const& acquired) -> outcome {
  if (!acquired && acquired.error() == std::errc::operation_canceled) {
    return outcome::stopped;
  }
  return or_throw(acquired) ? outcome::had : outcome::too_late;
}

// A wait on a thread of its own.
auto start_wait(file_lock& lock, lock_mode mode, wait_for limit, std::stop_token stop) -> std::future<outcome> {
  return std::async(std::launch::async,
                    [&lock, mode, limit, stop] { return outcome_of(lock.acquire_for(mode, limit, stop)); });
}

template <class Call>
auto time_of(Call const& what) -> steady::duration {
  auto const start = steady::now();
  what();
  return steady::now() - start;
}

// For how long it may take until a thread goes on that is woken, beside other tests.
constexpr auto in_time = 2s;

// Until a wait polls, which its thread has yet to begin.
void await_polling(file_lock const& lock) {
  for (auto const begin = steady::now(); lock.method() != wait_method::polling && steady::now() < begin + in_time;) {
    std::this_thread::sleep_for(1ms);
  }
}

std::vector<int> dropped;
void note_dropped(fmmap::error const& why) noexcept { dropped.push_back(why.code().value()); }

} // namespace

BOOST_AUTO_TEST_SUITE(a_stop)

BOOST_AUTO_TEST_CASE(ends_a_wait_wherever_it_is_made) {
  for (auto const place : everywhere) {
    std::vector<std::chrono::microseconds> late;
    for (auto const kind : kinds) {
      for (auto const mode : modes) {
        for (wait_for const limit : {forever, wait_for{1h}}) {
          for (auto const before : {0us, 100us, 5000us}) {
            taken_place here{place, kind};
            std::stop_source source;
            auto wait = start_wait(here.lock, mode, limit, source.get_token());
            std::this_thread::sleep_for(before);
            if (before >= 5ms && place == where::polling) {
              await_polling(here.lock);
            }
            auto const taken = time_of([&] {
              source.request_stop();
              BOOST_TEST((wait.get() == outcome::stopped));
            });
            if (before >= 5ms) {
              late.push_back(std::chrono::duration_cast<std::chrono::microseconds>(taken));
              auto const method = place == where::polling ? wait_method::polling : wait_method::kernel;
              BOOST_TEST((here.lock.method() == method));
            }
            or_throw(here.holder().release());
            BOOST_TEST(!here.lock.held());
            BOOST_TEST(here.is_free());
          }
        }
      }
    }
    std::ranges::sort(late);
    std::cout << name_of(place) << ": over " << late[late.size() / 2].count() << " us after the stop by p50, "
              << late.back().count() << " us at most\n";
    BOOST_TEST((late[late.size() / 2] < 50ms));
    BOOST_TEST((late.back() < in_time));
  }
}

BOOST_AUTO_TEST_CASE(that_came_before_is_an_error_for_which_nothing_is_asked_of_the_system) {
  std::stop_source source;
  source.request_stop();
  for (auto const mode : modes) {
    taken_place here;
    for (wait_for const limit : {fmmap::no_wait, wait_for{1h}, forever}) {
      seam::armed const table;
      auto const acquired = here.lock.acquire_for(mode, limit, source.get_token());
      BOOST_REQUIRE(!acquired);
      BOOST_TEST((acquired.error() == std::errc::operation_canceled));
      BOOST_TEST(acquired.error().operation() == "lock");
      BOOST_TEST(acquired.error().path() == here.path().string());
      BOOST_TEST(acquired.error().message() ==
                 "cannot lock \"" + here.path().string() + "\": Operation canceled; a stop was requested");
      BOOST_TEST(seam::calls().empty());
    }
    or_throw(here.holder().release());
    BOOST_TEST((outcome_of(here.lock.acquire_for(mode, forever, source.get_token())) == outcome::stopped));
    BOOST_TEST(here.is_free());
  }
}

BOOST_AUTO_TEST_CASE(that_has_not_come_leaves_a_free_lock_to_be_had_by_one_system_call) {
  for (auto const kind : kinds) {
    for (auto const mode : modes) {
      taken_place here{where::in_the_system, kind};
      or_throw(here.holder().release());
      std::stop_source const source;
      seam::armed const table;
      BOOST_TEST((outcome_of(here.lock.acquire_for(mode, forever, source.get_token())) == outcome::had));
      BOOST_TEST(seam::calls().size() == 1U);
      BOOST_TEST((here.lock.held() == mode));
    }
  }
}

BOOST_AUTO_TEST_CASE(that_has_not_come_leaves_contention_and_limits_as_they_are) {
  for (auto const place : everywhere) {
    taken_place here{place};
    std::stop_source const source;
    std::jthread{[&] { // the thread that has it exclusively would be told of a deadlock
      BOOST_TEST((outcome_of(here.lock.acquire_for(shared, fmmap::no_wait, source.get_token())) == outcome::too_late));
      auto const taken = time_of([&] {
        BOOST_TEST((outcome_of(here.lock.acquire_for(exclusive, 10ms, source.get_token())) == outcome::too_late));
      });
      BOOST_TEST((taken >= 10ms));
    }}
        .join();
  }
}

BOOST_AUTO_TEST_CASE(that_cannot_come_costs_a_wait_neither_timer_nor_signal) {
  auto const of_no_source_any_more = [] { return std::stop_source{}.get_token(); }();
  for (auto const& none : {std::stop_token{}, of_no_source_any_more}) {
    taken_place here;
    seam::armed const table;
    auto wait = start_wait(here.lock, exclusive, forever, none);
    std::this_thread::sleep_for(5ms);
    or_throw(here.holder().release());
    BOOST_TEST((wait.get() == outcome::had));
    BOOST_TEST(std::ranges::count(seam::calls(), call::timer_create) == 0);
  }
}

BOOST_AUTO_TEST_CASE(of_a_closed_lock_changes_nothing) {
  std::stop_source source;
  file_lock none;
  auto const acquired = none.acquire_for(exclusive, forever, source.get_token());
  BOOST_TEST((!acquired && acquired.error() == errc::closed));
}

BOOST_AUTO_TEST_CASE(that_comes_after_the_end_does_nothing) {
  taken_place here;
  std::stop_source first;
  BOOST_TEST((outcome_of(here.lock.acquire_for(exclusive, 2ms, first.get_token())) == outcome::too_late));
  or_throw(here.holder().release());
  std::stop_source second;
  BOOST_TEST((outcome_of(here.lock.acquire_for(exclusive, forever, second.get_token())) == outcome::had));
  seam::armed const table;
  first.request_stop();
  second.request_stop();
  BOOST_TEST(seam::calls().empty());
  BOOST_TEST((here.lock.held() == exclusive));
}

BOOST_AUTO_TEST_CASE(ends_a_wait_before_whichever_system_call_it_comes) {
  taken_place here;
  std::stop_source once;
  BOOST_TEST((outcome_of(here.lock.acquire_for(exclusive, 1ms, once.get_token())) == outcome::too_late));
  // Asking, a timer, and the wait: the signal has to come again when the first one came before the thread was asleep.
  constexpr std::array expected{call::fcntl,           call::sigaction,     call::timer_create,
                                call::pthread_sigmask, call::timer_settime, call::fcntl};
  for (bool const after : {false, true}) {
    for (std::size_t nth = 0; nth < (after ? expected.size() - 1 : expected.size()); ++nth) {
      std::stop_source source;
      std::size_t seen = 0;
      std::optional<call> which;
      seam::armed const table;
      seam::observe([&](seam::observation const& what) {
        if (!which && what.over == after && seen++ == nth) {
          which = what.which;
          source.request_stop();
        }
      });
      BOOST_TEST((outcome_of(here.lock.acquire_for(exclusive, forever, source.get_token())) == outcome::stopped));
      BOOST_TEST((which == expected.at(nth)));
    }
  }
}

BOOST_AUTO_TEST_CASE(leaves_later_system_calls_of_the_thread_alone) {
  taken_place here;
  int interrupted = 0;
  for (int i = 0; i < 300; ++i) {
    std::stop_source source;
    std::jthread const stopping{[&] {
      std::this_thread::sleep_for(std::chrono::microseconds{i % 30 * 10});
      source.request_stop();
    }};
    wait_for const limit = i % 2 == 0 ? forever : wait_for{150us};
    BOOST_TEST((outcome_of(here.lock.acquire_for(exclusive, limit, source.get_token())) != outcome::had));
    interrupted += ::poll(nullptr, 0, i % 30 == 0 ? 30 : 1) != 0 ? 1 : 0;
  }
  BOOST_TEST(interrupted == 0);
}

BOOST_AUTO_TEST_CASE(ends_the_waits_of_all_that_have_its_token) {
  for (auto const place : everywhere) {
    taken_place here{place};
    std::stop_source source;
    std::vector<std::future<outcome>> waits;
    for (auto const mode : {exclusive, shared, exclusive, shared}) {
      waits.push_back(start_wait(here.lock, mode, forever, source.get_token()));
    }
    std::this_thread::sleep_for(5ms);
    BOOST_TEST((time_of([&] { source.request_stop(); }) < in_time));
    for (auto& wait : waits) {
      BOOST_TEST((wait.get() == outcome::stopped));
    }
    or_throw(here.holder().release());
    BOOST_TEST(here.is_free());
  }
}

BOOST_AUTO_TEST_CASE(of_one_wait_leaves_those_beside_it) {
  taken_place here;
  std::stop_source first;
  std::stop_source second;
  auto in_system = start_wait(here.lock, exclusive, forever, first.get_token());
  std::this_thread::sleep_for(5ms);
  auto behind = start_wait(here.lock, exclusive, forever, second.get_token());
  auto patient = start_wait(here.lock, exclusive, forever, {});
  std::this_thread::sleep_for(5ms);
  second.request_stop();
  BOOST_TEST((behind.get() == outcome::stopped));
  BOOST_TEST((in_system.wait_for(5ms) == std::future_status::timeout));
  first.request_stop();
  BOOST_TEST((in_system.get() == outcome::stopped));
  BOOST_TEST((patient.wait_for(5ms) == std::future_status::timeout)); // it waits in the system in their stead
  or_throw(here.holder().release());
  BOOST_TEST((patient.get() == outcome::had));
}

BOOST_AUTO_TEST_CASE(takes_back_the_wish_that_kept_others_from_sharing) {
  taken_place here{where::behind_a_thread};
  or_throw(here.lock.downgrade());
  std::stop_source source;
  auto alone = start_wait(here.lock, exclusive, forever, source.get_token());
  auto const refused = [&] { return !or_throw(here.lock.try_acquire(shared)); };
  for (auto const begin = steady::now(); !refused() && steady::now() < begin + in_time;) {
    or_throw(here.lock.release());
  }
  auto sharing = start_wait(here.lock, shared, forever, {});
  BOOST_TEST((sharing.wait_for(5ms) == std::future_status::timeout));
  source.request_stop();
  BOOST_TEST((alone.get() == outcome::stopped));
  BOOST_TEST((sharing.get() == outcome::had));
  or_throw(here.lock.release());
  or_throw(here.lock.release());
  BOOST_TEST(or_throw(here.lock.try_acquire(shared)));
}

BOOST_AUTO_TEST_CASE(that_comes_with_the_limit_is_told_or_the_limit_is) {
  for (auto const place : everywhere) {
    taken_place here{place};
    int stopped = 0;
    for (int i = 0; i < 200; ++i) {
      std::stop_source source;
      auto const limit = 300us;
      auto const end = steady::now() + limit + std::chrono::microseconds{i % 20 * 10};
      auto wait = start_wait(here.lock, i % 3 == 0 ? shared : exclusive, limit, source.get_token());
      while (steady::now() < end) {
      }
      source.request_stop();
      auto const how = wait.get();
      BOOST_TEST((how != outcome::had));
      stopped += how == outcome::stopped ? 1 : 0;
    }
    std::cout << name_of(place) << ": " << stopped << " of 200 were stopped, the others too late\n";
    or_throw(here.holder().release());
    BOOST_TEST(here.is_free());
  }
}

BOOST_AUTO_TEST_CASE(that_came_before_the_release_is_told_where_it_is_looked_for_before_the_lock) {
  taken_place behind{where::behind_a_thread};
  for (int i = 0; i < 50; ++i) {
    std::stop_source source;
    auto wait = start_wait(behind.lock, exclusive, forever, source.get_token());
    std::this_thread::sleep_for(std::chrono::microseconds{i * 10});
    source.request_stop();
    or_throw(behind.lock.release());
    BOOST_TEST((wait.get() == outcome::stopped));
    or_throw(behind.lock.acquire(exclusive));
  }
  taken_place polling{where::polling};
  std::stop_source source;
  seam::armed const table;
  seam::observe([&](seam::observation const& what) {
    if (what.which == call::clock_nanosleep && source.request_stop()) {
      or_throw(polling.holder().release());
    }
  });
  BOOST_TEST((outcome_of(polling.lock.acquire_for(exclusive, forever, source.get_token())) == outcome::stopped));
  BOOST_TEST(polling.is_free());
}

BOOST_AUTO_TEST_CASE(that_comes_while_a_wait_goes_to_sleep_wakes_it) {
  constexpr int rounds = thread_sanitized ? 2'000 : 20'000;
  constexpr auto limit = 3s; // at which a wait that was not woken is over
  taken_place here{where::behind_a_thread};
  std::minstd_rand random{seed()};
  std::optional<std::stop_source> source;
  std::atomic<int> begun{0};
  std::atomic<int> ended{0};
  int others = 0;
  steady::duration longest{};
  {
    std::jthread const waiter{[&] {
      for (int i = 1; i <= rounds; ++i) {
        while (begun.load() != i) {
        }
        auto const begin = steady::now();
        auto const how = outcome_of(here.lock.acquire_for(exclusive, limit, source->get_token()));
        longest = std::max(longest, steady::now() - begin);
        others += how == outcome::stopped ? 0 : 1;
        ended = i;
      }
    }};
    for (int i = 1; i <= rounds; ++i) {
      source.emplace();
      begun = i;
      for (unsigned volatile left = random() % 1000; left > 0; left = left - 1) {
      }
      source->request_stop();
      while (ended.load() != i) {
      }
    }
  }
  std::cout << rounds << " stops of waits that begin: over " << std::chrono::nanoseconds{longest}.count() / 1000
            << " us after they began at most\n";
  BOOST_TEST(others == 0);
  BOOST_TEST((longest < limit));
}

BOOST_AUTO_TEST_CASE(
    that_races_with_the_release_and_the_limit_has_one_outcome_and_the_lock_is_neither_lost_nor_had_twice) {
  constexpr int rounds = thread_sanitized ? 300 : 1000;
  for (auto const place : everywhere) {
    for (auto const kind : kinds) {
      taken_place here{place, kind};
      std::minstd_rand random{seed()};
      std::array<int, 3> count{};
      std::optional<std::stop_source> source;
      wait_for limit = forever;
      lock_mode mode = exclusive;
      std::array<unsigned, 2> delays{};
      std::atomic<int> inside{1}; // this thread has it
      std::atomic<bool> over{false};
      int twice = 0;
      int lost = 0;
      std::barrier begin{3};
      std::barrier end{3};
      auto const idle = [](unsigned times) {
        for (unsigned volatile i = 0; i < times; i = i + 1) {
        }
      };
      std::jthread const waiter{[&] {
        while (begin.arrive_and_wait(), !over) {
          auto const how = outcome_of(here.lock.acquire_for(mode, limit, source->get_token()));
          ++count.at(static_cast<std::size_t>(how));
          if (how == outcome::had) {
            twice += inside.fetch_add(1) != 0 ? 1 : 0;
            lost += here.lock.held() != mode ? 1 : 0;
            inside.fetch_sub(1);
            or_throw(here.lock.release());
          }
          end.arrive_and_wait();
        }
      }};
      std::jthread const stopper{[&] {
        while (begin.arrive_and_wait(), !over) {
          idle(delays[0]);
          source->request_stop();
          end.arrive_and_wait();
        }
      }};
      for (int i = 0; i < rounds; ++i) {
        source.emplace();
        limit = i % 4 == 0 ? wait_for{std::chrono::microseconds{random() % 200}} : forever;
        mode = i % 3 == 0 ? shared : exclusive;
        for (auto& delay : delays) {
          delay = random() % (place == where::polling ? 600'000 : 60'000); // 0 to about 1 ms, or 100 us
        }
        begin.arrive_and_wait();
        idle(delays[1]);
        inside.fetch_sub(1);
        or_throw(here.holder().release());
        end.arrive_and_wait();
        lost += here.lock.held() ? 1 : 0;
        lost += or_throw(here.holder().try_acquire(exclusive)) ? 0 : 1;
        inside.fetch_add(1);
      }
      over = true;
      begin.arrive_and_wait();
      std::cout << name_of(place) << (kind == lock_kind::flock ? ", flock: " : ": ") << count[0] << " had, " << count[1]
                << " too late, " << count[2] << " stopped\n";
      BOOST_TEST(count[0] + count[1] + count[2] == rounds);
      BOOST_TEST(twice == 0);
      BOOST_TEST(lost == 0);
    }
  }
}

BOOST_AUTO_TEST_CASE(ends_a_wait_that_polls_where_the_system_has_no_timer) {
  auto const before = fmmap::set_dropped_error_handler(note_dropped);
  for (auto const which : {call::timer_create, call::timer_settime, call::pthread_sigmask}) {
    dropped.clear();
    taken_place here;
    std::stop_source source;
    seam::armed const table;
    seam::fail(which, EAGAIN);
    auto wait = start_wait(here.lock, exclusive, forever, source.get_token());
    await_polling(here.lock);
    source.request_stop();
    BOOST_TEST((wait.get() == outcome::stopped));
    BOOST_TEST((here.lock.method() == wait_method::polling));
    BOOST_TEST((dropped == std::vector{EAGAIN}));
  }
  fmmap::set_dropped_error_handler(before);
}

BOOST_AUTO_TEST_CASE(of_a_wait_for_somebody_else_leaves_them_the_lock_that_was_had) {
  taken_place here;
  or_throw(here.holder().release());
  std::stop_source source;
  BOOST_TEST((start_wait(here.lock, exclusive, forever, source.get_token()).get() == outcome::had));
  source.request_stop(); // the thread that has acquired it has ended
  std::stop_source const other;
  BOOST_TEST((outcome_of(here.lock.acquire_for(exclusive, 5ms, other.get_token())) == outcome::too_late));
  auto next = start_wait(here.lock, exclusive, forever, other.get_token());
  BOOST_TEST((next.wait_for(5ms) == std::future_status::timeout));
  or_throw(here.lock.release());
  BOOST_TEST((next.get() == outcome::had));
  or_throw(here.lock.release());
  BOOST_TEST(here.is_free());
}

BOOST_AUTO_TEST_CASE(in_a_forked_child_of_a_wait_of_its_parent_does_nothing) {
  if (thread_sanitized) {
    std::cout << "SKIP: the thread sanitizer wants no fork of a process with threads\n";
    return;
  }
  for (auto const place : everywhere) {
    taken_place here{place};
    std::stop_source source;
    auto wait = start_wait(here.lock, exclusive, forever, source.get_token());
    std::this_thread::sleep_for(5ms);
    BOOST_TEST(found_in_child([&](findings& found) {
                 seam::armed const table;
                 found.expect(source.request_stop(), "it was requested before");
                 found.expect(seam::calls().empty(), "it has made system calls");
               }) == "");
    BOOST_TEST((wait.wait_for(5ms) == std::future_status::timeout));
    source.request_stop();
    BOOST_TEST((wait.get() == outcome::stopped));
  }
}

BOOST_AUTO_TEST_SUITE_END()
