// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <ranges>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/sandbox.hpp"
#include "support/scratch.hpp"

#include "support/engines.hpp"

import fmmap.async;
import fmmap.core;
import fmmap.os;

using fmmap::durability;
using fmmap::engine_kind;
using fmmap::io_engine;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;
using fmmap::sync_wait;
using fmmap::task;
using fmmap::when_all;
using fmmap::whole;
using fmmap::os::call;
using namespace std::chrono_literals;
namespace seam = fmmap::os::seam;
using seam::armed;

namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t mebibyte = std::size_t{1} << 20;

auto is_sync(call one) -> bool {
  return one == call::fdatasync || one == call::fsync || one == call::msync || one == call::sync_file_range;
}

// What syncs begin, and what they are about; the first one takes its time, so that others come meanwhile.
class observed_syncs {
public:
  observed_syncs() {
    seam::observe([this](seam::observation const& one) {
      if (one.over || !is_sync(one.which)) {
        return;
      }
      std::unique_lock held{mutex_};
      made_.push_back(one);
      if (made_.size() == 1) {
        held.unlock();
        go_on_.wait(false);
      }
    });
  }
  observed_syncs(observed_syncs const&) = delete;
  auto operator=(observed_syncs const&) -> observed_syncs& = delete;
  ~observed_syncs() { let_go_on(); }

  void let_go_on() {
    go_on_ = true;
    go_on_.notify_all();
  }
  void wait_for_the_first() {
    while (made().empty()) {
      std::this_thread::sleep_for(1ms);
    }
  }
  [[nodiscard]] auto made() -> std::vector<seam::observation> {
    std::scoped_lock const held{mutex_};
    return made_;
  }

private:
  std::mutex mutex_;
  std::vector<seam::observation> made_;
  std::atomic<bool> go_on_{false};
};

// Counts those that are over, and lets others wait for them.
struct counter {
  std::atomic<int> count{0};
  static void tell(void* self) noexcept {
    auto& number = static_cast<counter*>(self)->count;
    ++number;
    number.notify_all();
  }
  void wait_for(int number) {
    for (auto seen = count.load(); seen < number; seen = count.load()) {
      count.wait(seen);
    }
  }
};

using flush = decltype(fmmap::async_flush(std::declval<io_engine const&>(), std::declval<mutable_mapped_file&>()));

// Flushes of which the first takes its time, so that the others come meanwhile.
struct flushes_meanwhile {
  armed const table;
  observed_syncs syncs;
  counter over;
  std::vector<flush> all;

  void begin(flush one) {
    all.push_back(std::move(one));
    BOOST_TEST(all.back().start(counter::tell, &over));
    syncs.wait_for_the_first();
  }
  void let_all_end() {
    syncs.let_go_on();
    over.wait_for(static_cast<int>(all.size()));
  }
  void expect_all_well() {
    for (auto& each : all) {
      BOOST_TEST(each.await_resume().has_value());
    }
  }
};

} // namespace

BOOST_AUTO_TEST_SUITE(flushes)

BOOST_AUTO_TEST_CASE(reach_each_level_of_a_part_and_of_the_whole) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 16 * page}));
  for (auto const level :
       {durability::none, durability::started, durability::written, durability::data, durability::all}) {
    for (auto const part : {whole, fmmap::byte_range{.offset = 0, .length = 1},
                            fmmap::byte_range{.offset = 3 * page + 5, .length = 2 * page},
                            fmmap::byte_range{.offset = page, .length = 0}}) {
      file.writable_bytes()[3 * page + 5] = std::byte{1};
      auto const reached = awaited(fmmap::async_flush(engine, file, part, level));
      BOOST_TEST(reached.has_value());
      BOOST_TEST((reached && *reached >= level));
    }
  }
}

// The kernel makes it, and of the part alone.
BOOST_AUTO_TEST_CASE(are_made_by_the_ring_where_there_is_one) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 16 * page}));
  armed const table;
  (void)or_throw(awaited(fmmap::async_flush(engine, file, {.offset = 4 * page + 1, .length = page})));
  auto const calls = seam::calls();
  auto const by_ring = engine.kind() == engine_kind::io_uring;
  BOOST_TEST((std::ranges::count(calls, call::io_uring_enter) != 0) == by_ring);
  BOOST_TEST(std::ranges::count(calls, call::fdatasync) == (by_ring ? 1 : 0));
  BOOST_TEST(std::ranges::count(calls, call::msync) == (by_ring ? 0 : 1));
}

