// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

#include "support/engines.hpp"
#include "support/watched_calls.hpp"

import fmmap.async;
import fmmap.core;
import fmmap.os;

using fmmap::async_sleep;
using fmmap::errc;
using fmmap::io_engine;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;
using fmmap::sync_wait;
using fmmap::task;
using fmmap::when_all;
using fmmap::write_behind;
using fmmap::os::call;
using namespace std::chrono_literals;
namespace seam = fmmap::os::seam;
using seam::armed;

namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t mebibyte = std::size_t{1} << 20;

void change(mutable_mapped_file& file, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += page) {
    file.writable_bytes()[at] = std::byte{1};
  }
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_sleep)

BOOST_AUTO_TEST_CASE(ends_after_its_time_and_the_shortest_first) {
  auto const engine = engine_of();
  std::vector<int> order;
  auto const begun = std::chrono::steady_clock::now();
  auto const one = [&](int number, std::chrono::milliseconds time) -> task<> {
    or_throw(co_await async_sleep(engine, time));
    BOOST_TEST((std::chrono::steady_clock::now() - begun >= time));
    order.push_back(number);
  };
  (void)sync_wait(when_all(one(4, 40ms), one(1, -5ms), one(3, 30ms), one(2, 0ms), one(5, 50ms)));
  BOOST_TEST((order == std::vector{1, 2, 3, 4, 5}));
}

BOOST_AUTO_TEST_CASE(of_ten_thousand_takes_no_thread) {
  auto const engine = engine_of({.threads = 1});
  std::minstd_rand random{1};
  std::vector<decltype(async_sleep(engine, 1ms))> all;
  for (int i = 0; i < 10'000; ++i) {
    all.push_back(async_sleep(engine, std::chrono::microseconds{random() % 20'000}));
  }
  for (auto const& each : sync_wait(when_all(std::move(all)))) {
    BOOST_TEST(each.has_value());
  }
}

BOOST_AUTO_TEST_CASE(ends_at_a_stop_when_it_is_dropped_and_with_its_engine) {
  auto engine = engine_of();
  auto const forever = std::chrono::nanoseconds::max();
  std::stop_source stop;
  {
    std::jthread const stopper{[&] {
      std::this_thread::sleep_for(5ms);
      stop.request_stop();
    }};
    BOOST_TEST(fails(awaited(async_sleep(engine, forever, stop.get_token())), std::errc::operation_canceled));
  }
  BOOST_TEST(fails(awaited(async_sleep(engine, 0ms, stop.get_token())), std::errc::operation_canceled));
  {
    auto dropped = async_sleep(engine, forever);
    BOOST_TEST(dropped.start([](void*) noexcept { BOOST_ERROR("it was resumed"); }, nullptr));
  }
  std::jthread const closer{[&] {
    std::this_thread::sleep_for(5ms);
    or_throw(engine.close());
  }};
  BOOST_TEST(fails(awaited(async_sleep(engine, forever)), std::errc::operation_canceled));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(writing_behind)

BOOST_AUTO_TEST_CASE(keeps_what_waits_to_be_written_within_the_budget) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 64 * mebibyte}));
  write_behind background{engine, file, {.dirty_budget = 8 * mebibyte, .interval = 1ms}};
  change(file, 64 * mebibyte);
  BOOST_TEST(becomes([&] { return background.stats().begun_bytes > 0; }));
  auto const dirty = [&] { return or_throw(file.as_mapping().residency()).dirty_bytes; };
  BOOST_TEST(becomes([&] { return dirty() <= 8 * mebibyte; }));
  BOOST_TEST(becomes([&] { return background.stats().dirty_bytes <= 8 * mebibyte; }));
  or_throw(background.check());
}

BOOST_AUTO_TEST_CASE(makes_room_for_who_awaits_it) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 64 * mebibyte}));
  write_behind const background{engine, file, {.dirty_budget = 4 * mebibyte, .interval = 10min}};
  change(file, 64 * mebibyte);
  or_throw(awaited(background.room()));
  auto const seen = or_throw(file.as_mapping().residency());
  BOOST_TEST((!seen.dirty_known || seen.dirty_bytes + seen.writeback_bytes <= 4 * mebibyte));
  BOOST_TEST(background.stats().begun_bytes > 0U);
}

BOOST_AUTO_TEST_CASE(looks_no_more_often_than_it_was_told) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  write_behind const background{engine, file, {.interval = std::chrono::milliseconds::max()}};
  std::this_thread::sleep_for(20ms);
  BOOST_TEST(background.stats().looks == 0U);
}

BOOST_AUTO_TEST_CASE(goes_on_without_counting) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 32 * mebibyte}));
  for (auto const error : {ENOSYS, EPERM, EOPNOTSUPP}) {
    armed const table;
    seam::fail(call::cachestat, error);
    write_behind background{engine, file, {.dirty_budget = mebibyte, .interval = 1ms}};
    change(file, 32 * mebibyte);
    BOOST_TEST(becomes([&] { return background.stats().begun_bytes >= 64 * mebibyte; })); // all of it, at every look
    BOOST_TEST(!background.stats().dirty_known);
    or_throw(awaited(background.room()));
    or_throw(background.check());
  }
}

