// SPDX-License-Identifier: MIT OR Apache-2.0

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "support/mounts.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.lock;
import fmmap.os;

using fmmap::access;
using fmmap::errc;
using fmmap::file;
using fmmap::file_lock;
using fmmap::lock_holder;
using fmmap::lock_kind;
using fmmap::lock_mode;
using fmmap::or_throw;
using fmmap::whole;
using fmmap::os::call;
namespace seam = fmmap::os::seam;

namespace {

constexpr auto shared = lock_mode::shared;
constexpr auto exclusive = lock_mode::exclusive;

auto holders_of(file const& of) -> std::vector<lock_holder> { return or_throw(fmmap::who_holds(of)); }

// A child that has done something and waits until it is let go.
class waiting_child {
public:
  template <class Action>
  explicit waiting_child(Action action) {
    int ready[2];
    if (::pipe(ready) != 0 || ::pipe(go_) != 0) {
      throw std::runtime_error("pipe");
    }
    process = start_child([&] {
      ::close(go_[1]);
      [[maybe_unused]] auto const kept = action();
      char byte = 1;
      if (::write(ready[1], &byte, 1) != 1) {
        return 1;
      }
      return ::read(go_[0], &byte, 1) == 0 ? 0 : 1;
    });
    ::close(ready[1]);
    ::close(go_[0]);
    char byte = 0;
    auto const got = ::read(ready[0], &byte, 1);
    ::close(ready[0]);
    if (got != 1) {
      throw std::runtime_error("the child did not begin");
    }
  }
  waiting_child(waiting_child const&) = delete;
  auto operator=(waiting_child const&) -> waiting_child& = delete;
  ~waiting_child() {
    ::close(go_[1]);
    end_of(process);
  }

  pid_t process = 0;

private:
  int go_[2];
};

auto create(scratch const& folder) -> file { return or_throw(file::create_new(folder / "data")); }

auto lock_of(file const& of, fmmap::byte_range range, lock_mode mode, lock_kind kind = lock_kind::open_file_description)
    -> file_lock {
  auto lock = or_throw(file_lock::create(of, range, kind));
  or_throw(lock.acquire(mode));
  return lock;
}

} // namespace

BOOST_AUTO_TEST_SUITE(who_holds)

BOOST_AUTO_TEST_CASE(lists_nobody_where_there_is_no_lock) {
  scratch const folder;
  auto const data = create(folder);
  BOOST_TEST(holders_of(data).empty());
  auto const free = or_throw(file_lock::create(data));
  BOOST_TEST(holders_of(data).empty());
}

BOOST_AUTO_TEST_CASE(lists_mode_range_kind_and_process) {
  scratch const folder;
  auto const data = create(folder);
  auto const mine = lock_of(data, {.offset = 10, .length = 5}, shared);
  waiting_child const child{[&] { return lock_of(data, {.offset = 100, .length = fmmap::to_end}, exclusive); }};
  waiting_child const other{[&] { return lock_of(data, {.offset = 10, .length = 5}, shared); }};
  auto const found = holders_of(data);
  BOOST_REQUIRE(found.size() == 3U);
  lock_holder const of_me{.mode = shared, .range = {.offset = 10, .length = 5}, .process = ::getpid()};
  lock_holder const of_other{.mode = shared, .range = {.offset = 10, .length = 5}, .process = other.process};
  BOOST_TEST((found[0] == of_me));
  BOOST_TEST((found[1] == of_other));
  BOOST_TEST(
      (found[2] ==
       lock_holder{.mode = exclusive, .range = {.offset = 100, .length = fmmap::to_end}, .process = child.process}));
}

BOOST_AUTO_TEST_CASE(lists_locks_of_every_kind) {
  scratch const folder;
  auto const data = create(folder);
  auto const whole_file = lock_of(data, whole, exclusive, lock_kind::flock);
  waiting_child const child{[&] {
    struct flock range{};
    range.l_type = F_WRLCK;
    range.l_start = 7;
    range.l_len = 3;
    return ::fcntl(data.native_handle(), F_SETLK, &range);
  }};
  auto const found = holders_of(data);
  BOOST_REQUIRE(found.size() == 2U);
  BOOST_TEST(
      (found[0] == lock_holder{.mode = exclusive, .range = whole, .kind = lock_kind::flock, .process = ::getpid()}));
  BOOST_TEST((found[1] == lock_holder{.mode = exclusive,
                                      .range = {.offset = 7, .length = 3},
                                      .kind = lock_kind::process,
                                      .process = child.process}));
}

BOOST_AUTO_TEST_CASE(knows_files_in_memory_and_files_without_a_name) {
  scratch const folder;
  auto memory = or_throw(file::in_memory("locked"));
  auto unnamed = or_throw(file::temporary(folder.folder()));
  for (auto const* const data : {&memory, &unnamed}) {
    auto const lock = lock_of(*data, whole, exclusive);
    BOOST_TEST(
        (holders_of(*data) == std::vector{lock_holder{.mode = exclusive, .range = whole, .process = ::getpid()}}));
  }
}

BOOST_AUTO_TEST_CASE(cannot_name_a_process_that_may_not_be_looked_at) {
  if (!is_root()) {
    skip("not root: cannot become another user");
    return;
  }
  scratch const folder;
  auto const data = create(folder);
  auto const lock = lock_of(data, whole, exclusive);
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(become_ordinary_user(), "cannot become an ordinary user");
               found.expect(holders_of(data) == std::vector{lock_holder{.mode = exclusive, .range = whole}},
                            "it lists something else");
             }) == "");
}

BOOST_AUTO_TEST_CASE(knows_the_first_lock_without_proc) {
  scratch const folder;
  auto const data = create(folder);
  BOOST_TEST(found_in_child([&](findings& found) {
               auto const lock = lock_of(data, {.offset = 3, .length = 4}, exclusive);
               seam::armed const table;
               seam::fail(call::openat, ENOENT);
               found.expect(holders_of(data) ==
                                std::vector{lock_holder{.mode = exclusive, .range = {.offset = 3, .length = 4}}},
                            "it lists something else");
             }) == "");
  seam::armed const table;
  seam::fail(call::openat, ENOENT);
  BOOST_TEST(holders_of(data).empty());
}

BOOST_AUTO_TEST_CASE(of_a_closed_handle_is_an_error) {
  auto const found = fmmap::who_holds(file{});
  BOOST_TEST((!found && found.error() == errc::closed));
}

BOOST_AUTO_TEST_SUITE_END()