// Where the kernel does not take it at the moment, threads make it.
BOOST_AUTO_TEST_CASE(are_made_by_threads_where_the_ring_takes_none) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 16 * page}));
  {
    armed const table;
    seam::fail(call::io_uring_enter, EAGAIN);
    for (int i = 0; i < 200; ++i) { // more than the ring has room for
      BOOST_TEST(awaited(fmmap::async_flush(engine, file, {.offset = page, .length = page})).has_value());
    }
    BOOST_TEST(std::ranges::count(seam::calls(), call::msync) == 200);
  }
  armed const table;
  BOOST_TEST(awaited(fmmap::async_flush(engine, file)).has_value());
  BOOST_TEST(std::ranges::count(seam::calls(), call::fdatasync) == 1);
}

BOOST_AUTO_TEST_CASE(of_many_files_are_made_at_a_time) {
  auto const engine = engine_of();
  scratch const folder;
  std::vector<mutable_mapped_file> files;
  for (int i = 0; i < 300; ++i) {
    files.push_back(or_throw(mutable_mapped_file::create(folder / std::to_string(i), {.size = page})));
  }
  std::vector<flush> all;
  for (auto& file : files) {
    file.writable_bytes()[0] = std::byte{1};
    all.push_back(fmmap::async_flush(engine, file));
  }
  for (auto const& each : sync_wait(when_all(std::move(all)))) {
    BOOST_TEST(each.has_value());
  }
}

// One thread asks for them, and when the kernel has made them nothing is left to do.
BOOST_AUTO_TEST_CASE(by_the_ring_take_none_of_the_threads_that_block) {
  auto const engine = engine_of({.threads = 1});
  if (engine.kind() != engine_kind::io_uring) {
    skip("this engine has no ring");
    return;
  }
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = mebibyte}));
  counter over;
  blocker const busy{engine};
  std::vector<flush> all;
  for (std::size_t at = 0; at < mebibyte; at += mebibyte / 2) { // the second is not made with the first
    file.writable_bytes()[at] = std::byte{1};
    all.push_back(fmmap::async_flush(engine, file, {.offset = at, .length = page}));
  }
  for (auto& one : all) {
    BOOST_TEST(one.start(counter::tell, &over));
  }
  over.wait_for(2);
}

// Where there may be one more.
BOOST_AUTO_TEST_CASE(that_the_ring_leaves_have_a_thread_beside_one_that_is_busy) {
  auto const engine = engine_of({.threads = 2});
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  counter over;
  blocker const busy{engine};
  armed const table;
  seam::fail(call::io_uring_enter, EAGAIN);
  auto one = fmmap::async_flush(engine, file);
  BOOST_TEST(one.start(counter::tell, &over));
  over.wait_for(1);
}

// Whose work it is may give the calls away as well, and is told what the kernel says of them.
BOOST_AUTO_TEST_CASE(of_a_type_of_the_programs_are_made_the_same_way) {
  struct from_nowhere final : fmmap::flush_work {
    int told = -1;
    [[nodiscard]] auto target() const noexcept -> void const* override { return this; }
    [[nodiscard]] auto next_call() -> std::optional<fmmap::sync_call> override {
      return told == -1 ? std::optional{fmmap::sync_call{.level = durability::data}} : std::nullopt;
    }
    void call_made(int code) override { told = code; }
    [[nodiscard]] auto is_over() const -> bool override { return told != -1; }
    [[nodiscard]] auto run() -> fmmap::result<durability> override {
      return std::unexpected(
          fmmap::error::make({told == -1 ? ENODATA : told, std::system_category()}, "flush nothing"));
    }
  };
  struct staging {
    [[nodiscard]] auto stage_commit() const -> fmmap::result<fmmap::flush_job> {
      return fmmap::flush_job{std::make_unique<from_nowhere>()};
    }
  };
  auto const engine = engine_of();
  staging one;
  auto const got = awaited(fmmap::async_commit(engine, one));
  BOOST_TEST_REQUIRE(!got.has_value());
  BOOST_TEST(got.error().code().value() == (engine.kind() == engine_kind::io_uring ? EBADF : ENODATA));
}