BOOST_AUTO_TEST_CASE(syncs_where_a_part_cannot_be_written) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 16 * mebibyte}));
  armed const table;
  seam::pretend_absent(call::sync_file_range);
  write_behind background{engine, file, {.dirty_budget = mebibyte, .interval = 10min}};
  change(file, 16 * mebibyte);
  or_throw(awaited(background.room()));
  BOOST_TEST(std::ranges::count(seam::calls(), call::fdatasync) > 0);
}

BOOST_AUTO_TEST_CASE(tells_the_first_error_once) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 16 * mebibyte}));
  std::optional<write_behind> background;
  {
    armed const table;
    seam::fail(call::sync_file_range, EIO, 1);
    background.emplace(engine, file, fmmap::write_behind_options{.dirty_budget = page, .interval = 1ms});
    change(file, 16 * mebibyte);
    BOOST_TEST(becomes([] { return seam::injected() == 1; }));
    seam::fail(call::sync_file_range, ENOSPC, 5);
    change(file, 16 * mebibyte);
    BOOST_TEST(becomes([] { return seam::injected() == 6; }));
  }
  auto const first = background->check();
  BOOST_TEST(fails(first, std::errc::io_error));
  BOOST_TEST(first.error().path() == (folder / "a").string());
  BOOST_TEST(becomes([&, before = background->stats().looks] { return background->stats().looks > before + 2; }));
  or_throw(background->check());
}

BOOST_AUTO_TEST_CASE(refuses_what_cannot_be) {
  auto engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  {
    write_behind none{engine, file, {.dirty_budget = 0}};
    BOOST_TEST(fails(none.check(), errc::invalid_options));
    BOOST_TEST(fails(awaited(none.room()), errc::closed));
  }
  {
    armed const table;
    seam::fail(call::openat, EMFILE);
    write_behind none{engine, file};
    BOOST_TEST(fails(none.check(), std::errc::too_many_files_open));
  }
  or_throw(engine.close());
  write_behind none{engine, file};
  BOOST_TEST(fails(none.check(), errc::closed));
  BOOST_TEST(fails(awaited(none.room()), errc::closed));
  io_engine const nothing;
  write_behind of_nothing{nothing, file};
  BOOST_TEST(fails(of_nothing.check(), errc::closed));
  mutable_mapped_file closed;
  auto const another = engine_of();
  write_behind of_closed{another, closed};
  BOOST_TEST(fails(of_closed.check(), errc::closed));
}

BOOST_AUTO_TEST_CASE(has_not_failed_when_its_engine_is_closed) {
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  for (auto i = 0; i < 200; ++i) {
    auto engine = engine_of();
    write_behind background{engine, file, {.interval = 1ms}};
    std::this_thread::sleep_for(900us + i * 1us); // before, within and after its first step
    or_throw(engine.close());
    or_throw(background.check());
  }
}

// Whatever goes first; its descriptor goes with the last of it.
BOOST_AUTO_TEST_CASE(outlives_the_file_and_its_engine) {
  scratch const folder;
  auto const before = descriptor_count();
  for (int i = 0; i < 20; ++i) {
    auto engine = std::optional{engine_of()};
    auto file = std::optional{or_throw(mutable_mapped_file::create(folder / std::to_string(i), {.size = 64 * page}))};
    std::optional<write_behind> background{std::in_place, *engine, *file,
                                           fmmap::write_behind_options{.dirty_budget = page, .interval = 1ms}};
    change(*file, 64 * page);
    or_throw(file->resize(32 * page));
    if (i % 2 == 0) {
      or_throw(file->remove());
      file.reset();
    }
    if (i % 3 == 0) {
      engine.reset();
    }
    if (i % 5 == 0) {
      std::this_thread::sleep_for(3ms);
    }
  }
  BOOST_TEST(becomes([&] { return descriptor_count() == before; }));
}

// But for opening the file.
BOOST_AUTO_TEST_CASE(blocks_neither_its_maker_nor_who_is_resumed) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 16 * mebibyte}));
  auto const before = descriptor_count();
  watched_calls calls{{std::this_thread::get_id(), thread_that_resumes(engine)}};
  {
    write_behind const background{engine, file, {.dirty_budget = page, .interval = 1ms}};
    change(file, 16 * mebibyte);
    or_throw(awaited(background.room()));
    BOOST_TEST(becomes([&] { return background.stats().looks > 5; }));
  }
  BOOST_TEST(becomes([&] { return descriptor_count() == before; }));
  BOOST_TEST((calls.blocking() == std::vector<std::string>{"openat"}));
}

BOOST_AUTO_TEST_SUITE_END()
