// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include <boost/test/unit_test.hpp>

#include <unistd.h>

#include "support/scratch.hpp"

import fmmap.core;
import fmmap.lock;
import fmmap.os;

using fmmap::access;
using fmmap::errc;
using fmmap::file;
using fmmap::file_lock;
using fmmap::lock_kind;
using fmmap::lock_mode;
using fmmap::or_throw;
using fmmap::whole;
using fmmap::os::call;
using namespace std::chrono_literals;
namespace seam = fmmap::os::seam;

namespace {

constexpr auto shared = lock_mode::shared;
constexpr auto exclusive = lock_mode::exclusive;

auto is_free(std::filesystem::path const& path, lock_mode mode) -> bool {
  auto const data = or_throw(file::open(path, {.access = access::read_write}));
  auto lock = or_throw(file_lock::create(data));
  return or_throw(lock.try_acquire(mode));
}

template <class T>
auto fails(fmmap::result<T> const& outcome, auto code) -> bool {
  return !outcome && outcome.error() == code;
}

// Somebody who has a file locked and, once others wait for it, puts another in its place.
void replace_when_waited_for(std::filesystem::path const& path, auto const& what) {
  auto const old = or_throw(file::open(path, {.access = access::read_write}));
  auto lock = or_throw(file_lock::create(old));
  or_throw(lock.acquire(exclusive));
  std::jthread const other{[&, lock = std::move(lock)]() mutable {
    std::this_thread::sleep_for(10ms);
    what();
    or_throw(lock.release());
  }};
}

} // namespace

BOOST_AUTO_TEST_SUITE(open_locked)

BOOST_AUTO_TEST_CASE(holds_the_lock_as_long_as_the_file) {
  scratch const folder;
  auto const path = folder.file("data", "12345");
  {
    auto opened = or_throw(fmmap::open_locked(path));
    BOOST_TEST(text_of(opened.file.bytes()) == "12345");
    BOOST_TEST((opened.lock.held() == exclusive));
    BOOST_TEST(!is_free(path, shared));
    opened.file.writable_bytes()[0] = std::byte{'x'};
  }
  BOOST_TEST(is_free(path, exclusive));
  BOOST_TEST(read_back(path) == "x2345");
}

BOOST_AUTO_TEST_CASE(closes_the_old_file_before_its_lock_when_it_is_assigned_to) {
  scratch const folder;
  auto opened = or_throw(fmmap::open_locked(folder / "data"));
  or_throw(opened.file.append(bytes_of("12345678"))); // what is allocated ahead is cut off when the file is closed
  seam::armed const table;
  opened = fmmap::locked_file{};
  auto const calls = seam::calls();
  auto const cut = std::ranges::find(calls, call::ftruncate);
  BOOST_TEST((cut != calls.end() && cut < std::ranges::find(calls, call::fcntl)));
  BOOST_TEST(!opened.file.is_open());
  BOOST_TEST(!opened.lock.is_open());
}

BOOST_AUTO_TEST_CASE(creates_the_file_unless_told_otherwise) {
  scratch const folder;
  {
    auto const opened = or_throw(fmmap::open_locked(folder / "new", {.mapping = {.size = 100, .permissions = 0700}}));
    BOOST_TEST(opened.file.size() == 100U);
    BOOST_TEST(or_throw(opened.file.metadata()).permissions == 0700U);
  }
  BOOST_TEST(fails(fmmap::open_locked(folder / "missing", {.create = false}), std::errc::no_such_file_or_directory));
  BOOST_TEST(!std::filesystem::exists(folder / "missing"));
  std::filesystem::create_symlink("nowhere", folder / "link");
  BOOST_TEST(fails(fmmap::open_locked(folder / "link"), std::errc::file_exists));
  BOOST_TEST(!std::filesystem::exists(folder / "nowhere"));
}

BOOST_AUTO_TEST_CASE(leaves_no_file_that_it_created_and_could_not_lock) {
  scratch const folder;
  auto const path = folder / "new";
  BOOST_TEST(fails(fmmap::open_locked(path, {.kind = lock_kind::process}), errc::invalid_options));
  BOOST_TEST(!std::filesystem::exists(path));
  for (auto const kind : {lock_kind::open_file_description, lock_kind::flock}) {
    seam::armed const table;
    seam::fail(call::openat, EMFILE, 1, 2); // to open, to create, and once more for the lock
    BOOST_TEST(fails(fmmap::open_locked(path, {.kind = kind}), std::errc::too_many_files_open));
    BOOST_TEST(!std::filesystem::exists(path));
  }
}

