// SPDX-License-Identifier: MIT OR Apache-2.0

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <expected>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <system_error>
#include <thread>

#include <boost/test/unit_test.hpp>

#include <pthread.h>

#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.lock;
import fmmap.os;

// What went wrong in other libraries and is not shown not to go wrong here by another test; docs/defects.md has the list.
// A case is named after what went wrong.

using fmmap::access;
using fmmap::errc;
using fmmap::file;
using fmmap::file_lock;
using fmmap::lock_kind;
using fmmap::lock_mode;
using fmmap::mapped_file;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;
using fmmap::whole;
using fmmap::os::call;
using namespace std::chrono_literals;
namespace seam = fmmap::os::seam;

namespace {

auto lock_of(std::filesystem::path const& path, lock_kind kind = lock_kind::open_file_description) -> file_lock {
  return or_throw(file_lock::create(or_throw(file::open(path, {.access = access::read_write})), whole, kind));
}

// Whether another process could have the lock now.
auto is_free_elsewhere(std::filesystem::path const& path, lock_kind kind) -> bool {
  return end_of(start_child([&] { return lock_of(path, kind).try_lock() ? 0 : 1; })) == 0;
}

} // namespace

BOOST_AUTO_TEST_SUITE(what_went_wrong_elsewhere)

// fmmap-12b
BOOST_AUTO_TEST_CASE(a_shared_lock_could_not_become_exclusive_and_locking_could_not_be_chosen) {
  scratch const folder;
  auto const path = folder.file("data", pattern(100));
  auto writer = or_throw(mutable_mapped_file::open(path)); // and nothing is locked
  auto const reader = or_throw(mapped_file::open(path));
  auto lock = or_throw(file_lock::create(writer.as_file()));
  auto other = or_throw(file_lock::create(reader.as_file()));
  lock.lock_shared();
  BOOST_TEST(other.try_lock_shared());
  BOOST_TEST(!or_throw(lock.try_upgrade()));
  BOOST_TEST((lock.held() == lock_mode::shared));
  other.unlock_shared();
  BOOST_TEST(or_throw(lock.try_upgrade()));
  BOOST_TEST(!other.try_lock_shared());
  or_throw(lock.downgrade());
  BOOST_TEST(other.try_lock_shared());
  or_throw(writer.append(std::as_bytes(std::span{"more"}))); // who does not ask is not kept out
}

// fmmap-29b
BOOST_AUTO_TEST_CASE(opening_with_truncation_destroyed_the_content_of_a_file_that_could_not_be_had) {
  scratch const folder;
  auto const path = folder.file("data", pattern(100));
  auto holder = lock_of(path);
  holder.lock();
  auto const refused = fmmap::open_locked(path, {.truncate = true, .mapping = {.size = 10}}, lock_mode::exclusive,
                                          fmmap::wait_for{20ms});
  BOOST_TEST((!refused && refused.error() == std::errc::timed_out));
  BOOST_TEST(read_back(path) == pattern(100));
  auto const contradictory = fmmap::open_locked(path, {.truncate = true}, lock_mode::shared, fmmap::no_wait);
  BOOST_TEST((!contradictory && contradictory.error() == errc::invalid_options));
  holder.unlock();
  auto const had = or_throw(fmmap::open_locked(path, {.truncate = true, .mapping = {.size = 10}}));
  BOOST_TEST(read_back(path) == std::string(10, '\0'));
}

// llfio-6a
BOOST_AUTO_TEST_CASE(locks_gave_up_at_a_signal_took_every_error_for_contention_and_knew_no_limits) {
  scratch const folder;
  auto const path = folder.file("data", pattern(100));
  static std::atomic<int> signals;
  signals = 0;
  struct sigaction count{};
  struct sigaction before{};
  count.sa_handler = [](int) { ++signals; }; // without SA_RESTART: it interrupts system calls
  BOOST_REQUIRE(::sigaction(SIGUSR1, &count, &before) == 0);
  for (auto const kind : {lock_kind::open_file_description, lock_kind::flock}) {
    auto holder = lock_of(path, kind);
    holder.lock();
    std::atomic<bool> had = false;
    std::jthread waits{[&] {
      auto lock = lock_of(path, kind);
      or_throw(lock.acquire(lock_mode::exclusive));
      had = true;
      lock.unlock();
    }};
    for (auto const seen = signals + 20; signals < seen;) {
      ::pthread_kill(waits.native_handle(), SIGUSR1);
      std::this_thread::sleep_for(1ms);
    }
    BOOST_TEST(!had);
    holder.unlock();
    waits.join();
    BOOST_TEST(had);

    BOOST_TEST(holder.try_lock());
    auto other = lock_of(path, kind);
    auto const began = std::chrono::steady_clock::now();
    BOOST_TEST(!or_throw(other.acquire_for(lock_mode::exclusive, 20ms)));
    BOOST_TEST((std::chrono::steady_clock::now() - began >= 20ms));

    seam::armed const table;
    seam::fail(kind == lock_kind::flock ? call::flock : call::fcntl, ENOLCK);
    auto const refused = other.try_acquire(lock_mode::exclusive);
    BOOST_TEST((!refused && refused.error() == std::errc::no_lock_available));
    holder.unlock(); // fails, which ended the program there
  }
  ::sigaction(SIGUSR1, &before, nullptr);
}

// interprocess-2
BOOST_AUTO_TEST_CASE(a_lock_was_lost_when_the_file_was_closed_elsewhere_and_did_not_hold_inside_the_process) {
  for (auto const kind : {lock_kind::open_file_description, lock_kind::flock}) {
    scratch const folder;
    auto const path = folder.file("data", pattern(100));
    auto lock = lock_of(path, kind);
    lock.lock();
    BOOST_TEST(!lock_of(path, kind).try_lock());
    {
      std::ifstream const elsewhere{path};
    }
    BOOST_TEST(read_back(path) == pattern(100));
    BOOST_TEST(!lock_of(path, kind).try_lock());
    BOOST_TEST(!is_free_elsewhere(path, kind));
    lock.unlock();
    BOOST_TEST(is_free_elsewhere(path, kind));
  }
}

BOOST_AUTO_TEST_SUITE_END()