BOOST_AUTO_TEST_CASE(of_a_type_of_the_programs_that_throws_throw_where_they_are_awaited) {
  struct throwing final : fmmap::flush_work {
    int when = 0;
    explicit throwing(int at) : when{at} {}
    [[nodiscard]] auto target() const noexcept -> void const* override { return this; }
    [[nodiscard]] auto next_call() -> std::optional<fmmap::sync_call> override {
      if (when == 0) {
        throw std::runtime_error{"mine"};
      }
      return fmmap::sync_call{.level = durability::data};
    }
    void call_made(int) override { throw std::runtime_error{"mine"}; }
    [[nodiscard]] auto run() -> fmmap::result<durability> override { throw std::runtime_error{"mine"}; }
  };
  struct staging {
    int when;
    [[nodiscard]] auto stage_commit() const -> fmmap::result<fmmap::flush_job> {
      return fmmap::flush_job{std::make_unique<throwing>(when)};
    }
  };
  auto const engine = engine_of();
  for (int const when : {0, 1}) {
    staging one{when};
    BOOST_CHECK_THROW((void)awaited(fmmap::async_commit(engine, one)), std::runtime_error);
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(flushes_of_one_file)

// One that has been dropped has failed, and whoever is told of that closes the engine.
BOOST_AUTO_TEST_CASE(that_were_made_together_are_told_of_before_what_was_dropped) {
  struct turns {
    std::atomic<int> begun{0};
    std::atomic<int> may_end{0};
  };
  struct failing final : fmmap::flush_work {
    turns* all;
    explicit failing(turns* of) : all{of} {}
    [[nodiscard]] auto target() const noexcept -> void const* override { return all; }
    [[nodiscard]] auto absorb(flush_work const&) noexcept -> bool override { return true; }
    [[nodiscard]] auto run() -> fmmap::result<durability> override {
      auto const mine = ++all->begun;
      all->begun.notify_all();
      for (auto seen = all->may_end.load(); seen < mine; seen = all->may_end.load()) {
        all->may_end.wait(seen);
      }
      return std::unexpected(fmmap::error::make({EIO, std::system_category()}, "flush nothing"));
    }
  };
  struct staging {
    turns* all;
    [[nodiscard]] auto stage_commit() const -> fmmap::result<fmmap::flush_job> {
      return fmmap::flush_job{std::make_unique<failing>(all)};
    }
  };
  static io_engine engine;
  engine = engine_of();
  turns all;
  staging const one{&all};
  auto const let_end = [&](int number) {
    all.may_end = number;
    all.may_end.notify_all();
  };
  counter over;
  auto first = fmmap::async_commit(engine, one);
  BOOST_TEST(first.start(counter::tell, &over));
  all.begun.wait(0);
  std::optional leader{fmmap::async_commit(engine, one)};
  auto joined = fmmap::async_commit(engine, one);
  BOOST_TEST(leader->start(counter::tell, &over));
  BOOST_TEST(joined.start(counter::tell, &over));
  auto const before = fmmap::set_dropped_error_handler([](fmmap::error const&) noexcept {
    (void)engine.close();
    std::this_thread::sleep_for(20ms); // the engine's other threads may end
  });
  let_end(1);
  all.begun.wait(1);
  leader.reset();
  let_end(2);
  over.wait_for(2);
  BOOST_TEST(fails(joined.await_resume(), std::errc::io_error));
  for (int i = 0; i < 1000 && engine.is_open(); ++i) {
    std::this_thread::sleep_for(1ms);
  }
  fmmap::set_dropped_error_handler(before);
  BOOST_TEST(!engine.is_open());
}

BOOST_AUTO_TEST_CASE(that_wait_are_made_together) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 100 * page}));
  flushes_meanwhile flushes;
  for (std::size_t i = 0; i < 100; ++i) {
    file.writable_bytes()[i * page] = std::byte{1};
    flushes.begin(fmmap::async_flush(engine, file, {.offset = i * page, .length = page}));
  }
  std::this_thread::sleep_for(5ms);
  BOOST_TEST(flushes.syncs.made().size() == 1U);
  BOOST_TEST(flushes.over.count == 0);
  flushes.let_all_end();
  flushes.expect_all_well();
  auto const made = flushes.syncs.made();
  BOOST_TEST_REQUIRE(made.size() == 2U);
  BOOST_TEST(made[1].about.length == 99 * page);
}

