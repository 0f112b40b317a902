// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;

using fmmap::access;
using fmmap::durability;
using fmmap::errc;
using fmmap::file;
using fmmap::mapping;
using fmmap::or_throw;
using fmmap::os::call;
namespace seam = fmmap::os::seam;
using seam::armed;

namespace {

constexpr std::size_t page = 4096;

struct mapped {
  scratch s;
  file f;
  mapping m;

  explicit mapped(std::size_t size = 16 * page, std::uint64_t offset = 0)
      : f{or_throw(file::open(s.file("data", pattern(size)), {.access = access::read_write}))},
        m{or_throw(mapping::map(f, {.access = access::read_write, .range = {.offset = offset}}))} {
    or_throw(f.sync());
  }
};

// The system calls that a flush makes.
auto calls_of(mapping const& m, fmmap::byte_range range, durability level) -> std::vector<call> {
  armed const table;
  BOOST_TEST((or_throw(m.flush(range, level)) == level));
  return seam::calls();
}

} // namespace

BOOST_AUTO_TEST_SUITE(mapping_flush)

BOOST_AUTO_TEST_CASE(each_level_makes_the_system_call_that_reaches_it) {
  mapped const t;
  fmmap::byte_range const part{.offset = 11, .length = 5};
  BOOST_TEST((calls_of(t.m, fmmap::whole, durability::none) == std::vector<call>{}));
  BOOST_TEST((calls_of(t.m, fmmap::whole, durability::started) == std::vector{call::sync_file_range}));
  BOOST_TEST((calls_of(t.m, part, durability::written) == std::vector{call::sync_file_range}));
  BOOST_TEST((calls_of(t.m, fmmap::whole, durability::data) == std::vector{call::fdatasync}));
  BOOST_TEST((calls_of(t.m, part, durability::data) == std::vector{call::msync}));
  BOOST_TEST((calls_of(t.m, fmmap::whole, durability::all) == std::vector{call::fsync}));
  BOOST_TEST((calls_of(t.m, part, durability::all) == std::vector{call::fsync}));
}

BOOST_AUTO_TEST_CASE(writes_the_pages_of_the_range_and_leaves_others_dirty) {
  for (auto const level : {durability::written, durability::data}) {
    mapped t{std::size_t{64} << 20};
    auto const clean = or_throw(t.m.residency());
    if (!clean.dirty_known) {
      skip("the system has no cachestat");
      return;
    }
    auto const far = std::size_t{48} << 20;
    t.m.writable_bytes()[5] = std::byte{1};
    t.m.writable_bytes()[far] = std::byte{1};
    BOOST_TEST((or_throw(t.m.flush({.offset = 3, .length = 10}, level)) == level));
    BOOST_TEST(or_throw(t.m.residency({.offset = 0, .length = page})).dirty_bytes == 0U);
    BOOST_TEST(or_throw(t.m.residency({.offset = far, .length = page})).dirty_bytes > 0U);
    or_throw(t.m.flush());
    BOOST_TEST(or_throw(t.m.residency()).dirty_bytes == 0U);
  }
}

BOOST_AUTO_TEST_CASE(takes_ranges_that_begin_and_end_anywhere_in_a_mapping_that_does_too) {
  mapped t{16 * page, 100};
  for (std::uint64_t const offset : {0U, 1U, 3995U, 3996U, 3997U, 20000U}) {
    for (std::size_t const length : {std::size_t{0}, std::size_t{1}, page, fmmap::to_end}) {
      BOOST_TEST((or_throw(t.m.flush({.offset = offset, .length = length})) == durability::data));
      BOOST_TEST(
          (or_throw(t.m.flush({.offset = offset, .length = length}, durability::started)) == durability::started));
    }
  }
  BOOST_TEST((t.m.flush({.offset = 16 * page, .length = 1}).error() == errc::out_of_range));
  BOOST_TEST((t.m.flush({.offset = UINT64_MAX, .length = 1}).error() == errc::out_of_range));
}

