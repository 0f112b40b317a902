// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <expected>
#include <filesystem>
#include <iostream>
#include <new>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <unistd.h>

#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.lock;

// Locks against a model: processes and threads lock ranges of one file at random, and note in memory that all of them share
// who is where. Nobody may find there what a lock should have kept out.

using fmmap::access;
using fmmap::file;
using fmmap::file_lock;
using fmmap::lock_mode;
using fmmap::mapping;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;

namespace {

constexpr auto shared = lock_mode::shared;
constexpr auto exclusive = lock_mode::exclusive;

constexpr std::size_t slots = 16;
constexpr std::size_t slot_size = 1024;
constexpr std::size_t processes = 6;
constexpr std::size_t most_held = 3; // by one thread

// Ranges of slots: each of them, and longer ones that overlap these and each other.
struct span_of_slots {
  std::size_t begin;
  std::size_t end;
};

auto ranges() -> std::vector<span_of_slots> {
  std::vector<span_of_slots> all;
  for (std::size_t i = 0; i < slots; ++i) {
    all.push_back({.begin = i, .end = i + 1});
  }
  for (auto const& longer : {span_of_slots{0, 2}, {1, 4}, {3, 7}, {4, 6}, {6, 9}, {8, 12}, {11, 14}, {14, 16}}) {
    all.push_back(longer);
  }
  return all;
}

// Who is in a slot: how many share it, and the one that has it alone.
class occupants {
public:
  // False when there is somebody who must not be there.
  auto enter(lock_mode mode) -> bool {
    return mode == exclusive ? word_.fetch_add(alone) == 0 : word_.fetch_add(1) < alone;
  }
  void leave(lock_mode mode) { word_.fetch_sub(mode == exclusive ? alone : 1); }
  auto upgrade() -> bool { return word_.fetch_add(alone - 1) == 1; }
  void downgrade() { word_.fetch_sub(alone - 1); }
  [[nodiscard]] auto empty() const -> bool { return word_ == 0; }

private:
  static constexpr std::uint32_t alone = 1U << 16;
  std::atomic<std::uint32_t> word_{0};
};

// What all processes share.
struct model {
  std::array<occupants, slots> within;
  std::array<std::atomic<std::uint64_t>, slots> written; // how often each slot was
  std::atomic<std::uint64_t> tries{0};
  std::atomic<std::uint64_t> tries_refused{0};
  std::atomic<std::uint64_t> waits{0};
  std::atomic<std::uint64_t> waits_with_limit{0};
  std::atomic<std::uint64_t> timeouts{0};
  std::atomic<std::uint64_t> upgrades{0};
  std::atomic<std::uint64_t> upgrades_refused{0};
  std::atomic<std::uint64_t> downgrades{0};
  std::atomic<std::uint64_t> releases{0};
  std::atomic<std::uint64_t> early{0}; // waits that were given up before their limit
  std::atomic<std::uint64_t> violations{0};

  [[nodiscard]] auto operations() const -> std::uint64_t {
    return tries + waits + waits_with_limit + upgrades + upgrades_refused + downgrades + releases;
  }
};

// What the file has in each slot, without anything that makes it safe but the lock: the two numbers are the same for
// everybody who has the slot.
struct content {
  std::uint64_t first;
  std::uint64_t second;
};

// A thread that locks at random what it shares with the other threads of its process.
class worker {
public:
  worker(model& noted, std::vector<file_lock>& locks, std::span<std::byte> bytes, std::uint64_t seed)
      : noted_{noted}, locks_{locks}, bytes_{bytes}, random_{seed} {}

  void run(std::chrono::steady_clock::time_point end) {
    while (std::chrono::steady_clock::now() < end) {
      auto const full = held_.size() == most_held;
      switch (held_.empty() ? below(3) : full ? 3 + below(5) : below(8)) {
      case 0:
        try_one();
        break;
      case 1:
        wait_with_limit();
        break;
      case 2:
        wait_in_order();
        break;
      case 3:
        upgrade();
        break;
      case 4:
        downgrade();
        break;
      default:
        release();
        break;
      }
    }
    while (!held_.empty()) {
      release();
    }
  }

private:
  struct holding {
    std::size_t which;
    lock_mode mode;
  };

  auto below(std::size_t limit) -> std::size_t {
    return std::uniform_int_distribution<std::size_t>{0, limit - 1}(random_);
  }