BOOST_AUTO_TEST_CASE(cuts_the_file_only_when_it_has_the_lock) {
  scratch const folder;
  auto const path = folder.file("data", pattern(10'000));
  auto const data = or_throw(file::open(path, {.access = access::read_write}));
  auto lock = or_throw(file_lock::create(data));
  or_throw(lock.acquire(shared));
  for (auto const limit : {0ms, 5ms}) {
    auto const opened = fmmap::open_locked(path, {.truncate = true, .mapping = {.size = 3}}, exclusive, limit);
    BOOST_TEST(fails(opened, std::errc::timed_out));
    BOOST_TEST(opened.error().message() == "cannot lock \"" + path.native() +
                                               "\": it was locked for longer than the wait; process " +
                                               std::to_string(::getpid()) + " has a shared lock");
    BOOST_TEST(read_back(path) == pattern(10'000));
  }
  or_throw(lock.release());
  auto const opened =
      or_throw(fmmap::open_locked(path, {.truncate = true, .mapping = {.size = 3, .reserve = 1U << 20}}));
  BOOST_TEST(text_of(opened.file.bytes()) == std::string_view("\0\0\0", 3));
  BOOST_TEST(opened.file.capacity() >= std::size_t{1} << 20);
}

BOOST_AUTO_TEST_CASE(names_only_who_is_in_the_way) {
  scratch const folder;
  auto const path = folder.file("data", "12345");
  auto const data = or_throw(file::open(path, {.access = access::read_write}));
  auto of_another_kind = or_throw(file_lock::create(data, whole, lock_kind::flock));
  auto reader = or_throw(file_lock::create(data, {.offset = 0, .length = 1}));
  auto writer = or_throw(file_lock::create(data, {.offset = 100, .length = 1}));
  or_throw(of_another_kind.acquire(shared));
  or_throw(reader.acquire(shared));
  or_throw(writer.acquire(exclusive));
  auto const refused = fmmap::open_locked_for_reading(path, {}, 1ms);
  BOOST_TEST(refused.error().message().ends_with("process " + std::to_string(::getpid()) + " has an exclusive lock"));
  or_throw(writer.release());
  or_throw(reader.release());
  BOOST_TEST(fmmap::open_locked(path, {}, exclusive, 1ms).has_value());
}

BOOST_AUTO_TEST_CASE(shares_the_file_when_told_to) {
  scratch const folder;
  auto const path = folder.file("data", "12345");
  auto const one = or_throw(fmmap::open_locked(path, {}, shared));
  auto const two = or_throw(fmmap::open_locked(path, {}, shared, fmmap::no_wait));
  BOOST_TEST(fails(fmmap::open_locked(path, {}, exclusive, fmmap::no_wait), std::errc::timed_out));
  BOOST_TEST(fails(fmmap::open_locked(path, {.truncate = true}, shared), errc::invalid_options));
  BOOST_TEST(read_back(path) == "12345");
}

BOOST_AUTO_TEST_CASE(takes_the_kind_of_lock_it_is_told) {
  scratch const folder;
  auto const path = folder.file("data", "12345");
  auto const opened = or_throw(fmmap::open_locked(path, {.kind = lock_kind::flock}));
  BOOST_TEST((opened.lock.kind() == lock_kind::flock));
  BOOST_TEST(is_free(path, exclusive)); // the other kind knows nothing of it
  BOOST_TEST(fails(fmmap::open_locked(path, {.kind = lock_kind::flock}, shared, 1ms), std::errc::timed_out));
}

BOOST_AUTO_TEST_CASE(has_the_file_that_has_the_name_when_another_is_put_there) {
  scratch const folder;
  auto const path = folder.file("data", "old");
  auto const kept = or_throw(file::open(path));
  std::jthread const other{
      [&] { replace_when_waited_for(path, [&] { std::filesystem::rename(folder.file("other", "new"), path); }); }};
  while (is_free(path, exclusive)) {
    std::this_thread::sleep_for(100us);
  }
  auto const opened = or_throw(fmmap::open_locked(path, {}, exclusive, 60s));
  BOOST_TEST(text_of(opened.file.bytes()) == "new");
  BOOST_TEST(!is_free(path, shared));
  BOOST_TEST(or_throw(kept.size()) == 3U);
}

BOOST_AUTO_TEST_CASE(has_a_new_file_when_the_old_one_is_removed) {
  scratch const folder;
  auto const path = folder.file("data", "old");
  auto const kept = or_throw(file::open(path));
  std::jthread const other{[&] { replace_when_waited_for(path, [&] { std::filesystem::remove(path); }); }};
  while (is_free(path, exclusive)) {
    std::this_thread::sleep_for(100us);
  }
  auto const opened = or_throw(fmmap::open_locked(path, {.truncate = true}, exclusive, 60s));
  BOOST_TEST(opened.file.empty());
  BOOST_TEST(std::filesystem::exists(path));
  BOOST_TEST(or_throw(kept.size()) == 3U); // and not the one that was waited for
}

BOOST_AUTO_TEST_CASE(reports_that_the_file_has_gone_where_it_may_not_be_created) {
  scratch const folder;
  auto const path = folder.file("data", "old");
  std::jthread const other{[&] { replace_when_waited_for(path, [&] { std::filesystem::remove(path); }); }};
  while (is_free(path, exclusive)) {
    std::this_thread::sleep_for(100us);
  }
  BOOST_TEST(fails(fmmap::open_locked(path, {.create = false}, exclusive, 60s), std::errc::no_such_file_or_directory));
}

BOOST_AUTO_TEST_CASE(leaves_no_file_that_it_created_and_could_not_map) {
  scratch const folder;
  for (bool const truncate : {false, true}) {
    seam::armed const table;
    seam::fail(call::fallocate, ENOSPC);
    auto const opened = fmmap::open_locked(folder / "new", {.truncate = truncate, .mapping = {.size = 10'000}});
    BOOST_TEST(fails(opened, std::errc::no_space_on_device));
    BOOST_TEST(!std::filesystem::exists(folder / "new"));
  }
  auto const path = folder.file("old", "");
  seam::armed const table;
  seam::fail(call::mmap, ENOMEM);
  BOOST_TEST(fails(fmmap::open_locked(path, {.mapping = {.size = 10}}), std::errc::not_enough_memory));
  BOOST_TEST(std::filesystem::exists(path));
  BOOST_TEST(read_back(path).empty());
}

BOOST_AUTO_TEST_CASE(refuses_what_cannot_be_opened) {
  scratch const folder;
  auto const path = folder.file("data", "12345");
  std::filesystem::create_symlink("data", folder / "link");
  BOOST_TEST(fails(fmmap::open_locked(folder.folder()), std::errc::is_a_directory));
  BOOST_TEST(fails(fmmap::open_locked(folder / "link", {.mapping = {.symlinks = fmmap::symlinks::refuse_last}}),
                   errc::symbolic_link));
  auto const through_link = or_throw(fmmap::open_locked(folder / "link"));
  BOOST_TEST(text_of(through_link.file.bytes()) == "12345");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(open_locked_for_reading)

BOOST_AUTO_TEST_CASE(shares_the_file_and_keeps_writers_out) {
  scratch const folder;
  auto const path = folder.file("data", "12345");
  {
    auto const one = or_throw(fmmap::open_locked_for_reading(path));
    auto const two = or_throw(fmmap::open_locked_for_reading(path, {.range = {.offset = 1, .length = 3}}, 1s));
    BOOST_TEST(text_of(two.file.bytes()) == "234");
    BOOST_TEST((one.lock.held() == shared));
    BOOST_TEST(fails(fmmap::open_locked(path, {}, exclusive, 1ms), std::errc::timed_out));
  }
  auto const writer = or_throw(fmmap::open_locked(path, {}, exclusive, fmmap::no_wait));
  BOOST_TEST(fails(fmmap::open_locked_for_reading(path, {}, 1ms), std::errc::timed_out));
}

BOOST_AUTO_TEST_CASE(creates_nothing_and_reports_what_cannot_be_read) {
  scratch const folder;
  BOOST_TEST(fails(fmmap::open_locked_for_reading(folder / "missing"), std::errc::no_such_file_or_directory));
  auto const path = folder.file("data", "12345");
  BOOST_TEST(fails(fmmap::open_locked_for_reading(path, {.range = {.offset = 6, .length = 1}}), errc::out_of_range));
  auto const opened = or_throw(fmmap::open_locked_for_reading(path, {}, 1s, lock_kind::flock));
  BOOST_TEST((opened.lock.kind() == lock_kind::flock));
}

BOOST_AUTO_TEST_SUITE_END()