BOOST_AUTO_TEST_CASE(is_an_error_where_nothing_could_become_durable) {
  mapped const t;
  auto const cow = or_throw(mapping::map(t.f, {.access = access::copy_on_write}));
  BOOST_TEST((cow.flush().error() == errc::copy_on_write));
  BOOST_TEST((cow.stage_flush().error() == errc::copy_on_write));
  BOOST_TEST((or_throw(mapping::anonymous(page)).flush().error() == errc::not_durable));
  auto const memory = or_throw(file::in_memory("memory"));
  auto const of_memory = or_throw(mapping::map(memory, {.access = access::read_write}));
  BOOST_TEST((of_memory.flush().error() == errc::not_durable));
  BOOST_TEST((of_memory.stage_flush().error() == errc::not_durable));
}

BOOST_AUTO_TEST_CASE(reaches_more_than_was_asked_where_the_system_has_no_range_sync) {
  mapped const t;
  armed const table;
  seam::pretend_absent(call::sync_file_range);
  BOOST_TEST((or_throw(t.m.flush(fmmap::whole, durability::started)) == durability::data));
  BOOST_TEST((or_throw(t.m.flush({.offset = 1, .length = 2}, durability::written)) == durability::data));
}

BOOST_AUTO_TEST_CASE(goes_on_after_a_signal) {
  mapped const t;
  armed const table;
  seam::fail(call::fdatasync, EINTR, 3);
  seam::fail(call::msync, EINTR, 3);
  BOOST_TEST((or_throw(t.m.flush()) == durability::data));
  BOOST_TEST((or_throw(t.m.flush({.offset = 0, .length = 1})) == durability::data));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_failed_sync)

BOOST_AUTO_TEST_CASE(is_reported_by_everything_that_shares_the_open_file_until_it_is_rewritten) {
  mapped t;
  auto other = or_throw(mapping::map(t.f, {.access = access::read_write}));
  auto staged_before = or_throw(other.stage_flush());
  {
    armed const table;
    seam::fail(call::msync, EIO, 1);
    auto const failed = t.m.flush({.offset = 0, .length = 10});
    BOOST_REQUIRE(!failed);
    BOOST_TEST((failed.error() == std::errc::io_error));
  }
  armed const table;
  BOOST_TEST((t.m.flush().error() == std::errc::io_error));
  BOOST_TEST((t.m.flush({.offset = 8 * page, .length = 1}, durability::started).error() == std::errc::io_error));
  BOOST_TEST((other.flush().error() == std::errc::io_error));
  BOOST_TEST((other.stage_flush().error() == std::errc::io_error));
  BOOST_TEST((staged_before.run().error() == std::errc::io_error));
  BOOST_TEST((t.f.sync().error() == std::errc::io_error));
  BOOST_TEST((t.m.flush(fmmap::whole, durability::none).error() == std::errc::io_error));
  BOOST_TEST(seam::calls().empty()); // a retry would be told that all is well

  BOOST_TEST((or_throw(other.rewrite()) == durability::data));
  BOOST_TEST((or_throw(t.m.flush()) == durability::data));
}

// Whatever range it was asked to sync, the system reports pages that others have dirtied too.
BOOST_AUTO_TEST_CASE(lasts_until_every_part_of_the_file_has_been_rewritten) {
  mapped t;
  armed const table;
  seam::fail(call::msync, EIO, 1);
  BOOST_TEST(!t.m.flush({.offset = 0, .length = page}));
  BOOST_TEST(t.m.rewrite({.offset = 0, .length = 1}).has_value()); // the first page
  BOOST_TEST((t.m.flush().error() == std::errc::io_error));
  BOOST_TEST(t.m.rewrite({.offset = 2 * page, .length = 14 * page}).has_value());
  BOOST_TEST((t.m.flush().error() == std::errc::io_error));
  BOOST_TEST(t.m.rewrite({.offset = page + 7, .length = 1}).has_value()); // the second, which was left
  BOOST_TEST(t.m.flush().has_value());

  seam::fail(call::fdatasync, ENOSPC, 1);
  BOOST_TEST((t.m.flush().error() == std::errc::no_space_on_device));
  BOOST_TEST(t.m.rewrite({.offset = 0, .length = 15 * page}).has_value());
  BOOST_TEST((t.m.flush().error() == std::errc::no_space_on_device));
  BOOST_TEST(t.m.rewrite().has_value());
  BOOST_TEST(t.m.flush().has_value());
}

