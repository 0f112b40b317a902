// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <expected>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/mounts.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;

using fmmap::access;
using fmmap::durability;
using fmmap::errc;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;
namespace os = fmmap::os;
namespace seam = fmmap::os::seam;
using seam::armed;

static_assert(!std::is_copy_constructible_v<mutable_mapped_file>);
static_assert(std::is_nothrow_move_constructible_v<mutable_mapped_file>);
static_assert(std::is_nothrow_move_assignable_v<mutable_mapped_file>);

namespace {

constexpr std::size_t roomy = std::size_t{1} << 30;

auto entries_in(scratch const& s) -> std::ptrdiff_t {
  return std::ranges::distance(std::filesystem::directory_iterator{s.folder()});
}

auto seed_of_this_run() -> std::uint64_t {
  auto const* const given = std::getenv("FMMAP_SEED");
  auto const seed = given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
  std::cout << "FMMAP_SEED=" << seed << std::endl;
  return seed;
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_mutable_mapped_file)

BOOST_AUTO_TEST_CASE(appends_without_moving_and_leaves_exactly_what_was_appended) {
  scratch const s;
  std::string expected;
  {
    auto f = or_throw(mutable_mapped_file::create(s / "log", {.reserve = roomy}));
    auto const* const base = f.bytes().data();
    for (int i = 0; i < 1000; ++i) {
      auto const message = pattern(100 + static_cast<std::size_t>(i), static_cast<std::uint64_t>(i));
      BOOST_TEST(or_throw(f.append(bytes_of(message))) == expected.size());
      expected += message;
    }
    BOOST_TEST((f.bytes().data() == base));
    BOOST_TEST((text_of(f.bytes()) == expected));
    BOOST_TEST(std::filesystem::file_size(s / "log") == expected.size());
    or_throw(f.close());
  }
  BOOST_TEST((read_back(s / "log") == expected));
}

BOOST_AUTO_TEST_CASE(grows_and_shrinks_with_zeros_in_between) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = 10}));
  f.writable_bytes()[9] = std::byte{1};
  or_throw(f.resize(100'000));
  BOOST_TEST((f.bytes()[9] == std::byte{1}));
  BOOST_TEST((f.bytes()[99'999] == std::byte{0}));
  or_throw(f.resize(5));
  or_throw(f.resize(20, durability::data));
  BOOST_TEST((f.bytes()[9] == std::byte{0}));
  BOOST_TEST(std::filesystem::file_size(s / "f") == 20U);
}

BOOST_AUTO_TEST_CASE(is_created_only_where_there_is_none) {
  scratch const s;
  auto const path = s.file("f", "abc");
  BOOST_TEST(fails(mutable_mapped_file::create(path), std::errc::file_exists));
  BOOST_TEST(read_back(path) == "abc");
  auto const f = or_throw(mutable_mapped_file::create(s / "new", {.size = 5000}));
  BOOST_TEST((text_of(f.bytes()) == std::string(5000, '\0')));
  BOOST_TEST(f.path() == (s / "new").native());
  BOOST_TEST(blocks_of(s / "new") >= 5000U);
  BOOST_TEST(or_throw(f.metadata()).permissions == 0600U);
}

BOOST_AUTO_TEST_CASE(is_opened_with_its_size_or_given_one_when_empty_or_missing) {
  scratch const s;
  auto const path = s.file("f", "abc");
  BOOST_TEST(or_throw(mutable_mapped_file::open(path, {.size = 5000})).size() == 3U);
  auto const empty = s.file("empty", "");
  BOOST_TEST(or_throw(mutable_mapped_file::open(empty, {.size = 5000})).size() == 5000U);
  BOOST_TEST(or_throw(mutable_mapped_file::open(s / "missing")).size() == 0U);
  BOOST_TEST(or_throw(mutable_mapped_file::open_existing(s.file("empty2", ""), {.size = 7})).size() == 7U);
  BOOST_TEST(fails(mutable_mapped_file::open_existing(s / "none"), std::errc::no_such_file_or_directory));
  BOOST_TEST(!std::filesystem::exists(s / "none"));
}

BOOST_AUTO_TEST_CASE(refuses_what_is_not_a_file_and_paths_with_nul) {
  scratch const s;
  BOOST_TEST(fails(mutable_mapped_file::open(s.folder()), std::errc::is_a_directory));
  BOOST_TEST(fails(mutable_mapped_file::open(s.folder() / std::string_view{"a\0b", 3}), std::errc::invalid_argument));
  BOOST_TEST(fails(mutable_mapped_file::open("/dev/zero"), errc::not_a_regular_file));
  std::filesystem::create_symlink(s.file("f", "abc"), s / "link");
  BOOST_TEST(
      fails(mutable_mapped_file::open(s / "link", {.symlinks = fmmap::symlinks::refuse_last}), errc::symbolic_link));
  BOOST_TEST(or_throw(mutable_mapped_file::open(s / "link")).size() == 3U);
}

BOOST_AUTO_TEST_CASE(leaves_no_file_when_creating_fails_at_any_call) {
  scratch const s;
  for (int const code : {EIO, ENOSPC, ENOMEM}) {
    for (std::uint64_t n = 1;; ++n) {
      bool made = false;
      bool injected = false;
      {
        armed const table;
        seam::fail_nth(n, code);
        auto const f = mutable_mapped_file::create(
            s / "f", {.size = 5000, .reserve = 1 << 20, .populate = true, .sync_directory = true});
        made = f.has_value();
        injected = seam::injected() > 0;
      }
      BOOST_TEST_CONTEXT("call " << n << " errno " << code) { BOOST_TEST(std::filesystem::exists(s / "f") == made); }
      std::filesystem::remove(s / "f");
      if (!injected) {
        BOOST_TEST(n > 6U);
        break;
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(leaves_an_existing_empty_file_empty_when_opening_fails) {
  scratch const s;
  auto const path = s.file("f", "");
  armed const table;
  seam::fail(os::call::mmap, ENOMEM);
  BOOST_TEST(fails(mutable_mapped_file::open(path, {.size = 5000}), std::errc::not_enough_memory));
  BOOST_TEST(std::filesystem::file_size(path) == 0U);
}

BOOST_AUTO_TEST_CASE(checks_ranges_it_is_asked_for) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::open(s.file("f", "0123456789")));
  BOOST_TEST(text_of(or_throw(f.bytes(3, 4))) == "3456");
  BOOST_TEST(or_throw(f.bytes(10, 0)).empty());
  BOOST_TEST(fails(f.bytes(3, 8), errc::out_of_range));
  BOOST_TEST(fails(f.bytes(11, 0), errc::out_of_range));
  BOOST_TEST(fails(f.bytes(UINT64_MAX, 2), errc::out_of_range));
  BOOST_TEST(f.write_at(8, bytes_of("abcd")) == 2U);
  BOOST_TEST(f.write_at(10, bytes_of("abcd")) == 0U);
  BOOST_TEST(f.write_at(UINT64_MAX, bytes_of("abcd")) == 0U);
  BOOST_TEST(f.write_at(0, {}) == 0U);
  BOOST_TEST(text_of(f.bytes()) == "01234567ab");
}

BOOST_AUTO_TEST_CASE(copy_on_write_never_reaches_the_file) {
  scratch const s;
  auto const path = s.file("f", "0123456789");
  std::filesystem::permissions(path, std::filesystem::perms::owner_read);
  auto f = or_throw(mutable_mapped_file::open_copy_on_write(path, {.reserve = 1 << 20}));
  f.writable_bytes()[0] = std::byte{'X'};
  BOOST_TEST(text_of(f.bytes()) == "X123456789");
  BOOST_TEST(fails(f.resize(20), errc::copy_on_write));
  BOOST_TEST(fails(f.resize(5), errc::copy_on_write));
  BOOST_TEST(fails(f.resize(10), errc::copy_on_write));
  BOOST_TEST(fails(f.append(bytes_of("abc")), errc::copy_on_write));
  BOOST_TEST(fails(f.append({}), errc::copy_on_write));
  BOOST_TEST(fails(f.flush(), errc::copy_on_write));
  BOOST_TEST(fails(f.stage_flush(), errc::copy_on_write));
  BOOST_TEST(fails(f.reserve(2 << 20), errc::copy_on_write));
  or_throw(f.shrink_to_fit());
  BOOST_TEST(text_of(f.bytes()) == "X123456789");
  or_throw(f.close());
  BOOST_TEST(read_back(path) == "0123456789");
  BOOST_TEST(fails(mutable_mapped_file::open_copy_on_write(path, {.size = 1}), errc::invalid_options));
}

BOOST_AUTO_TEST_CASE(made_read_only_by_its_mapping_refuses_to_grow) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::open(s.file("f", "abc")));
  or_throw(f.protect(access::read_only));
  BOOST_TEST(fails(f.resize(10'000), errc::read_only));
  BOOST_TEST(fails(f.append(bytes_of("d")), errc::read_only));
  BOOST_TEST(f.write_at(0, bytes_of("X")) == 0U);
  BOOST_TEST(text_of(f.bytes()) == "abc");
  or_throw(f.close());
  BOOST_TEST(read_back(s / "f") == "abc");
}

BOOST_AUTO_TEST_CASE(made_read_only_by_its_mapping_refuses_to_be_written_whatever_the_range) {
  scratch const s;
  for (std::string_view const content : {"abc", ""}) {
    auto f = or_throw(mutable_mapped_file::open(s.file("f", content)));
    or_throw(f.protect(access::read_only));
    for (fmmap::byte_range const range :
         {fmmap::whole, {.offset = 0, .length = 0}, {.offset = 1}, {.offset = 0, .length = 1}}) {
      BOOST_TEST(fails(f.fill(range, std::byte{'X'}), errc::read_only));
      BOOST_TEST(fails(f.zero(range), errc::read_only));
      BOOST_TEST(fails(f.writer(range), errc::read_only));
      BOOST_TEST(fails(f.writable_bytes(range.offset, range.length), errc::read_only));
    }
    BOOST_TEST(fails(f.writable_view<char>(), errc::read_only));
    BOOST_TEST(fails(f.write_exactly(0, {}), errc::read_only));
    BOOST_TEST(text_of(f.bytes()) == content);
  }
}

BOOST_AUTO_TEST_CASE(views_no_more_objects_than_there_are_however_many_are_asked_for) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::open(s.file("f", pattern(24))));
  for (std::size_t const count : {std::size_t{4}, SIZE_MAX / 8, SIZE_MAX / 8 + 1, SIZE_MAX - 1}) {
    BOOST_TEST(fails(f.writable_view<std::uint64_t>(0, count), errc::out_of_range));
    BOOST_TEST(fails(f.view<std::uint64_t>(0, count), errc::out_of_range));
  }
  using triple = std::array<std::byte, 3>; // of which SIZE_MAX bytes are a whole number
  BOOST_TEST(fails(f.writable_view<triple>(0, SIZE_MAX / 3), errc::out_of_range));
  BOOST_TEST(fails(f.view<triple>(0, SIZE_MAX / 3), errc::out_of_range));
  BOOST_TEST(or_throw(f.writable_view<triple>()).size() == 8U);
  BOOST_TEST(or_throw(f.writable_view<std::uint64_t>(8)).size() == 2U);
}

BOOST_AUTO_TEST_CASE(says_closed_after_close_and_after_a_move) {
  scratch const s;
  auto from = or_throw(mutable_mapped_file::open(s.file("f", "abc")));
  auto f = std::move(from);
  auto const check = [](mutable_mapped_file& gone) {
    BOOST_TEST(gone.bytes().empty());
    BOOST_TEST(gone.writable_bytes().empty());
    BOOST_TEST(gone.size() == 0U);
    BOOST_TEST(gone.capacity() == 0U);
    BOOST_TEST(gone.path().empty());
    BOOST_TEST(gone.write_at(0, bytes_of("x")) == 0U);
    BOOST_TEST(fails(gone.bytes(0, 0), errc::closed));
    BOOST_TEST(fails(gone.append(bytes_of("x")), errc::closed));
    BOOST_TEST(fails(gone.append({}), errc::closed));
    BOOST_TEST(fails(gone.resize(0), errc::closed));
    BOOST_TEST(fails(gone.reserve(1), errc::closed));
    BOOST_TEST(fails(gone.shrink_to_fit(), errc::closed));
    BOOST_TEST(fails(gone.flush(), errc::closed));
    BOOST_TEST(fails(gone.stage_flush(), errc::closed));
    BOOST_TEST(fails(gone.remove(), errc::closed));
    BOOST_TEST(fails(gone.metadata(), errc::closed));
    BOOST_TEST(fails(gone.close(), errc::closed));
  };
  check(from);
  or_throw(f.close());
  check(f);
  BOOST_TEST(read_back(s / "f") == "abc");
}

BOOST_AUTO_TEST_CASE(trims_what_it_held_when_assigned_to) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "a"));
  (void)or_throw(f.append(bytes_of("a")));
  BOOST_TEST(blocks_of(s / "a") > 32'768U);
  f = or_throw(mutable_mapped_file::create(s / "b"));
  BOOST_TEST(blocks_of(s / "a") <= 8192U);
  (void)or_throw(f.append(bytes_of("b")));
  auto& itself = f;
  f = std::move(itself);
  BOOST_TEST(text_of(f.bytes()) == "b");
}

BOOST_AUTO_TEST_CASE(gives_back_what_it_allocated_ahead_in_close_in_shrink_to_fit_and_in_the_destructor) {
  scratch const s;
  for (int const way : {0, 1, 2}) {
    auto const path = s / ("f" + std::to_string(way));
    {
      auto f = or_throw(mutable_mapped_file::create(path));
      (void)or_throw(f.append(bytes_of(pattern(100'000))));
      BOOST_TEST(std::filesystem::file_size(path) == 100'000U);
      BOOST_TEST(blocks_of(path) >= 150'000U); // ahead, but not part of the size
      if (way == 0) {
        or_throw(f.close());
      } else if (way == 1) {
        or_throw(f.shrink_to_fit());
        BOOST_TEST(blocks_of(path) <= 106'496U);
        (void)or_throw(f.append(bytes_of("x")));
        or_throw(f.resize(100'000));
      }
    }
    BOOST_TEST(blocks_of(path) <= 106'496U);
    BOOST_TEST((read_back(path) == pattern(100'000)));
  }
}

BOOST_AUTO_TEST_CASE(reports_a_failed_trim_and_unmaps_all_the_same) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "f"));
  (void)or_throw(f.append(bytes_of("abc")));
  armed const table;
  seam::fail(os::call::ftruncate, EIO);
  BOOST_TEST(fails(f.close(), std::errc::io_error));
  BOOST_TEST(std::ranges::count(seam::calls(), os::call::munmap) == 1);
  BOOST_TEST(std::ranges::count(seam::calls(), os::call::close) == 1);
  BOOST_TEST(fails(f.close(), errc::closed));
  BOOST_TEST(read_back(s / "f") == "abc");
}

BOOST_AUTO_TEST_CASE(tells_the_handler_of_a_trim_that_fails_in_the_destructor) {
  scratch const s;
  static int dropped = 0;
  dropped = 0;
  auto* const earlier = fmmap::set_dropped_error_handler(
      [](fmmap::error const& why) noexcept { dropped += why == std::errc::io_error ? 1 : 100; });
  {
    auto f = or_throw(mutable_mapped_file::create(s / "f"));
    (void)or_throw(f.append(bytes_of("abc")));
    seam::arm();
    seam::fail(os::call::ftruncate, EIO);
  }
  seam::disarm();
  fmmap::set_dropped_error_handler(earlier);
  BOOST_TEST(dropped == 1);
}

BOOST_AUTO_TEST_CASE(keeps_its_address_through_ten_thousand_resizes_inside_the_reservation) {
  scratch const s{memory_folder()};
  auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = 1, .reserve = std::size_t{64} << 20}));
  auto const* const base = f.bytes().data();
  f.writable_bytes()[0] = std::byte{42};
  std::minstd_rand random{1};
  for (int i = 0; i < 10'000; ++i) {
    auto const size = 1 + random() % 300'000;
    or_throw(f.resize(size));
    BOOST_REQUIRE((f.bytes().data() == base));
    BOOST_REQUIRE((f.bytes().front() == std::byte{42}));
    f.writable_bytes()[size - 1] = std::byte{42};
  }
  BOOST_TEST(std::filesystem::file_size(s / "f") == f.size());
}

BOOST_AUTO_TEST_CASE(moves_when_the_reserve_is_exceeded_and_keeps_its_bytes) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = 100, .reserve = 8192}));
  auto const content = pattern(100);
  BOOST_TEST(f.write_at(0, bytes_of(content)) == 100U);
  or_throw(f.resize(100'000));
  BOOST_TEST(f.capacity() >= 100'000U);
  BOOST_TEST((text_of(f.bytes()) == content + std::string(99'900, '\0')));
  (void)or_throw(f.append(bytes_of(pattern(500'000))));
  BOOST_TEST((text_of(f.bytes()) == content + std::string(99'900, '\0') + pattern(500'000)));
  f.writable_bytes()[599'999] = std::byte{7};
  or_throw(f.close());
  BOOST_TEST(std::filesystem::file_size(s / "f") == 600'000U);
  BOOST_TEST((read_back(s / "f").back() == 7));
}

BOOST_AUTO_TEST_CASE(stays_as_it_is_when_it_may_not_move) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = 100, .reserve = 8192, .may_move = false}));
  auto const* const base = f.bytes().data();
  BOOST_TEST(fails(f.resize(8193), errc::reservation_exceeded));
  BOOST_TEST(fails(f.append(bytes_of(pattern(8093))), errc::reservation_exceeded));
  BOOST_TEST(fails(f.resize(UINT64_MAX), errc::reservation_exceeded));
  BOOST_TEST(f.size() == 100U);
  BOOST_TEST((f.bytes().data() == base));
  BOOST_TEST(std::filesystem::file_size(s / "f") == 100U);
  or_throw(f.resize(8192));
  BOOST_TEST((f.bytes().data() == base));
}

BOOST_AUTO_TEST_CASE(grows_to_a_size_twice_of_which_no_address_space_holds) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = 100, .reserve = 1 << 20}));
  armed const table;
  seam::fail(os::call::mmap, ENOMEM, 1); // the first try, with room for growth
  or_throw(f.resize((1 << 20) + 4096));
  BOOST_TEST(f.size() == (1U << 20) + 4096);
  BOOST_TEST(f.capacity() < (2U << 20));
}

BOOST_AUTO_TEST_CASE(is_as_before_when_resize_or_append_fails_at_any_call) {
  scratch const s;
  auto const content = pattern(5000);
  for (bool const appending : {false, true}) {
    for (std::size_t const reserve : {std::size_t{8192}, roomy}) {
      for (int const code : {EIO, ENOSPC, ENOMEM}) {
        for (std::uint64_t n = 1;; ++n) {
          auto f = or_throw(mutable_mapped_file::open(s.file("f", content), {.reserve = reserve}));
          auto const* const base = f.bytes().data();
          bool done = false;
          bool injected = false;
          {
            armed const table;
            seam::fail_nth(n, code);
            done = appending ? f.append(bytes_of(pattern(100'000))).has_value() : f.resize(105'000).has_value();
            injected = seam::injected() > 0;
          }
          BOOST_TEST_CONTEXT((appending ? "append" : "resize") << " call " << n << " errno " << code) {
            auto const size = done ? 105'000U : 5000U;
            BOOST_TEST(f.size() == size);
            BOOST_TEST(std::filesystem::file_size(s / "f") == size);
            BOOST_TEST((text_of(f.bytes().first(5000)) == content));
            BOOST_TEST((done || f.bytes().data() == base));
            (void)or_throw(f.append(bytes_of("still works")));
            BOOST_TEST(text_of(f.bytes().last(11)) == "still works");
            or_throw(f.close());
            BOOST_TEST(blocks_of(s / "f") < size + 3U * 4096);
          }
          if (!injected) {
            break;
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(says_in_the_error_when_only_the_flush_of_a_resize_failed) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = 100}));
  armed const table;
  seam::fail(os::call::fdatasync, EIO, 1);
  auto const outcome = f.resize(5000, durability::data);
  BOOST_REQUIRE(fails(outcome, std::errc::io_error));
  BOOST_TEST(outcome.error().operation() == "flush");
  BOOST_TEST(f.size() == 5000U);
  BOOST_TEST(std::filesystem::file_size(s / "f") == 5000U);
}

BOOST_AUTO_TEST_CASE(appends_and_grows_where_nothing_can_be_allocated) {
  for (int const code : {EOPNOTSUPP, ENOSYS}) {
    scratch const s;
    armed const table;
    seam::fail(os::call::fallocate, code);
    auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = 100}));
    (void)or_throw(f.append(bytes_of(pattern(5000))));
    or_throw(f.resize(20'000));
    (void)or_throw(f.append(bytes_of("end")));
    auto const expected = std::string(100, '\0') + pattern(5000) + std::string(14'900, '\0') + "end";
    BOOST_TEST((text_of(f.bytes()) == expected));
    or_throw(f.close());
    BOOST_TEST((read_back(s / "f") == expected));
    BOOST_TEST(blocks_of(s / "f") >= 20'000U);
  }
}

BOOST_AUTO_TEST_CASE(appends_its_own_bytes) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::open(s.file("f", pattern(5000)), {.reserve = 8192}));
  (void)or_throw(f.append(f.bytes()));
  (void)or_throw(f.append(f.bytes()));
  BOOST_TEST((text_of(f.bytes()) == pattern(5000) + pattern(5000) + pattern(5000) + pattern(5000)));
}

BOOST_AUTO_TEST_CASE(copies_its_own_bytes_over_each_other) {
  scratch const s;
  auto expected = pattern(100'000);
  auto f = or_throw(mutable_mapped_file::open(s.file("f", expected)));
  auto const moved = [&](std::size_t from, std::size_t to, std::size_t length) {
    expected.replace(to, length, std::string{expected, from, length});
    return f.bytes().subspan(from, length);
  };
  BOOST_TEST(f.write_at(7, moved(0, 7, 90'000)) == 90'000U);
  BOOST_TEST((f.text() == expected));
  or_throw(f.write_exactly(5'000, moved(100, 5'000, 50'000)));
  BOOST_TEST((f.text() == expected));
  auto writer = or_throw(f.writer({.offset = 10}));
  BOOST_TEST(writer.write_some(moved(40, 10, 80'000)) == 80'000U);
  BOOST_TEST((f.text() == expected));
  BOOST_TEST(f.read_at(3, f.writable_bytes().subspan(1, moved(3, 1, 70'000).size())) == 70'000U);
  BOOST_TEST((f.text() == expected));
  auto reader = or_throw(f.reader());
  BOOST_TEST(reader.read_some(f.writable_bytes().subspan(9, moved(0, 9, 60'000).size())) == 60'000U);
  BOOST_TEST((f.text() == expected));
}

BOOST_AUTO_TEST_CASE(never_shows_what_was_stored_past_its_end) {
  scratch const on_disk;
  scratch const in_memory{memory_folder()}; // tmpfs keeps such bytes
  for (auto const& folder : {on_disk.folder(), in_memory.folder()}) {
    for (bool const reopening : {false, true}) {
      auto const path = folder / "f";
      std::filesystem::remove(path);
      auto f = or_throw(mutable_mapped_file::create(path, {.size = 10, .reserve = 1 << 20}));
      auto* const page = f.writable_bytes().data();
      page[9] = std::byte{1};
      std::fill_n(page + 10, 4086, std::byte{7});
      if (reopening) {
        or_throw(f.close());
        f = or_throw(mutable_mapped_file::open_existing(path, {.reserve = 1 << 20}));
      }
      or_throw(f.resize(1000));
      std::fill_n(f.writable_bytes().data() + 1000, 3096, std::byte{7});
      (void)or_throw(f.append(bytes_of("abc")));
      or_throw(f.resize(9000));
      BOOST_TEST((text_of(f.bytes()) ==
                  std::string(9, '\0') + '\1' + std::string(990, '\0') + "abc" + std::string(7997, '\0')));
    }
  }
}

BOOST_AUTO_TEST_CASE(keeps_what_was_written_through_the_mapping_when_it_grows_shrinks_and_moves) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = 10'000, .reserve = 16'384}));
  auto const content = pattern(10'000);
  BOOST_TEST(f.write_at(0, bytes_of(content)) == content.size());
  or_throw(f.resize(16'000));
  or_throw(f.resize(9'000));
  or_throw(f.reserve(1 << 20));
  or_throw(f.resize(900'000));
  BOOST_TEST((text_of(f.bytes()) == content.substr(0, 9'000) + std::string(891'000, '\0')));
  BOOST_TEST((read_back(s / "f") == text_of(f.bytes())));
}

BOOST_AUTO_TEST_CASE(passes_four_gigabytes) {
  scratch const s;
  {
    auto sparse = or_throw(fmmap::file::create_new(s / "f"));
    or_throw(sparse.resize((std::uint64_t{1} << 32) + 10));
  }
  auto f = or_throw(mutable_mapped_file::open(s / "f", {.reserve = std::size_t{1} << 33}));
  BOOST_TEST(or_throw(f.append(bytes_of("far"))) == (std::uint64_t{1} << 32) + 10);
  BOOST_TEST(text_of(or_throw(f.bytes((std::uint64_t{1} << 32) + 10, 3))) == "far");
  or_throw(f.resize((std::uint64_t{1} << 32) + 100'000));
  f.writable_bytes()[(std::uint64_t{1} << 32) + 99'999] = std::byte{1};
  or_throw(f.close());
  BOOST_TEST(std::filesystem::file_size(s / "f") == (std::uint64_t{1} << 32) + 100'000);
  BOOST_TEST(blocks_of(s / "f") < (std::uint64_t{4} << 20));
}

BOOST_AUTO_TEST_CASE(is_removed_and_stays_mapped) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::open(s.file("f", "abc")));
  or_throw(f.remove());
  BOOST_TEST(!std::filesystem::exists(s / "f"));
  (void)or_throw(f.append(bytes_of("d")));
  BOOST_TEST(text_of(f.bytes()) == "abcd");
  BOOST_TEST(fails(f.remove(), std::errc::no_such_file_or_directory));
}

BOOST_AUTO_TEST_CASE(killed_at_any_call_of_an_append_leaves_whole_appends_and_no_tail) {
  for (int const without_fallocate : {0, EOPNOTSUPP}) {
    for (bool const after : {false, true}) {
      int survived = 0;
      for (std::uint64_t n = 1; survived < 3; ++n) { // a call that fails is not killed after, so one may survive early
        scratch const s;
        auto const path = s.file("log", "head:");
        auto const child = start_child([&] {
          auto f = or_throw(mutable_mapped_file::open_existing(path, {.reserve = 8192}));
          seam::arm();
          if (without_fallocate != 0) {
            seam::fail(os::call::fallocate, without_fallocate);
          }
          seam::kill_at(n, after);
          for (int i = 0; i < 4; ++i) {
            (void)or_throw(f.append(bytes_of(pattern(3000, 7))));
          }
          or_throw(f.close());
          return 0;
        });
        auto const end = end_of(child);
        auto const size = std::filesystem::file_size(path);
        BOOST_TEST_CONTEXT("call " << n << (after ? " after" : " before")) {
          BOOST_TEST((size - 5) % 3000 == 0U);
          std::string expected = "head:";
          while (expected.size() < size) {
            expected += pattern(3000, 7);
          }
          BOOST_TEST((read_back(path) == expected));
          auto f = or_throw(mutable_mapped_file::open_existing(path));
          BOOST_TEST(or_throw(f.append(bytes_of("next"))) == size);
          or_throw(f.close());
          BOOST_TEST((read_back(path) == expected + "next"));
          BOOST_TEST(blocks_of(path) <= size + 2U * 4096);
        }
        BOOST_REQUIRE((end == 0 || end == -SIGKILL));
        survived = end == 0 ? survived + 1 : 0;
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(killed_at_any_moment_leaves_whole_appends_of_which_the_last_may_be_cut_short) {
  scratch const s;
  for (int round = 0; round < 10; ++round) {
    auto const path = s / ("log" + std::to_string(round));
    int acknowledged[2];
    BOOST_REQUIRE(::pipe(acknowledged) == 0);
    auto const child = start_child([&] {
      auto f = or_throw(mutable_mapped_file::create(path, {.reserve = roomy}));
      for (char i = 0;; ++i) {
        (void)or_throw(f.append(bytes_of(std::string(100, i))));
        if (::write(acknowledged[1], &i, 1) != 1) {
          return 1;
        }
      }
    });
    ::close(acknowledged[1]);
    std::size_t count = 0;
    for (char byte = 0;
         count < 200U + static_cast<std::size_t>(round) * 37 && ::read(acknowledged[0], &byte, 1) == 1;) {
      ++count;
    }
    ::kill(child, SIGKILL);
    while (true) {
      char byte = 0;
      if (::read(acknowledged[0], &byte, 1) != 1) {
        break;
      }
      ++count;
    }
    ::close(acknowledged[0]);
    BOOST_TEST(end_of(child) == -SIGKILL);
    auto const text = read_back(path);
    // A kill ends a write(2) between two pages, about once in a hundred kills.
    BOOST_TEST((text.size() % 100 == 0 || text.size() % 4096 == 0));
    BOOST_TEST(text.size() / 100 >= count);
    BOOST_TEST(text.size() / 100 <= count + 1);
    bool whole = true;
    for (std::size_t i = 0; i < text.size(); ++i) {
      whole = whole && text[i] == static_cast<char>(i / 100);
    }
    BOOST_TEST(whole);
  }
}

BOOST_AUTO_TEST_CASE(behaves_like_a_vector_of_bytes_through_random_operations) {
  scratch const s{memory_folder()};
  std::mt19937_64 random{seed_of_this_run()};
  auto const up_to = [&](std::uint64_t most) { return static_cast<std::size_t>(random() % (most + 1)); };
  constexpr std::size_t most = 200'000;
  std::vector<std::byte> model;
  std::optional<mutable_mapped_file> f{or_throw(mutable_mapped_file::create(s / "f"))};
  auto const same = [&] { return std::ranges::equal(f->bytes(), model); };
  for (int step = 0; step < 100'000; ++step) {
    auto const choice = up_to(999);
    if (choice < 300) {
      auto const bytes = pattern(up_to(300), random());
      auto const where = f->append(bytes_of(bytes));
      BOOST_REQUIRE((where.has_value() && *where == model.size()));
      model.insert(model.end(), bytes_of(bytes).begin(), bytes_of(bytes).end());
    } else if (choice < 840) {
      auto const bytes = pattern(up_to(300), random());
      auto const at = up_to(model.size() + 10);
      auto const expected = at >= model.size() ? 0 : std::min(bytes.size(), model.size() - at);
      BOOST_REQUIRE(f->write_at(at, bytes_of(bytes)) == expected);
      std::copy_n(bytes_of(bytes).begin(), expected,
                  model.begin() + static_cast<std::ptrdiff_t>(std::min(at, model.size())));
    } else if (choice < 880) {
      auto const around = model.size() + up_to(10'000);
      auto const size = up_to(9) == 0 ? up_to(most) : std::min(most, around > 5'000 ? around - 5'000 : around);
      BOOST_REQUIRE(f->resize(size).has_value());
      model.resize(size);
    } else if (choice < 980) {
      auto const at = up_to(model.size() + 5);
      auto const length = up_to(300);
      auto const got = f->bytes(at, length);
      auto const fits = at <= model.size() && length <= model.size() - at;
      BOOST_REQUIRE(got.has_value() == fits);
      BOOST_REQUIRE((!fits || std::ranges::equal(*got, std::span{model}.subspan(at, length))));
    } else if (choice < 984) {
      BOOST_REQUIRE(f->shrink_to_fit().has_value());
    } else if (choice < 988) {
      BOOST_REQUIRE(f->reserve(up_to(2 * most)).has_value());
    } else if (choice < 990) { // what lies past the end in the last page is not content
      auto const size = f->size();
      auto const rest = size % 4096 == 0 ? 0 : 4096 - size % 4096;
      if (rest > 0) {
        std::fill_n(f->writable_bytes().data() + size, rest, std::byte{0xee});
      }
    } else if (choice < 991) {
      BOOST_REQUIRE(same());
      if (choice % 2 == 0) {
        BOOST_REQUIRE(f->close().has_value());
      }
      f.reset();
      BOOST_REQUIRE(std::filesystem::file_size(s / "f") == model.size());
      f.emplace(or_throw(mutable_mapped_file::open_existing(s / "f", {.reserve = up_to(most)})));
      BOOST_REQUIRE(same());
    } else {
      BOOST_REQUIRE(same());
    }
    BOOST_REQUIRE(f->size() == model.size());
  }
  BOOST_TEST(same());
  BOOST_TEST(entries_in(s) == 1);
}

BOOST_AUTO_TEST_CASE(that_is_empty_works_in_every_function) {
  scratch const s;
  for (std::size_t const reserve : {std::size_t{0}, std::size_t{1} << 20}) {
    auto f = or_throw(mutable_mapped_file::create(s / "f", {.reserve = reserve, .populate = true}));
    BOOST_TEST(f.size() == 0U);
    BOOST_TEST(f.bytes().empty());
    BOOST_TEST(f.writable_bytes().empty());
    BOOST_TEST(f.capacity() >= reserve);
    BOOST_TEST(or_throw(f.bytes(0, 0)).empty());
    BOOST_TEST(fails(f.bytes(0, 1), errc::out_of_range));
    BOOST_TEST(f.write_at(0, bytes_of("x")) == 0U);
    BOOST_TEST(or_throw(f.append({})) == 0U);
    for (auto const level :
         {durability::none, durability::started, durability::written, durability::data, durability::all}) {
      BOOST_TEST((or_throw(f.flush(fmmap::whole, level)) == level));
      BOOST_TEST((or_throw(f.flush({.offset = 0, .length = 0}, level)) == level));
      BOOST_TEST((or_throw(or_throw(f.stage_flush(fmmap::whole, level)).run()) == level));
      or_throw(f.resize(0, level));
    }
    BOOST_TEST(fails(f.flush({.offset = 0, .length = 1}), errc::out_of_range));
    or_throw(f.reserve(0));
    or_throw(f.shrink_to_fit());
    BOOST_TEST((or_throw(f.rewrite()) == durability::data));
    or_throw(f.as_mapping().advise(fmmap::advice::populate_write));
    or_throw(f.reserve(std::size_t{2} << 20));
    BOOST_TEST(f.capacity() >= std::size_t{2} << 20);
    BOOST_TEST(or_throw(f.append({})) == 0U);
    BOOST_TEST(blocks_of(s / "f") == 0U); // nothing is allocated ahead of nothing
    BOOST_TEST(std::filesystem::file_size(s / "f") == 0U);
    BOOST_TEST(or_throw(f.metadata()).size == 0U);
    or_throw(f.remove());
    BOOST_TEST(!std::filesystem::exists(s / "f"));
    BOOST_TEST(or_throw(f.append(bytes_of("abc"))) == 0U);
    BOOST_TEST(text_of(f.bytes()) == "abc");
    or_throw(f.resize(0));
    BOOST_TEST(f.bytes().empty());
    BOOST_TEST(or_throw(f.append(bytes_of("d"))) == 0U);
    BOOST_TEST(text_of(f.bytes()) == "d");
    or_throw(f.resize(0));
    or_throw(f.close());
  }
}

BOOST_AUTO_TEST_CASE(that_is_empty_is_gone_over_without_a_step) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "f"));
  auto const check = [](auto over) {
    or_throw(over.skip(0));
    or_throw(over.seek(0));
    BOOST_TEST(over.at_end());
    BOOST_TEST(fails(over.skip(1), errc::out_of_range));
    BOOST_TEST(fails(over.seek(1), errc::out_of_range));
  };
  check(or_throw(f.reader()));
  check(or_throw(f.writer()));
  check(fmmap::byte_reader{});
  check(fmmap::byte_writer{});
}

BOOST_AUTO_TEST_CASE(that_is_empty_opens_copy_on_write) {
  scratch const s;
  auto const path = s.file("f", "");
  for (std::size_t const reserve : {std::size_t{0}, std::size_t{1} << 20}) {
    for (bool const populate : {false, true}) {
      auto f = or_throw(mutable_mapped_file::open_copy_on_write(path, {.reserve = reserve, .populate = populate}));
      BOOST_TEST(f.bytes().empty());
      BOOST_TEST(f.writable_bytes().empty());
      BOOST_TEST(or_throw(f.bytes(0, 0)).empty());
      BOOST_TEST(fails(f.resize(0), errc::copy_on_write));
      BOOST_TEST(fails(f.append({}), errc::copy_on_write));
      BOOST_TEST(fails(f.flush(), errc::copy_on_write));
      or_throw(f.shrink_to_fit());
      or_throw(f.close());
    }
  }
  BOOST_TEST(std::filesystem::file_size(path) == 0U);
}

BOOST_AUTO_TEST_CASE(appends_nothing_without_changing_anything) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::open(s.file("f", "abc")));
  auto const* const data = f.bytes().data();
  BOOST_TEST(or_throw(f.append({})) == 3U);
  BOOST_TEST(f.size() == 3U);
  BOOST_TEST((f.bytes().data() == data));
  or_throw(f.resize(3));
  BOOST_TEST((f.bytes().data() == data));
  BOOST_TEST(text_of(f.bytes()) == "abc");
}

BOOST_AUTO_TEST_CASE(past_the_address_space_is_an_error_and_the_view_stays) {
  if (sanitized) {
    skip("a sanitizer has taken more address space than the limit");
    return;
  }
  scratch const s;
  BOOST_TEST(found_in_child([&](findings& found) {
               auto const content = pattern(10'000);
               auto f = or_throw(mutable_mapped_file::open(s.file("f", content), {.reserve = 16'384}));
               auto const* const data = f.bytes().data();
               limit(RLIMIT_AS, std::size_t{1} << 30);
               std::size_t const too_much = std::size_t{2} << 30;
               found.expect(fails(f.reserve(too_much), std::errc::not_enough_memory), "2 GiB were reserved");
               found.expect(fails(f.resize(too_much), std::errc::not_enough_memory), "it grew to 2 GiB");
               found.expect(f.bytes().data() == data && f.size() == content.size(), "the view changed");
               found.expect(text_of(f.bytes()) == content, "the bytes changed");
               found.expect(std::filesystem::file_size(s / "f") == content.size(), "the file's size changed");
               found.expect(blocks_of(s / "f") <= 16'384, "the file keeps blocks");
               f.writable_bytes()[0] = std::byte{'!'};
               found.expect(read_back(s / "f")[0] == '!', "the view is not of the file");
               or_throw(f.resize(16'384));  // inside the reservation
               or_throw(f.resize(100'000)); // and where there is room
               found.expect(f.bytes()[0] == std::byte{'!'}, "growing lost a byte");
               or_throw(f.close());
             }) == "");
}

BOOST_AUTO_TEST_CASE(past_the_limit_of_file_sizes_is_killed_unless_the_signal_is_ignored) {
  scratch const s;
  for (bool const appending : {false, true}) {
    auto const path = s.file("f", pattern(10'000));
    auto const grow = [&](mutable_mapped_file& f) {
      return appending ? f.append(bytes_of(pattern(100'000))).has_value() : f.resize(110'000).has_value();
    };
    BOOST_TEST_CONTEXT((appending ? "append" : "resize")) {
      BOOST_TEST(dies_of(SIGXFSZ, [&] {
        auto f = or_throw(mutable_mapped_file::open(path, {.reserve = roomy}));
        limit(RLIMIT_FSIZE, 50'000);
        (void)grow(f);
      }));
      auto const left = read_back(path); // an append may be cut short
      BOOST_TEST(left.size() <= (appending ? 50'000U : 10'000U));
      BOOST_TEST((left == (pattern(10'000) + pattern(100'000)).substr(0, left.size())));
      std::filesystem::resize_file(path, 10'000);
      BOOST_TEST(found_in_child([&](findings& found) {
                   ::signal(SIGXFSZ, SIG_IGN);
                   auto f = or_throw(mutable_mapped_file::open(path, {.reserve = roomy}));
                   limit(RLIMIT_FSIZE, 50'000);
                   if (appending) {
                     found.expect(fails(f.append(bytes_of(pattern(100'000))), std::errc::file_too_large), "appended");
                   } else {
                     found.expect(fails(f.resize(110'000), std::errc::file_too_large), "resized");
                   }
                   found.expect(f.size() == 10'000, "the view grew");
                   found.expect(std::filesystem::file_size(path) == 10'000, "the file grew");
                   found.expect(text_of(f.bytes()) == pattern(10'000), "the bytes changed");
                   (void)or_throw(f.append(bytes_of("fits")));
                   or_throw(f.resize(50'000));
                   or_throw(f.resize(10'000));
                   or_throw(f.close());
                 }) == "");
      BOOST_TEST((read_back(path) == pattern(10'000)));
    }
  }
}

BOOST_AUTO_TEST_CASE(on_a_read_only_file_system_is_an_error_and_reading_works) {
  scratch const s;
  BOOST_TEST(found_in_child([&](findings& found) {
               auto problem = own_mounts();
               if (problem.empty()) {
                 problem = mount_tmpfs(s.folder(), "size=4m");
               }
               auto const content = pattern(300'000); // mapped by a file_view, not read
               std::filesystem::path path;
               if (problem.empty()) {
                 path = s.file("f", content);
                 (void)s.file("empty", "");
                 if (::mount("none", s.folder().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) != 0) {
                   problem = std::strerror(errno);
                 }
               }
               if (!problem.empty()) {
                 found.skip("a read-only file system: " + problem);
                 return;
               }
               auto const refused = std::errc::read_only_file_system;
               found.expect(fails(mutable_mapped_file::create(s / "new", {.size = 100}), refused), "created");
               found.expect(fails(mutable_mapped_file::open(s / "new"), refused), "created by open");
               found.expect(fails(mutable_mapped_file::open(path), refused), "opened");
               found.expect(fails(mutable_mapped_file::open(s / "empty", {.size = 100}), refused),
                            "opened with a size");
               found.expect(fails(mutable_mapped_file::open_existing(path), refused), "opened what exists");
               found.expect(entries_in(s) == 2, "there is a new file");
               auto const wrong = mutable_mapped_file::open(path);
               found.expect(!wrong && wrong.error().path() == path.native(), "the error does not name the path");

               auto cow = or_throw(mutable_mapped_file::open_copy_on_write(path, {.populate = true}));
               cow.writable_bytes()[0] = std::byte{'!'};
               found.expect(cow.bytes()[0] == std::byte{'!'}, "not copied");
               or_throw(cow.close());
               found.expect(text_of(or_throw(fmmap::mapped_file::open(path)).bytes()) == content, "mapped_file");
               auto const view = or_throw(fmmap::file_view::open(path));
               found.expect(view.is_mapped() && text_of(view.bytes()) == content, "a file_view that maps");
               auto const copied = or_throw(fmmap::file_view::open(path, {.map_above = 1 << 20}));
               found.expect(!copied.is_mapped() && text_of(copied.bytes()) == content, "a file_view that reads");
             }) == "");
}

BOOST_AUTO_TEST_CASE(in_a_forked_child_is_the_same_file_and_goes_without_taking_the_parents) {
  scratch const s;
  std::optional f{or_throw(mutable_mapped_file::create(s / "f", {.size = 10'000, .reserve = roomy}))};
  BOOST_TEST(f->write_at(0, bytes_of(pattern(10'000))) == 10'000U);
  std::optional job{or_throw(f->stage_flush())};
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(f->write_at(5, bytes_of("child")) == 5, "the child cannot write");
               or_throw(job->run());
               job.reset();
               f.reset();
             }) == "");
  BOOST_TEST(text_of(or_throw(f->bytes(5, 5))) == "child");
  BOOST_TEST(f->size() == 10'000U);
  BOOST_TEST(std::filesystem::file_size(s / "f") == 10'000U);
  BOOST_TEST((or_throw(job->run()) == durability::data));
  BOOST_TEST(or_throw(f->append(bytes_of("more"))) == 10'000U);
  or_throw(f->close());
  BOOST_TEST((read_back(s / "f") == pattern(10'000).replace(5, 5, "child") + "more"));
}

BOOST_AUTO_TEST_SUITE_END()