// All between them would be written as well.
BOOST_AUTO_TEST_CASE(that_are_far_apart_are_made_apart) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 64 * mebibyte}));
  flushes_meanwhile flushes;
  for (auto const offset : {0UZ, 0UZ, 10UZ, 20UZ, 30UZ}) {
    flushes.begin(fmmap::async_flush(engine, file, {.offset = offset * mebibyte, .length = page}));
  }
  flushes.let_all_end();
  auto const made = flushes.syncs.made();
  BOOST_TEST(made.size() == 5U);
  BOOST_TEST(std::ranges::all_of(made, [](seam::observation const& one) { return one.about.length == page; }));
}

BOOST_AUTO_TEST_CASE(to_another_level_are_made_apart) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  flushes_meanwhile flushes;
  for (auto const level : {durability::data, durability::data, durability::all, durability::data, durability::none}) {
    flushes.begin(fmmap::async_flush(engine, file, whole, level));
  }
  flushes.let_all_end();
  BOOST_TEST(flushes.syncs.made().size() == 3U); // the second and the fourth are one
  flushes.expect_all_well();
}

BOOST_AUTO_TEST_CASE(that_were_made_together_fail_together) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 10 * page}));
  flushes_meanwhile flushes;
  for (auto const each : {call::fdatasync, call::msync}) {
    seam::fail(each, EIO, 1, 1); // the second one
  }
  for (std::size_t i = 0; i < 10; ++i) {
    flushes.begin(fmmap::async_flush(engine, file, {.offset = i * page, .length = page}));
  }
  flushes.let_all_end();
  BOOST_TEST(flushes.all.front().await_resume().has_value());
  for (auto& each : flushes.all | std::views::drop(1)) {
    BOOST_TEST(fails(each.await_resume(), std::errc::io_error));
  }
  BOOST_TEST(fails(file.flush(), std::errc::io_error));
}

// Who has joined others leaves them as they are.
BOOST_AUTO_TEST_CASE(may_be_dropped_and_come_too_late_to_be_stopped) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 10 * page}));
  for (auto const dropped : {0UZ, 1UZ, 2UZ, 9UZ}) {
    armed const table;
    std::optional<observed_syncs> syncs{std::in_place};
    counter over;
    std::stop_source stop;
    std::vector<std::optional<flush>> all;
    for (std::size_t i = 0; i < 10; ++i) {
      all.emplace_back(fmmap::async_flush(engine, file, {.offset = i * page, .length = page}, durability::data,
                                          i == 5 ? stop.get_token() : std::stop_token{}));
      BOOST_TEST(all.back()->start(counter::tell, &over));
      syncs->wait_for_the_first();
    }
    seam::delay(call::fdatasync, 20'000us); // the second one, while it is dropped
    seam::delay(call::msync, 20'000us);
    syncs->let_go_on();
    over.wait_for(1);
    std::this_thread::sleep_for(2ms);
    all[dropped].reset();
    stop.request_stop();
    over.wait_for(dropped == 0 ? 10 : 9);
    for (std::size_t i = 0; i < 10; ++i) {
      if (all[i]) {
        auto const got = all[i]->await_resume();
        BOOST_TEST((got || (i == 5 && fails(got, std::errc::operation_canceled))));
      }
    }
    all.clear();
  }
}

BOOST_AUTO_TEST_CASE(through_two_mappings_are_flushed_each) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 10 * page}));
  auto other = or_throw(fmmap::mapping::map(file.as_file(), {.access = fmmap::access::read_write}));
  flushes_meanwhile flushes;
  auto const ask = [&](auto& object, std::size_t offset) {
    flushes.begin(fmmap::async_flush(engine, object, {.offset = offset, .length = page}));
  };
  ask(file, 0);
  ask(file, page);
  ask(other, 2 * page);
  ask(file, 3 * page);
  ask(other, 4 * page);
  flushes.let_all_end();
  BOOST_TEST(flushes.syncs.made().size() == 3U);
  flushes.expect_all_well();
}

// However many there are, what is about other files has its turn.
BOOST_AUTO_TEST_CASE(that_wait_keep_nobody_else_waiting) {
  auto const engine = engine_of({.threads = 2});
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 500 * mebibyte}));
  auto other = or_throw(mutable_mapped_file::create(folder / "b", {.size = page}));
  flushes_meanwhile flushes;
  std::jthread const first{[&] { or_throw(file.flush({.offset = 0, .length = page})); }}; // which the others overlap
  flushes.syncs.wait_for_the_first();
  for (std::size_t i = 0; i < 1000; ++i) { // none of which can be one with another
    flushes.begin(fmmap::async_flush(engine, file, {.offset = i * mebibyte / 2, .length = page}));
  }
  BOOST_TEST(awaited(fmmap::async_flush(engine, other)).has_value());
  BOOST_TEST(awaited(fmmap::async_call(engine, []() -> fmmap::result<int> { return 1; })).has_value());
  BOOST_TEST(flushes.over.count == 0);
  for (std::size_t i = 1; i < flushes.all.size(); i += 2) {
    BOOST_TEST(flushes.all[i].drop());
  }
  flushes.syncs.let_go_on();
  flushes.over.wait_for(500);
  BOOST_TEST(flushes.syncs.made().size() == 1 + 501U);
}