BOOST_AUTO_TEST_CASE(stays_when_the_rewrite_fails_too) {
  mapped t;
  armed const table;
  seam::fail(call::fdatasync, EIO, 2);
  BOOST_TEST(!t.m.flush());
  BOOST_TEST((t.m.rewrite().error() == std::errc::io_error));
  BOOST_TEST(!t.m.flush());
  BOOST_TEST(t.m.rewrite().has_value());
  BOOST_TEST(t.m.flush().has_value());
}

BOOST_AUTO_TEST_CASE(is_not_what_a_sync_that_never_began_leaves) {
  mapped const t;
  armed const table;
  for (int const harmless : {ENOSYS, EBADF}) {
    seam::fail(call::fdatasync, harmless, 1);
    BOOST_TEST(t.m.flush().error().code().value() == harmless);
    BOOST_TEST(t.m.flush().has_value());
  }
}

// A file system may report a failed write with any of these.
BOOST_AUTO_TEST_CASE(may_have_any_code) {
  for (int const code : {EINVAL, EROFS, ENOMEM, EAGAIN, EOPNOTSUPP, ENOSPC, EDQUOT}) {
    mapped const t;
    armed const table;
    seam::fail(call::fdatasync, code, 1);
    BOOST_TEST(t.m.flush().error().code().value() == code);
    BOOST_TEST(t.m.flush().error().code().value() == code);
  }
}

// The system tells one of them.
BOOST_AUTO_TEST_CASE(is_the_failure_of_every_sync_it_overlaps) {
  mapped t;
  auto const of_two = [](auto one, auto other) {
    armed const table;
    seam::delay(call::fdatasync, std::chrono::milliseconds{100});
    seam::fail(call::fdatasync, EIO, 1);
    fmmap::result<durability> first = durability::none;
    std::jthread elsewhere{[&] { first = one(); }};
    auto const second = other();
    elsewhere.join();
    BOOST_TEST(std::ranges::count(seam::calls(), call::fdatasync) == 2);
    return std::pair{first, second};
  };
  auto const flush = [&] { return t.m.flush(); };
  auto const rewrite = [&](std::size_t begin) {
    return [&t, begin] { return t.m.rewrite({.offset = begin, .length = 8 * page}); };
  };
  auto const [first, second] = of_two(flush, flush);
  BOOST_TEST(fails(first, std::errc::io_error));
  BOOST_TEST(fails(second, std::errc::io_error));

  auto const [front, back] = of_two(rewrite(0), rewrite(8 * page));
  BOOST_TEST(fails(front, std::errc::io_error));
  BOOST_TEST(fails(back, std::errc::io_error));
  BOOST_TEST(fails(t.m.flush(), std::errc::io_error));
  BOOST_TEST(t.m.rewrite().has_value());
  BOOST_TEST(t.m.flush().has_value());
}

BOOST_AUTO_TEST_CASE(is_rewritten_by_dirtying_the_pages_without_changing_a_byte) {
  mapped t{16 * page, 100};
  auto const before = std::string{text_of(t.m.bytes())};
  armed table;
  seam::delay(call::fdatasync, std::chrono::microseconds{0});
  seam::fail(call::fdatasync, EIO, 1); // as a dirty page would meet it
  auto const failed = t.m.rewrite();
  BOOST_TEST(!failed);
  seam::disarm();
  auto const dirty = or_throw(t.m.residency());
  if (dirty.dirty_known) {
    BOOST_TEST(dirty.dirty_bytes == 16 * page);
  }
  BOOST_TEST(t.m.rewrite().has_value());
  BOOST_TEST(or_throw(t.m.residency()).dirty_bytes == 0U);
  BOOST_TEST((text_of(t.m.bytes()) == before));
}

