// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <ranges>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/outcome.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;

using fmmap::access;
using fmmap::durability;
using fmmap::errc;
using fmmap::file;
using fmmap::or_throw;
namespace os = fmmap::os;
namespace seam = fmmap::os::seam;
using seam::armed;

namespace {

auto open_rw(std::filesystem::path const& path) -> file {
  return or_throw(file::open(path, {.access = access::read_write}));
}

auto made(os::call which) -> std::ptrdiff_t { return std::ranges::count(seam::calls(), which); }

} // namespace

BOOST_AUTO_TEST_SUITE(syncing_a_file)

BOOST_AUTO_TEST_CASE(makes_the_call_of_its_level_and_returns_the_level_reached) {
  scratch const s;
  auto f = open_rw(s.file("f", pattern(10'000)));
  armed const table;
  BOOST_TEST((or_throw(f.sync(durability::none)) == durability::none));
  BOOST_TEST(seam::calls().empty());
  BOOST_TEST((or_throw(f.sync(durability::started)) == durability::started));
  BOOST_TEST((or_throw(f.sync(durability::written)) == durability::written));
  BOOST_TEST(made(os::call::sync_file_range) == 2);
  BOOST_TEST((or_throw(f.sync()) == durability::data));
  BOOST_TEST(made(os::call::fdatasync) == 1);
  BOOST_TEST((or_throw(f.sync(durability::all)) == durability::all));
  BOOST_TEST(made(os::call::fsync) == 1);
}

BOOST_AUTO_TEST_CASE(reaches_more_where_the_system_cannot_do_less) {
  scratch const s;
  auto f = open_rw(s.file("f", "abc"));
  for (int const code : {ENOSYS, EINVAL, ESPIPE, EOPNOTSUPP}) {
    armed const table;
    seam::fail(os::call::sync_file_range, code);
    BOOST_TEST((or_throw(f.sync(durability::started)) == durability::data));
    BOOST_TEST((or_throw(f.sync(durability::written)) == durability::data));
    BOOST_TEST(made(os::call::fdatasync) == 2);
  }
}

BOOST_AUTO_TEST_CASE(that_failed_is_reported_again_without_a_call_until_all_is_rewritten) {
  for (int const code : {EIO, ENOSPC, EDQUOT}) {
    scratch const s;
    auto const content = pattern(5000);
    auto f = open_rw(s.file("f", content));
    armed const table;
    seam::fail(os::call::fdatasync, code, 1);
    auto const first = f.sync();
    BOOST_REQUIRE(!first);
    BOOST_TEST(first.error().code().value() == code);
    for (auto const level :
         {durability::none, durability::started, durability::written, durability::data, durability::all}) {
      auto const again = f.sync(level);
      BOOST_REQUIRE(!again);
      BOOST_TEST(again.error().code().value() == code);
      BOOST_TEST(again.error().message() == first.error().message());
    }
    BOOST_TEST(seam::calls().size() == 1U);
    BOOST_TEST((or_throw(f.rewrite()) == durability::data));
    BOOST_TEST(made(os::call::pwrite) == 1);
    BOOST_TEST((or_throw(f.sync()) == durability::data));
    BOOST_TEST((read_back(s / "f") == content));
  }
}

BOOST_AUTO_TEST_CASE(stays_failed_after_a_rewrite_of_a_part_until_the_parts_make_a_whole) {
  scratch const s;
  auto f = open_rw(s.file("f", pattern(5000)));
  armed const table;
  seam::fail(os::call::fdatasync, EIO, 1);
  BOOST_TEST(fails(f.sync(), std::errc::io_error));
  (void)or_throw(f.rewrite({.offset = 0, .length = 2000}));
  BOOST_TEST(fails(f.sync(), std::errc::io_error));
  (void)or_throw(f.rewrite({.offset = 3000}));
  BOOST_TEST(fails(f.sync(), std::errc::io_error));
  (void)or_throw(f.rewrite({.offset = 0, .length = 0}));
  BOOST_TEST(fails(f.sync(), std::errc::io_error));
  (void)or_throw(f.rewrite({.offset = 1999, .length = 1001}));
  BOOST_TEST((or_throw(f.sync()) == durability::data));
}

BOOST_AUTO_TEST_CASE(stays_failed_when_the_rewrite_fails) {
  for (auto const which : {os::call::pread, os::call::pwrite, os::call::fdatasync}) {
    scratch const s;
    auto f = open_rw(s.file("f", pattern(5000)));
    armed const table;
    seam::fail(os::call::fdatasync, EIO, 1);
    BOOST_TEST(fails(f.sync(), std::errc::io_error));
    seam::fail(which, ENOSPC, 1);
    BOOST_TEST(fails(f.rewrite(), std::errc::no_space_on_device));
    BOOST_TEST(fails(f.sync(), std::errc::io_error)); // the first error
    (void)or_throw(f.rewrite());
    BOOST_TEST((or_throw(f.sync()) == durability::data));
  }
}

BOOST_AUTO_TEST_CASE(fails_for_every_handle_of_the_same_open_file) {
  scratch const s;
  auto f = open_rw(s.file("f", pattern(5000)));
  auto m = or_throw(fmmap::mapping::map(f, {.access = access::read_write}));
  armed const table;
  seam::fail(os::call::fdatasync, EIO, 1);
  BOOST_TEST(fails(f.sync(), std::errc::io_error));
  BOOST_TEST(fails(m.flush(), std::errc::io_error));
  BOOST_TEST(fails(m.flush({.offset = 10, .length = 10}), std::errc::io_error));
  BOOST_TEST(fails(m.stage_flush(), std::errc::io_error));
  BOOST_TEST(seam::calls().size() == 1U);
  (void)or_throw(f.rewrite());
  BOOST_TEST((or_throw(m.flush()) == durability::data));
  seam::fail(os::call::msync, EIO, 1);
  BOOST_TEST(fails(m.flush({.offset = 10, .length = 10}), std::errc::io_error));
  BOOST_TEST(fails(f.sync(), std::errc::io_error));
  (void)or_throw(f.rewrite());
  BOOST_TEST((or_throw(f.sync()) == durability::data));
}

BOOST_AUTO_TEST_CASE(fails_for_every_level) {
  scratch const s;
  auto const path = s.file("f", pattern(5000));
  for (auto const& [level, which] :
       std::vector<std::pair<durability, os::call>>{{durability::started, os::call::sync_file_range},
                                                    {durability::written, os::call::sync_file_range},
                                                    {durability::data, os::call::fdatasync},
                                                    {durability::all, os::call::fsync}}) {
    auto f = open_rw(path);
    armed const table;
    seam::fail(which, EIO, 1);
    BOOST_TEST(fails(f.sync(level), std::errc::io_error));
    BOOST_TEST(fails(f.sync(), std::errc::io_error));
  }
}

BOOST_AUTO_TEST_CASE(goes_on_when_a_signal_interrupts_it) {
  scratch const s;
  auto f = open_rw(s.file("f", "abc"));
  armed const table;
  for (auto const which : {os::call::fsync, os::call::fdatasync, os::call::sync_file_range}) {
    seam::fail(which, EINTR, 3);
  }
  BOOST_TEST((or_throw(f.sync(durability::started)) == durability::started));
  BOOST_TEST((or_throw(f.sync(durability::data)) == durability::data));
  BOOST_TEST((or_throw(f.sync(durability::all)) == durability::all));
}

BOOST_AUTO_TEST_CASE(that_never_began_may_be_tried_again) {
  scratch const s;
  auto f = open_rw(s.file("f", "abc"));
  for (int const code : {EBADF, ENOSYS}) {
    armed const table;
    seam::fail(os::call::fdatasync, code, 1);
    auto const failed = f.sync();
    BOOST_REQUIRE(!failed);
    BOOST_TEST(failed.error().code().value() == code);
    BOOST_TEST((or_throw(f.sync()) == durability::data));
  }
}

BOOST_AUTO_TEST_CASE(that_failed_moves_with_the_handle) {
  scratch const s;
  auto f = open_rw(s.file("f", "abc"));
  armed const table;
  seam::fail(os::call::fdatasync, EIO, 1);
  BOOST_TEST(fails(f.sync(), std::errc::io_error));
  auto moved = std::move(f);
  BOOST_TEST(fails(moved.sync(), std::errc::io_error));
}

BOOST_AUTO_TEST_SUITE_END()
