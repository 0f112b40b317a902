// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <unistd.h>

#include "support/scratch.hpp"

import fmmap.core;
import fmmap.lock;

using fmmap::access;
using fmmap::errc;
using fmmap::file;
using fmmap::file_lock;
using fmmap::lock_mode;
using fmmap::lock_request;
using fmmap::lock_set;
using fmmap::or_throw;
using fmmap::whole;
using namespace std::chrono_literals;

namespace {

constexpr auto shared = lock_mode::shared;
constexpr auto exclusive = lock_mode::exclusive;

struct two_files {
  scratch folder;
  file a = or_throw(file::create_new(folder / "a"));
  file b = or_throw(file::create_new(folder / "b"));
};

// Whether somebody else could lock these bytes now.
auto is_free(file const& of, fmmap::byte_range range, lock_mode mode) -> bool {
  auto lock = or_throw(file_lock::create(of, range));
  return or_throw(lock.try_acquire(mode));
}

auto ranges_of(lock_set const& set) -> std::vector<fmmap::byte_range> {
  std::vector<fmmap::byte_range> found;
  std::ranges::transform(set.locks(), std::back_inserter(found), &file_lock::range);
  return found;
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_set_of_locks)

BOOST_AUTO_TEST_CASE(holds_what_was_asked_for_until_it_goes) {
  two_files const files;
  {
    auto const set =
        or_throw(fmmap::lock_all({{files.a, whole, exclusive}, {files.b, {.offset = 5, .length = 5}, shared}}));
    BOOST_TEST(set.locks().size() == 2U);
    BOOST_TEST(!is_free(files.a, whole, shared));
    BOOST_TEST(!is_free(files.b, whole, exclusive));
    BOOST_TEST(is_free(files.b, whole, shared));
    BOOST_TEST(is_free(files.b, {.offset = 0, .length = 5}, exclusive));
    BOOST_TEST(is_free(files.b, {.offset = 10, .length = 5}, exclusive));
  }
  BOOST_TEST(is_free(files.a, whole, exclusive));
  BOOST_TEST(is_free(files.b, whole, exclusive));
}

BOOST_AUTO_TEST_CASE(is_empty_after_its_release) {
  two_files const files;
  auto set = or_throw(fmmap::lock_all({{files.a}, {files.b}}));
  or_throw(set.release());
  BOOST_TEST(set.empty());
  BOOST_TEST(is_free(files.a, whole, exclusive));
  or_throw(set.release());
  BOOST_TEST(or_throw(fmmap::lock_all(std::span<lock_request const>{})).empty());
}

BOOST_AUTO_TEST_CASE(locks_each_byte_once_in_the_strongest_mode) {
  two_files const files;
  auto const again = or_throw(file::open(files.folder / "a", {.access = access::read_write}));
  auto const set = or_throw(fmmap::lock_all({{files.a, {.offset = 0, .length = 100}, shared},
                                             {again, {.offset = 50, .length = 10}, exclusive},
                                             {files.a, {.offset = 60, .length = 40}, shared},
                                             {files.a, {.offset = 100, .length = 100}, shared},
                                             {again, {.offset = 30, .length = 0}, exclusive},
                                             {files.a, {.offset = 1000, .length = fmmap::to_end}, shared},
                                             {again, {.offset = 500, .length = fmmap::to_end}, exclusive}}));
  auto const ranges = ranges_of(set);
  std::vector<fmmap::byte_range> const expected{{.offset = 0, .length = 50},
                                                {.offset = 50, .length = 10},
                                                {.offset = 60, .length = 140},
                                                {.offset = 500, .length = fmmap::to_end}};
  BOOST_TEST((ranges == expected));
  std::vector<lock_mode> modes;
  std::ranges::transform(set.locks(), std::back_inserter(modes),
                         [](file_lock const& lock) { return lock.held().value(); });
  BOOST_TEST((modes == std::vector{shared, exclusive, shared, exclusive}));
}

BOOST_AUTO_TEST_CASE(of_the_whole_file_is_one_lock) {
  two_files const files;
  auto const set = or_throw(fmmap::lock_all({{files.a, whole, shared}, {files.a, whole, exclusive}}));
  BOOST_TEST((ranges_of(set) == std::vector{whole}));
  BOOST_TEST(!is_free(files.a, whole, shared));
}

BOOST_AUTO_TEST_CASE(is_all_or_nothing) {
  two_files const files;
  auto const [first, second] =
      files.a.identity() < files.b.identity() ? std::pair{&files.a, &files.b} : std::pair{&files.b, &files.a};
  auto other = or_throw(file_lock::create(*second, {.offset = 3, .length = 1}));
  or_throw(other.acquire(shared));
  auto const start = std::chrono::steady_clock::now();
  auto const failed =
      fmmap::lock_all({{*second, {.offset = 0, .length = 10}, exclusive}, {*first, whole, exclusive}}, 20ms);
  BOOST_TEST((std::chrono::steady_clock::now() - start >= 20ms));
  BOOST_REQUIRE(!failed);
  BOOST_TEST((failed.error() == std::errc::timed_out));
  BOOST_TEST(failed.error().message() == "cannot lock 10 bytes at 0 of \"" + std::string{second->path()} +
                                             "\": it was locked for longer than the wait; process " +
                                             std::to_string(::getpid()) + " has a shared lock");
  BOOST_TEST(is_free(*first, whole, exclusive));
}

BOOST_AUTO_TEST_CASE(reports_what_cannot_be_locked) {
  two_files const files;
  auto const reading = or_throw(file::open(files.folder / "b"));
  auto const read_only = fmmap::lock_all({{files.a}, {reading}});
  BOOST_TEST((!read_only && read_only.error() == errc::read_only));
  file const closed;
  auto const of_closed = fmmap::lock_all({{files.a}, {closed}});
  BOOST_TEST((!of_closed && of_closed.error() == errc::closed));
  auto const too_far = fmmap::lock_all({{files.a}, {files.b, {.offset = UINT64_MAX, .length = 1}, shared}});
  BOOST_TEST((!too_far && too_far.error() == errc::out_of_range));
  BOOST_TEST(is_free(files.a, whole, exclusive));
}

BOOST_AUTO_TEST_CASE(never_waits_in_a_circle) {
  scratch const folder;
  std::array files{or_throw(file::create_new(folder / "0")), or_throw(file::create_new(folder / "1")),
                   or_throw(file::create_new(folder / "2"))};
  std::atomic<int> inside{0};
  std::atomic<int> rounds{0};
  std::vector<std::jthread> running;
  for (unsigned t = 0; t < 4; ++t) {
    running.emplace_back([&, t] {
      std::minstd_rand random{t + 1};
      for (int i = 0; i < 100; ++i) {
        std::array order{0U, 1U, 2U};
        std::ranges::shuffle(order, random);
        auto const set = or_throw(fmmap::lock_all({{files[order[0]]}, {files[order[1]]}, {files[order[2]]}}));
        rounds += inside.fetch_add(1) == 0 ? 1 : 0;
        inside.fetch_sub(1);
      }
    });
  }
  running.clear();
  BOOST_TEST(rounds == 400);
}

BOOST_AUTO_TEST_SUITE_END()