  auto any_mode() -> lock_mode { return below(2) == 0 ? shared : exclusive; }
  auto any_limit() -> std::chrono::microseconds { return std::chrono::microseconds{below(3000)}; }

  // One that this thread does not have.
  auto any_lock() -> std::size_t {
    while (true) {
      auto const which = below(locks_.size());
      if (std::ranges::find(held_, which, &holding::which) == held_.end()) {
        return which;
      }
    }
  }

  void try_one() {
    auto const which = any_lock();
    auto const mode = any_mode();
    ++noted_.tries;
    if (or_throw(locks_[which].try_acquire(mode))) {
      enter(which, mode);
    } else {
      ++noted_.tries_refused;
    }
  }

  void wait_with_limit() {
    auto const which = any_lock();
    auto const mode = any_mode();
    auto const limit = any_limit();
    auto const begin = std::chrono::steady_clock::now();
    ++noted_.waits_with_limit;
    if (or_throw(locks_[which].acquire_for(mode, limit))) {
      enter(which, mode);
    } else {
      ++noted_.timeouts;
      noted_.early += std::chrono::steady_clock::now() - begin < limit ? 1 : 0;
    }
  }

  // Without a limit only behind all that is held, as everybody does: no two wait for each other.
  void wait_in_order() {
    auto const which = any_lock();
    if (std::ranges::any_of(held_, [&](holding const& one) { return spans_[one.which].end > spans_[which].begin; })) {
      return;
    }
    auto const mode = any_mode();
    ++noted_.waits;
    or_throw(locks_[which].acquire(mode));
    enter(which, mode);
  }

  void upgrade() {
    auto& one = held_[below(held_.size())];
    if (one.mode == exclusive) {
      return;
    }
    auto& lock = locks_[one.which];
    if (!or_throw(below(2) == 0 ? lock.try_upgrade() : lock.upgrade_for(any_limit()))) {
      ++noted_.upgrades_refused;
      read(one.which); // it is still shared
      return;
    }
    ++noted_.upgrades;
    one.mode = exclusive;
    each_slot(one.which, [&](std::size_t slot) { expect(noted_.within[slot].upgrade()); });
    write(one.which);
  }

  void downgrade() {
    auto& one = held_[below(held_.size())];
    if (one.mode == shared) {
      return;
    }
    ++noted_.downgrades;
    each_slot(one.which, [&](std::size_t slot) { noted_.within[slot].downgrade(); });
    or_throw(locks_[one.which].downgrade());
    one.mode = shared;
    read(one.which);
  }

  void release() {
    auto const at = held_.begin() + static_cast<std::ptrdiff_t>(below(held_.size()));
    auto const [which, mode] = *at;
    held_.erase(at);
    ++noted_.releases;
    if (mode == exclusive) {
      write(which);
    } else {
      read(which);
    }
    each_slot(which, [&](std::size_t slot) { noted_.within[slot].leave(mode); });
    or_throw(locks_[which].release());
  }

  void enter(std::size_t which, lock_mode mode) {
    held_.push_back({.which = which, .mode = mode});
    each_slot(which, [&](std::size_t slot) { expect(noted_.within[slot].enter(mode)); });
    if (mode == exclusive) {
      write(which);
    } else {
      read(which);
    }
    if (below(8) == 0) {
      std::this_thread::yield(); // more than two that want it are at work
    }
  }

  void write(std::size_t which) {
    each_slot(which, [&](std::size_t slot) {
      auto now = in(slot);
      expect(now.first == now.second);
      ++now.first;
      std::memcpy(bytes_.data() + slot * slot_size, &now.first, sizeof now.first);
      ++now.second;
      std::memcpy(bytes_.data() + slot * slot_size + sizeof now.first, &now.second, sizeof now.second);
      noted_.written[slot].fetch_add(1, std::memory_order_relaxed);
    });
  }

  void read(std::size_t which) {
    each_slot(which, [&](std::size_t slot) {
      auto const now = in(slot);
      expect(now.first == now.second);
    });
  }

  auto in(std::size_t slot) -> content {
    content now{};
    std::memcpy(&now, bytes_.data() + slot * slot_size, sizeof now);
    return now;
  }

  template <class Do>
  void each_slot(std::size_t which, Do what) {
    for (auto slot = spans_[which].begin; slot < spans_[which].end; ++slot) {
      what(slot);
    }
  }