// By threads of the program's and by the engine, with a failure among them: nobody hangs, and once the failure is told all fail.
BOOST_AUTO_TEST_CASE(go_with_those_of_threads) {
  auto const engine = engine_of({.threads = 2});
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 100 * page}));
  std::atomic<int> wrong{0};
  armed const table;
  auto const run = [&] {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = 0; i < 100; ++i) {
          auto const part = fmmap::byte_range{.offset = (i * 7 + t) % 100 * page, .length = page};
          auto const got = t == 0 ? file.flush(part) : awaited(fmmap::async_flush(engine, file, part));
          wrong += got || fails(got, std::errc::io_error) ? 0 : 1;
        }
      });
    }
  };
  run();
  BOOST_TEST(wrong == 0);
  seam::fail(call::fdatasync, EIO, 1, 20);
  run();
  BOOST_TEST(wrong == 0);
  if (engine.kind() == engine_kind::io_uring) {
    BOOST_TEST(fails(file.flush(), std::errc::io_error));
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_flush)

BOOST_AUTO_TEST_CASE(goes_on_when_it_is_interrupted) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  for (auto const level : {durability::started, durability::written, durability::data, durability::all}) {
    armed const table;
    for (auto const each : {call::fdatasync, call::fsync, call::msync, call::sync_file_range}) {
      seam::fail(each, EINTR, 3);
    }
    BOOST_TEST(awaited(fmmap::async_flush(engine, file, whole, level)).has_value());
    BOOST_TEST(seam::injected() == 3U);
  }
}

// As the system says it where blocks are found only when pages are written.
BOOST_AUTO_TEST_CASE(tells_of_a_full_disk) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  armed const table;
  seam::fail(call::fdatasync, ENOSPC, 1);
  BOOST_TEST(fails(awaited(fmmap::async_flush(engine, file)), std::errc::no_space_on_device));
  BOOST_TEST(fails(awaited(fmmap::async_flush(engine, file)), std::errc::no_space_on_device));
  BOOST_TEST((or_throw(file.rewrite()) >= durability::data));
}

BOOST_AUTO_TEST_CASE(is_made_while_its_file_grows_shrinks_and_moves) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 64 * page}));
  counter over;
  std::vector<flush> all;
  for (std::size_t i = 0; i < 200; ++i) {
    file.writable_bytes()[i % 8 * page] = static_cast<std::byte>(i);
    all.push_back(fmmap::async_flush(engine, file, {.offset = i % 8 * page, .length = page}));
    BOOST_TEST(all.back().start(counter::tell, &over));
    or_throw(file.resize((i % 7 == 0 ? 8 : 64 + i * 16) * page)); // without a reservation: elsewhere in memory
  }
  over.wait_for(200);
  for (auto& each : all) {
    BOOST_TEST(each.await_resume().has_value());
  }
}

BOOST_AUTO_TEST_CASE(is_made_when_its_file_has_no_name_and_no_handle_any_more) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  file.writable_bytes()[0] = std::byte{1};
  armed const table;
  observed_syncs syncs;
  counter over;
  auto one = fmmap::async_flush(engine, file);
  BOOST_TEST(one.start(counter::tell, &over));
  syncs.wait_for_the_first();
  or_throw(file.remove());
  or_throw(file.close());
  syncs.let_go_on();
  over.wait_for(1);
  BOOST_TEST(one.await_resume().has_value());
}

BOOST_AUTO_TEST_CASE(of_a_process_that_ends_ends_with_it) {
  if (thread_sanitized) {
    skip("the thread sanitizer wants no fork of a process with threads");
    return;
  }
  scratch const folder;
  for (int i = 0; i < 10; ++i) {
    BOOST_TEST(found_in_child([&](findings&) {
                 ::alarm(20);
                 auto& engine = *new io_engine{engine_of()};
                 for (int n = 0; n < 50; ++n) {
                   auto& file = *new mutable_mapped_file{or_throw(mutable_mapped_file::create(
                       folder / (std::to_string(i) + "-" + std::to_string(n)), {.size = page}))};
                   file.writable_bytes()[0] = std::byte{1};
                   auto& one = *new flush{fmmap::async_flush(engine, file)};
                   (void)one.start([](void*) noexcept {}, nullptr);
                 }
               }) == "");
  }
}