BOOST_AUTO_TEST_CASE(cannot_be_rewritten_through_what_does_not_write_to_the_file) {
  mapped t;
  auto read_only = or_throw(mapping::map(t.f));
  auto cow = or_throw(mapping::map(t.f, {.access = access::copy_on_write}));
  BOOST_TEST((read_only.rewrite().error() == errc::read_only));
  BOOST_TEST((cow.rewrite().error() == errc::copy_on_write));
  BOOST_TEST((or_throw(mapping::anonymous(page)).rewrite().error() == errc::not_durable));
  BOOST_TEST((t.m.rewrite({.offset = 16 * page, .length = 1}).error() == errc::out_of_range));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_staged_flush)

BOOST_AUTO_TEST_CASE(runs_on_another_thread_after_the_mapping_and_the_file_are_gone) {
  scratch const s;
  auto const path = s.file("data", pattern(16 * page));
  std::optional<fmmap::flush_job> part;
  std::optional<fmmap::flush_job> all;
  {
    auto f = or_throw(file::open(path, {.access = access::read_write}));
    auto m = or_throw(mapping::map(f, {.access = access::read_write}));
    m.writable_bytes()[5 * page] = std::byte{1};
    part = or_throw(m.stage_flush({.offset = 5 * page, .length = 1}));
    all = or_throw(m.stage_flush(fmmap::whole, durability::all));
    or_throw(m.close());
    or_throw(f.close());
  }
  std::jthread const elsewhere{[&] {
    BOOST_TEST((or_throw(part->run()) == durability::data));
    BOOST_TEST((or_throw(all->run()) == durability::all));
  }};
}

BOOST_AUTO_TEST_CASE(writes_back_pages_that_are_dirtied_after_it_was_staged) {
  mapped t;
  auto job = or_throw(t.m.stage_flush());
  t.m.writable_bytes()[0] = std::byte{1};
  BOOST_TEST(job.run().has_value());
  BOOST_TEST(or_throw(t.m.residency()).dirty_bytes == 0U);
}

BOOST_AUTO_TEST_CASE(survives_a_mapping_that_moves_or_shrinks) {
  scratch const s;
  auto f = or_throw(fmmap::mutable_mapped_file::create(s / "data", {.size = 16 * page}));
  auto job = or_throw(f.stage_flush({.offset = 10 * page, .length = page}));
  or_throw(f.reserve(std::size_t{1} << 30));
  or_throw(f.resize(page));
  BOOST_TEST((or_throw(job.run()) == durability::data));
}

BOOST_AUTO_TEST_CASE(dropped_unrun_makes_no_system_call) {
  mapped const t;
  armed const table;
  {
    auto const job = or_throw(t.m.stage_flush());
  }
  BOOST_TEST(seam::calls().empty());
}

BOOST_AUTO_TEST_CASE(runs_once) {
  mapped const t;
  auto job = or_throw(t.m.stage_flush());
  auto moved = std::move(job);
  BOOST_TEST((job.run().error() == errc::already_run));
  BOOST_TEST(moved.run().has_value());
  BOOST_TEST((moved.run().error() == errc::already_run));
}

BOOST_AUTO_TEST_CASE(reports_its_failure_and_makes_it_stick) {
  mapped const t;
  auto job = or_throw(t.m.stage_flush());
  armed const table;
  seam::fail(call::fdatasync, EIO, 1);
  BOOST_TEST((job.run().error() == std::errc::io_error));
  BOOST_TEST((t.m.flush().error() == std::errc::io_error));
}

BOOST_AUTO_TEST_SUITE_END()