  void expect(bool holds) { noted_.violations += holds ? 0 : 1; }

  model& noted_;
  std::vector<file_lock>& locks_;
  std::span<std::byte> bytes_;
  std::mt19937_64 random_;
  std::vector<span_of_slots> spans_ = ranges();
  std::vector<holding> held_;
};

// One process of them all, with as many threads.
void lock_at_random(std::filesystem::path const& path, model& noted, std::size_t threads, std::uint64_t seed,
                    std::chrono::steady_clock::time_point end) {
  auto const data = or_throw(file::open(path, {.access = access::read_write}));
  auto mapped = or_throw(mutable_mapped_file::open_existing(path));
  std::vector<file_lock> locks;
  for (auto const& span : ranges()) {
    locks.push_back(or_throw(
        file_lock::create(data, {.offset = span.begin * slot_size, .length = (span.end - span.begin) * slot_size})));
  }
  std::vector<std::jthread> workers;
  for (std::size_t i = 0; i < threads; ++i) {
    workers.emplace_back([&, i] {
      try {
        worker{noted, locks, mapped.writable_bytes(), seed + i * 1000}.run(end);
      } catch (std::exception const& e) {
        std::cerr << "in a thread: " << e.what() << std::endl;
        ::_exit(1); // at once: nobody is to wait for what it has locked
      }
    });
  }
}

} // namespace

BOOST_AUTO_TEST_SUITE(processes_and_threads_that_lock_ranges)

// 60 s by the acceptance; FMMAP_STRESS_SECONDS sets it.
BOOST_AUTO_TEST_CASE(never_find_in_them_whom_the_lock_should_have_kept_out) {
  auto const* const wanted = std::getenv("FMMAP_STRESS_SECONDS");
  auto const seconds = wanted == nullptr ? 3U : static_cast<unsigned>(std::atoi(wanted));
  auto const* const given = std::getenv("FMMAP_SEED");
  auto const seed = given != nullptr ? std::strtoull(given, nullptr, 0) : std::uint64_t{std::random_device{}()};
  std::cout << "FMMAP_SEED=" << seed << std::endl;

  scratch const folder;
  auto const path = folder.file("data", std::string(slots * slot_size, '\0'));
  auto memory = or_throw(mapping::anonymous(sizeof(model), {.shared = true}));
  auto& noted = *::new (static_cast<void*>(memory.writable_bytes().data())) model{};

  auto const end = std::chrono::steady_clock::now() + std::chrono::seconds{seconds};
  std::vector<pid_t> children;
  for (std::size_t i = 0; i < processes; ++i) {
    children.push_back(start_child([&] {
      ::alarm(seconds + 60); // for ever is a failure too
      lock_at_random(path, noted, i < 2 ? 2 : 1, seed + i, end);
      return 0;
    }));
  }
  for (auto const child : children) {
    BOOST_TEST(end_of(child) == 0);
  }

  std::cout << noted.operations() << " operations: " << noted.tries << " tries (" << noted.tries_refused
            << " refused), " << noted.waits << " waits, " << noted.waits_with_limit << " with a limit ("
            << noted.timeouts << " in vain), " << noted.upgrades << " upgrades (" << noted.upgrades_refused
            << " more refused), " << noted.downgrades << " downgrades; " << noted.violations << " violations"
            << std::endl;
  BOOST_TEST(noted.violations == 0U);
  BOOST_TEST(noted.early == 0U);
  auto const view = or_throw(fmmap::mapped_file::open(path));
  for (std::size_t slot = 0; slot < slots; ++slot) {
    BOOST_TEST(noted.within[slot].empty());
    content now{};
    std::memcpy(&now, view.bytes().data() + slot * slot_size, sizeof now);
    BOOST_TEST((now.first == noted.written[slot] && now.second == now.first)); // no write was lost
  }
  auto const least = seconds * 100U; // of thousands
  BOOST_TEST(noted.operations() > least * 5);
  BOOST_TEST(noted.tries_refused > seconds);
  BOOST_TEST(noted.waits > least);
  BOOST_TEST(noted.timeouts > seconds);
  BOOST_TEST(noted.upgrades > seconds);
  BOOST_TEST(noted.upgrades_refused > seconds);
  BOOST_TEST(noted.downgrades > seconds);
}

BOOST_AUTO_TEST_SUITE_END()
