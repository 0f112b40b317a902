// SPDX-License-Identifier: MIT OR Apache-2.0

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <shared_mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/scratch.hpp"

import fmmap.core;
import fmmap.lock;

// Threads that share one lock, or have one each, are held against std::shared_timed_mutex.

using fmmap::file_lock;
using fmmap::lock_mode;
using fmmap::or_throw;
using namespace std::chrono_literals;

namespace {

// What one thread finds when it tries, while another has the lock in some way.
enum class way : unsigned char { none, shared, exclusive };

template <class Lock>
struct attempt {
  char const* name;
  bool (*made)(Lock&);
  void (*undone)(Lock&);
};

template <class Lock>
auto attempts() -> std::array<attempt<Lock>, 6> {
  using steady = std::chrono::steady_clock;
  return {
      {{"try_lock", [](Lock& l) { return l.try_lock(); }, [](Lock& l) { l.unlock(); }},
       {"try_lock_for", [](Lock& l) { return l.try_lock_for(2ms); }, [](Lock& l) { l.unlock(); }},
       {"try_lock_until", [](Lock& l) { return l.try_lock_until(steady::now() + 2ms); }, [](Lock& l) { l.unlock(); }},
       {"try_lock_shared", [](Lock& l) { return l.try_lock_shared(); }, [](Lock& l) { l.unlock_shared(); }},
       {"try_lock_shared_for", [](Lock& l) { return l.try_lock_shared_for(2ms); }, [](Lock& l) { l.unlock_shared(); }},
       {"try_lock_shared_until",
        [](Lock& l) { return l.try_lock_shared_until(std::chrono::system_clock::now() + 2ms); },
        [](Lock& l) { l.unlock_shared(); }}}};
}

// The outcomes of all attempts, made on a thread of their own through `mine` while this one has `held` in each way.
template <class Lock>
auto outcomes(Lock& held, Lock& mine) -> std::string {
  std::string text;
  for (auto const how : {way::none, way::shared, way::exclusive}) {
    how == way::shared ? held.lock_shared() : how == way::exclusive ? held.lock() : void();
    std::jthread{[&] {
      for (auto const& one : attempts<Lock>()) {
        auto const made = one.made(mine);
        text += std::to_string(static_cast<int>(how)) + ' ' + one.name + (made ? " had\n" : " refused\n");
        if (made) {
          one.undone(mine);
        }
      }
    }}.join();
    how == way::shared ? held.unlock_shared() : how == way::exclusive ? held.unlock() : void();
  }
  return text;
}

// Four threads that lock, try and wait at random, and count who is inside at the same time.
struct traffic {
  std::uint64_t entered_alone = 0;
  std::uint64_t entered_shared = 0;
  std::uint64_t refused = 0;
  std::uint64_t violations = 0;
  std::uint64_t lost = 0; // of what was written under the exclusive lock
};

template <class Lock>
auto run_traffic(std::function<Lock&(int)> const& of_thread, std::chrono::milliseconds how_long) -> traffic {
  constexpr int threads = 4;
  std::atomic<int> writers{0};
  std::atomic<int> readers{0};
  std::array<std::uint64_t, threads> mine{};
  std::uint64_t written = 0; // not atomic: the lock alone orders it, which the thread sanitizer checks
  std::array<traffic, threads> seen{};
  {
    std::vector<std::jthread> running;
    for (int t = 0; t < threads; ++t) {
      running.emplace_back([&, t] {
        auto& lock = of_thread(t);
        auto& me = seen[static_cast<std::size_t>(t)];
        std::minstd_rand random{static_cast<unsigned>(t) + 1};
        auto const end = std::chrono::steady_clock::now() + how_long;
        while (std::chrono::steady_clock::now() < end) {
          auto const choice = random() % 6;
          bool in = true;
          switch (choice) {
          case 0:
            lock.lock();
            break;
          case 1:
            in = lock.try_lock();
            break;
          case 2:
            in = lock.try_lock_for(200us);
            break;
          case 3:
            lock.lock_shared();
            break;
          case 4:
            in = lock.try_lock_shared();
            break;
          default:
            in = lock.try_lock_shared_for(200us);
          }
          if (!in) {
            ++me.refused;
          } else if (choice < 3) {
            me.violations += writers.fetch_add(1) != 0 || readers.load() != 0 ? 1 : 0;
            ++written;
            ++mine[static_cast<std::size_t>(t)];
            ++me.entered_alone;
            writers.fetch_sub(1);
            lock.unlock();
          } else {
            readers.fetch_add(1);
            me.violations += writers.load() != 0 ? 1 : 0;
            ++me.entered_shared;
            me.lost += written < mine[static_cast<std::size_t>(t)] ? 1 : 0;
            readers.fetch_sub(1);
            lock.unlock_shared();
          }
        }
      });
    }
  }
  traffic all;
  std::uint64_t expected = 0;
  for (std::size_t t = 0; t < threads; ++t) {
    all.entered_alone += seen[t].entered_alone;
    all.entered_shared += seen[t].entered_shared;
    all.refused += seen[t].refused;
    all.violations += seen[t].violations;
    all.lost += seen[t].lost;
    expected += mine[t];
  }
  all.lost += expected - written;
  return all;
}

void check(traffic const& all, std::string const& name) {
  std::cout << name << ": " << all.entered_alone << " alone, " << all.entered_shared << " shared, " << all.refused
            << " refused, " << all.violations << " violations, " << all.lost << " lost\n";
  BOOST_TEST(all.entered_alone > 50U);
  BOOST_TEST(all.entered_shared > 50U);
  BOOST_TEST(all.violations == 0U);
  BOOST_TEST(all.lost == 0U);
}

struct place {
  scratch folder;
  fmmap::file data = or_throw(fmmap::file::create_new(folder / "data"));