BOOST_AUTO_TEST_CASE(under_way_at_a_fork_is_the_parents) {
  if (thread_sanitized) {
    skip("the thread sanitizer wants no fork of a process with threads");
    return;
  }
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  file.writable_bytes()[0] = std::byte{1};
  armed const table;
  observed_syncs syncs;
  counter over;
  std::optional one{fmmap::async_flush(engine, file)};
  BOOST_TEST(one->start(counter::tell, &over));
  syncs.wait_for_the_first();
  BOOST_TEST(found_in_child([&](findings& found) {
               ::alarm(20);
               seam::disarm();
               found.expect(fails(awaited(fmmap::async_flush(engine, file)), fmmap::errc::forked), "the child flushes");
               one.reset();
             }) == "");
  syncs.let_go_on();
  over.wait_for(1);
  BOOST_TEST(one->await_resume().has_value());
}

// Those that the kernel has begun, and has no thread for.
BOOST_AUTO_TEST_CASE(need_no_thread_of_the_kernels) {
  if (thread_sanitized) {
    skip("the thread sanitizer wants no fork of a process with threads");
    return;
  }
  scratch const folder;
  BOOST_TEST(found_in_child([&](findings& found) {
               ::alarm(20);
               auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
               if (is_root() && !become_ordinary_user()) { // whom the limit does not concern
                 found.skip("cannot become an ordinary user");
                 return;
               }
               auto const engine = engine_of();
               limit(RLIMIT_NPROC, 1);
               file.writable_bytes()[0] = std::byte{1};
               auto const got = awaited(fmmap::async_flush(engine, file));
               found.expect(got.has_value() || engine.kind() == engine_kind::threads, got ? "" : got.error().message());
               found.expect(file.flush().has_value(), "the file is taken for failed");
             }) == "");
}

// As filters of containers do it.
BOOST_AUTO_TEST_CASE(needs_no_ring) {
  if (thread_sanitized) {
    skip("the thread sanitizer wants no fork of a process with threads");
    return;
  }
  scratch const folder;
  BOOST_TEST(found_in_child([&](findings& found) {
               ::alarm(20);
               forbid_call(SYS_io_uring_setup);
               auto const engine = or_throw(io_engine::create());
               found.expect(engine.kind() == engine_kind::threads, "there is a ring");
               found.expect(engine.ring_error() && engine.ring_error()->code().value() == EPERM, "it does not say why");
               found.expect(
                   fails(io_engine::create({.kind = engine_kind::io_uring}), std::errc::operation_not_permitted),
                   "a ring can be had");
               auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
               found.expect(awaited(fmmap::async_flush(engine, file)).has_value(), "it cannot flush");
             }) == "");
}

BOOST_AUTO_TEST_CASE(needs_no_descriptor) {
  (void)or_throw(io_engine::create()); // the sanitizer of undefined behaviour opens a pipe where it first meets a type
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  rlimit old{};
  BOOST_TEST_REQUIRE(::getrlimit(RLIMIT_NOFILE, &old) == 0);
  auto const none = rlimit{.rlim_cur = 3, .rlim_max = old.rlim_max};
  BOOST_TEST_REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  {
    auto const engine = io_engine::create();
    BOOST_TEST((engine && engine->kind() == engine_kind::threads));
    BOOST_TEST((engine && awaited(fmmap::async_flush(*engine, file)).has_value()));
  }
  BOOST_TEST(::setrlimit(RLIMIT_NOFILE, &old) == 0);
}

BOOST_AUTO_TEST_CASE(whose_coroutine_throws_tells_who_awaits_that) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  auto const thrower = [&]() -> task<> {
    (void)or_throw(co_await fmmap::async_flush(engine, file));
    throw std::runtime_error{"mine"};
  };
  BOOST_CHECK_THROW(sync_wait(thrower()), std::runtime_error);
  BOOST_TEST(awaited(fmmap::async_flush(engine, file)).has_value());
}

BOOST_AUTO_TEST_SUITE_END()