  [[nodiscard]] auto lock() const -> file_lock { return or_throw(file_lock::create(data)); }
};

constexpr auto how_long = 400ms;

} // namespace

BOOST_AUTO_TEST_SUITE(threads_and_a_lock)

BOOST_AUTO_TEST_CASE(find_what_they_would_find_of_a_shared_timed_mutex) {
  std::shared_timed_mutex model;
  auto const expected = outcomes(model, model);
  place const here;
  auto one = here.lock();
  auto two = here.lock();
  BOOST_TEST(outcomes(one, one) == expected);
  BOOST_TEST(outcomes(one, two) == expected);
}

BOOST_AUTO_TEST_CASE(keep_each_other_out_of_a_shared_timed_mutex) { // the test itself
  std::shared_timed_mutex lock;
  check(run_traffic<std::shared_timed_mutex>([&](int) -> auto& { return lock; }, how_long), "shared_timed_mutex");
}

BOOST_AUTO_TEST_CASE(keep_each_other_out_through_one_object) {
  place const here;
  auto lock = here.lock();
  check(run_traffic<file_lock>([&](int) -> auto& { return lock; }, how_long), "one object");
  BOOST_TEST(lock.try_lock());
}

BOOST_AUTO_TEST_CASE(keep_each_other_out_through_two_objects) {
  place const here;
  std::array locks{here.lock(), here.lock()};
  check(run_traffic<file_lock>([&](int t) -> auto& { return locks[static_cast<std::size_t>(t) % 2]; }, how_long),
        "two objects");
  BOOST_TEST(locks[0].try_lock());
}

BOOST_AUTO_TEST_CASE(keep_each_other_out_when_waits_poll) {
  auto const before = fmmap::lock_signal();
  or_throw(fmmap::set_lock_signal(0));
  place const here;
  std::array locks{here.lock(), here.lock()};
  check(run_traffic<file_lock>([&](int t) -> auto& { return locks[static_cast<std::size_t>(t) % 2]; }, how_long),
        "two objects that poll");
  or_throw(fmmap::set_lock_signal(before));
}

BOOST_AUTO_TEST_CASE(wait_for_each_other_without_a_limit) {
  for (bool const one_object : {true, false}) {
    place const here;
    auto mine = here.lock();
    auto yours = here.lock();
    auto& other = one_object ? mine : yours;
    for (auto const mode : {lock_mode::shared, lock_mode::exclusive}) {
      mine.lock();
      std::atomic<bool> acquired{false};
      std::jthread const waiting{[&] {
        or_throw(other.acquire(mode));
        acquired = true;
        or_throw(other.release());
      }};
      std::this_thread::sleep_for(2ms);
      BOOST_TEST(!acquired);
      mine.unlock();
    }
  }
}

BOOST_AUTO_TEST_CASE(that_want_it_alone_come_before_those_that_come_to_share_it) {
  place const here;
  auto lock = here.lock();
  lock.lock_shared();
  std::jthread const writer{[&] {
    lock.lock();
    lock.unlock();
  }};
  while (lock.try_lock_shared()) { // until the writer waits
    lock.unlock_shared();
    std::this_thread::sleep_for(1ms);
  }
  std::jthread{[&] { BOOST_TEST(!lock.try_lock_shared_for(2ms)); }}.join();
  lock.unlock_shared();
  lock.lock_shared(); // after it
  lock.unlock_shared();
}

BOOST_AUTO_TEST_CASE(may_come_to_share_it_once_a_wait_to_have_it_alone_is_over) {
  place const here;
  auto lock = here.lock();
  lock.lock_shared();
  std::jthread{[&] { BOOST_TEST(!lock.try_lock_for(2ms)); }}.join();
  BOOST_TEST(lock.try_lock_shared());
  lock.unlock_shared();
  lock.unlock_shared();
}

BOOST_AUTO_TEST_CASE(may_take_the_locks_of_two_files_in_any_order) {
  place const here;
  place const there;
  auto one = here.lock();
  auto two = there.lock();
  std::jthread const other{[&] {
    for (int i = 0; i < 100; ++i) {
      std::scoped_lock const both{two, one};
    }
  }};
  for (int i = 0; i < 100; ++i) {
    std::scoped_lock const both{one, two};
  }
}

BOOST_AUTO_TEST_CASE(that_end_with_the_lock_leave_it_held) {
  place const here;
  auto lock = here.lock();
  std::jthread{[&] { lock.lock(); }}.join();
  auto other = here.lock();
  BOOST_TEST(!other.try_lock());
  lock.unlock();
  BOOST_TEST(other.try_lock());
}

BOOST_AUTO_TEST_SUITE_END()
