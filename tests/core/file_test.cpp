// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/mounts.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;

using fmmap::access;
using fmmap::byte_range;
using fmmap::clone_method;
using fmmap::durability;
using fmmap::errc;
using fmmap::file;
using fmmap::or_throw;
namespace os = fmmap::os;
namespace seam = fmmap::os::seam;
using seam::armed;

static_assert(std::is_nothrow_move_constructible_v<file> && std::is_nothrow_move_assignable_v<file>);
static_assert(!std::is_copy_constructible_v<file> && !std::is_copy_assignable_v<file>);
static_assert(std::is_nothrow_default_constructible_v<file>);

namespace {

constexpr std::uint64_t far_out = std::uint64_t{5} << 30; // past 2^32

auto open_rw(std::filesystem::path const& path) -> file {
  return or_throw(file::open(path, {.access = access::read_write}));
}

auto content_of(file const& f) -> std::string {
  std::string text(static_cast<std::size_t>(or_throw(f.size())), '\0');
  BOOST_REQUIRE(or_throw(f.read_at(0, std::as_writable_bytes(std::span{text}))) == text.size());
  return text;
}

// One call of each function, by name, with the error it gave; none when it succeeded.
using attempt = std::pair<std::string, std::function<bool(file&)>>;

template <class Call>
auto gives_closed(std::string name, Call call) -> attempt {
  return {std::move(name), [call](file& f) { return fails(call(f), errc::closed); }};
}

auto every_function() -> std::vector<attempt> {
  static auto const target = std::filesystem::path{"never-made"};
  return {
      gives_closed("open_at", [](file& f) { return file::open_at(f, "x"); }),
      gives_closed("size", [](file& f) { return f.size(); }),
      gives_closed("metadata", [](file& f) { return f.metadata(); }),
      gives_closed("resize", [](file& f) { return f.resize(0); }),
      gives_closed("allocate", [](file& f) { return f.allocate({}); }),
      gives_closed("punch_hole", [](file& f) { return f.punch_hole({}); }),
      gives_closed("data_ranges", [](file& f) { return f.data_ranges(); }),
      gives_closed("clone_to", [](file& f) { return f.clone_to(target); }),
      gives_closed("read_at", [](file& f) { return f.read_at(0, {}); }),
      gives_closed("write_at", [](file& f) { return f.write_at(0, {}); }),
      gives_closed("sync", [](file& f) { return f.sync(); }),
      gives_closed("rewrite", [](file& f) { return f.rewrite(); }),
      gives_closed("remove", [](file& f) { return f.remove(); }),
      gives_closed("seal", [](file& f) { return f.seal({}); }),
      gives_closed("seals", [](file& f) { return f.seals(); }),
      gives_closed("release", [](file& f) { return f.release(); }),
      gives_closed("close", [](file& f) { return f.close(); }),
      gives_closed("map", [](file& f) { return fmmap::mapping::map(f); }),
  };
}

void check_closed(file& f) {
  BOOST_TEST(!f.is_open());
  BOOST_TEST(f.native_handle() == -1);
  BOOST_TEST(f.path().empty());
  BOOST_TEST((f.identity() == fmmap::file_identity{}));
  for (auto const& [name, gives] : every_function()) {
    BOOST_TEST_CONTEXT(name) { BOOST_TEST(gives(f)); }
  }
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_file)

BOOST_AUTO_TEST_CASE(reads_what_was_written_at_any_offset) {
  scratch const s;
  auto f = or_throw(file::create_new(s / "f"));
  auto const content = pattern(10'000);
  or_throw(f.write_at(123, bytes_of(content)));
  BOOST_TEST(or_throw(f.size()) == 10'123U);
  std::vector<std::byte> got(10'000);
  BOOST_TEST(or_throw(f.read_at(123, got)) == 10'000U);
  BOOST_TEST((text_of(got) == content));
  BOOST_TEST((read_back(s / "f") == std::string(123, '\0') + content));
}

BOOST_AUTO_TEST_CASE(reads_short_only_at_its_end) {
  scratch const s;
  auto const f = or_throw(file::open(s.file("f", "0123456789")));
  std::vector<std::byte> got(8);
  BOOST_TEST(or_throw(f.read_at(5, got)) == 5U);
  BOOST_TEST(text_of(got).substr(0, 5) == "56789");
  BOOST_TEST(or_throw(f.read_at(10, got)) == 0U);
  BOOST_TEST(or_throw(f.read_at(far_out, got)) == 0U);
  for (std::uint64_t const offset :
       {std::uint64_t{INT64_MAX} - 7, std::uint64_t{INT64_MAX}, std::uint64_t{UINT64_MAX}}) {
    BOOST_TEST(or_throw(f.read_at(offset, got)) == 0U);
  }
  armed const table;
  seam::shorten(os::call::pread, 3);
  BOOST_TEST(or_throw(f.read_at(1, got)) == 8U);
  BOOST_TEST(text_of(got) == "12345678");
}

BOOST_AUTO_TEST_CASE(writes_all_though_the_system_writes_in_pieces) {
  scratch const s;
  auto f = or_throw(file::create_new(s / "f"));
  auto const content = pattern(1000);
  armed const table;
  seam::shorten(os::call::pwrite, 7);
  seam::fail(os::call::pwrite, EINTR, 5);
  or_throw(f.write_at(0, bytes_of(content)));
  BOOST_TEST((read_back(s / "f") == content));
}

BOOST_AUTO_TEST_CASE(says_which_bytes_a_failed_write_left_unwritten) {
  scratch const s;
  auto f = or_throw(file::create_new(s / "f"));
  armed const table;
  seam::shorten(os::call::pwrite, 4);
  seam::fail_nth(4, EIO); // fstat, then the third of the writes
  auto const outcome = f.write_at(100, bytes_of("0123456789"));
  BOOST_REQUIRE(fails(outcome, std::errc::io_error));
  BOOST_TEST((outcome.error().range() == byte_range{.offset = 108, .length = 2}));
  BOOST_TEST(read_back(s / "f").substr(100) == "01234567");
}

BOOST_AUTO_TEST_CASE(writes_where_it_has_bytes_without_clearing_any) {
  scratch const s;
  auto f = open_rw(s.file("f", pattern(100)));
  armed const table;
  or_throw(f.write_at(0, bytes_of("abc")));
  BOOST_TEST(seam::calls().size() == 1U);
  or_throw(f.write_at(50, bytes_of("abc")));
  or_throw(f.write_at(100, bytes_of("abc")));
  BOOST_TEST(std::ranges::count(seam::calls(), os::call::pwrite) == 3);
  or_throw(f.write_at(104, bytes_of("abc")));
  BOOST_TEST(std::ranges::count(seam::calls(), os::call::pwrite) == 5);
}

BOOST_AUTO_TEST_CASE(refuses_to_write_past_the_largest_offset_and_changes_nothing) {
  scratch const s;
  auto f = open_rw(s.file("f", "abc"));
  BOOST_TEST(fails(f.write_at(UINT64_MAX, bytes_of("x")), std::errc::file_too_large));
  BOOST_TEST(fails(f.write_at(INT64_MAX, bytes_of("x")), std::errc::file_too_large));
  BOOST_TEST(fails(f.resize(UINT64_MAX), std::errc::file_too_large));
  BOOST_TEST(fails(f.resize(std::uint64_t{1} << 63), std::errc::file_too_large));
  BOOST_TEST(fails(f.allocate({.offset = std::uint64_t{1} << 63, .length = 1}), std::errc::file_too_large));
  BOOST_TEST(fails(f.allocate({.offset = UINT64_MAX, .length = 2}), errc::out_of_range));
  BOOST_TEST(fails(f.allocate({.offset = 4, .length = fmmap::to_end}), errc::out_of_range));
  BOOST_TEST(fails(f.punch_hole({.offset = UINT64_MAX, .length = 2}), errc::out_of_range));
  BOOST_TEST(fails(f.data_ranges({.offset = 2, .length = 2}), errc::out_of_range));
  BOOST_TEST(fails(f.data_ranges({.offset = UINT64_MAX, .length = 2}), errc::out_of_range));
  BOOST_TEST(fails(f.rewrite({.offset = 2, .length = 2}), errc::out_of_range));
  BOOST_TEST(read_back(s / "f") == "abc");
}

BOOST_AUTO_TEST_CASE(takes_every_size_and_fills_up_with_zeros) {
  scratch const s;
  auto f = open_rw(s.file("f", pattern(6000)));
  or_throw(f.resize(10));
  or_throw(f.resize(9000));
  BOOST_TEST((content_of(f) == pattern(10) + std::string(8990, '\0')));
  or_throw(f.resize(0));
  BOOST_TEST(or_throw(f.size()) == 0U);
}

BOOST_AUTO_TEST_CASE(never_shows_what_was_stored_past_its_end) {
  scratch const s;
  auto on_disk = or_throw(file::create_new(s / "f"));
  auto in_memory = or_throw(file::in_memory("tail"));
  for (auto* const f : {&on_disk, &in_memory}) {
    for (int const how : {0, 1, 2}) { // of growing
      or_throw(f->resize(0));
      or_throw(f->resize(10));
      auto* const page =
          static_cast<unsigned char*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f->native_handle(), 0));
      BOOST_REQUIRE(page != MAP_FAILED);
      page[50] = 7;
      page[4000] = 7;
      for (std::size_t const size : {3000U, 9000U}) {
        or_throw(how == 0   ? f->resize(size)
                 : how == 1 ? f->allocate({.offset = 0, .length = size})
                            : f->write_at(size - 1, bytes_of(std::string_view{"\0", 1})));
      }
      BOOST_TEST((content_of(*f) == std::string(9000, '\0')));
      ::munmap(page, 4096);
    }
  }
}

BOOST_AUTO_TEST_CASE(gets_blocks_from_allocate_and_gives_them_back_by_punch_hole) {
  scratch const s;
  auto f = or_throw(file::create_new(s / "f"));
  or_throw(f.allocate({.offset = 100, .length = 1 << 20}));
  BOOST_TEST(or_throw(f.size()) == 100U + (1U << 20));
  BOOST_TEST(or_throw(f.metadata()).allocated_bytes >= (1U << 20));
  or_throw(f.write_at(0, bytes_of(pattern(100'000))));
  or_throw(f.punch_hole({.offset = 4096, .length = 1 << 19}));
  BOOST_TEST(or_throw(f.metadata()).allocated_bytes < (1U << 20));
  BOOST_TEST(or_throw(f.size()) == 100U + (1U << 20));
  BOOST_TEST(content_of(f).substr(0, 4096) == pattern(4096));
  BOOST_TEST((content_of(f).substr(4096, 90'000) == std::string(90'000, '\0')));
}

BOOST_AUTO_TEST_CASE(keeps_its_bytes_when_allocated_again) {
  scratch const s;
  auto const content = pattern(10'000);
  auto f = open_rw(s.file("f", content));
  or_throw(f.allocate(fmmap::whole));
  or_throw(f.allocate({.offset = 5, .length = 10}));
  BOOST_TEST((content_of(f) == content));
}

BOOST_AUTO_TEST_CASE(cuts_a_hole_at_its_end_and_keeps_its_size) {
  scratch const s;
  auto f = open_rw(s.file("f", pattern(10'000)));
  or_throw(f.punch_hole({.offset = 9'990, .length = 1 << 20}));
  or_throw(f.punch_hole({.offset = far_out, .length = 10}));
  or_throw(f.punch_hole({.offset = 10'000, .length = fmmap::to_end}));
  BOOST_TEST((content_of(f) == pattern(10'000).substr(0, 9'990) + std::string(10, '\0')));
}

BOOST_AUTO_TEST_CASE(lists_its_data_and_leaves_out_its_holes) {
  scratch const s;
  auto f = or_throw(file::create_new(s / "f"));
  or_throw(f.resize(1 << 20));
  or_throw(f.write_at(0, bytes_of(pattern(4096))));
  or_throw(f.write_at(512 << 10, bytes_of(pattern(8192))));
  auto const found = or_throw(f.data_ranges());
  BOOST_REQUIRE(found.size() == 2U);
  BOOST_TEST((found[0] == byte_range{.offset = 0, .length = 4096}));
  BOOST_TEST((found[1] == byte_range{.offset = 512 << 10, .length = 8192}));
  auto const part = or_throw(f.data_ranges({.offset = (512 << 10) + 100, .length = 200}));
  BOOST_REQUIRE(part.size() == 1U);
  BOOST_TEST((part[0] == byte_range{.offset = (512 << 10) + 100, .length = 200}));
  BOOST_TEST(or_throw(f.data_ranges({.offset = 100'000, .length = 1000})).empty());
  BOOST_TEST(or_throw(f.data_ranges({.offset = 900'000})).empty());
  BOOST_TEST(or_throw(f.data_ranges({.offset = 1 << 20})).empty());
}

BOOST_AUTO_TEST_CASE(is_all_data_where_the_file_system_does_not_tell) {
  scratch const s;
  auto f = or_throw(file::create_new(s / "f"));
  or_throw(f.resize(100'000));
  armed const table;
  seam::fail(os::call::lseek, EINVAL);
  auto const found = or_throw(f.data_ranges({.offset = 10, .length = 100}));
  BOOST_REQUIRE(found.size() == 1U);
  BOOST_TEST((found[0] == byte_range{.offset = 10, .length = 100}));
  seam::fail(os::call::lseek, EIO);
  BOOST_TEST(fails(f.data_ranges(), std::errc::io_error));
}

BOOST_AUTO_TEST_CASE(fills_its_holes_with_zeros_where_nothing_can_be_allocated) {
  for (int const code : {EOPNOTSUPP, ENOSYS}) {
    scratch const s;
    auto f = or_throw(file::create_new(s / "f"));
    or_throw(f.resize(100'000));
    or_throw(f.write_at(50'000, bytes_of(pattern(10'000))));
    armed const table;
    seam::fail(os::call::fallocate, code);
    or_throw(f.allocate({.offset = 1000, .length = 300'000}));
    BOOST_TEST(or_throw(f.size()) == 301'000U);
    BOOST_TEST((content_of(f) == std::string(50'000, '\0') + pattern(10'000) + std::string(241'000, '\0')));
    or_throw(f.sync());
    BOOST_TEST(or_throw(f.metadata()).allocated_bytes >= 300'000U);
    BOOST_TEST(or_throw(f.data_ranges({.offset = 1000})).size() == 1U);
  }
}

BOOST_AUTO_TEST_CASE(gets_blocks_also_where_nothing_can_be_allocated_and_no_hole_is_told) {
  // NFS before version 4.2 and many others: no fallocate, and of holes either nothing, or only the one at the end.
  for (int const code : {EINVAL, EOPNOTSUPP}) {
    scratch const s;
    auto f = or_throw(file::create_new(s / "f"));
    or_throw(f.resize(3'000'000));
    or_throw(f.write_at(50'000, bytes_of(pattern(10'000))));
    armed const table;
    seam::fail(os::call::fallocate, EOPNOTSUPP);
    seam::fail(os::call::lseek, code);
    or_throw(f.allocate({.offset = 0, .length = 3'100'000}));
    BOOST_TEST((content_of(f) == std::string(50'000, '\0') + pattern(10'000) + std::string(3'040'000, '\0')));
    or_throw(f.sync());
    BOOST_TEST(or_throw(f.metadata()).allocated_bytes >= 3'100'000U);
    auto const writes = std::ranges::count(seam::calls(), os::call::pwrite);
    or_throw(f.allocate(fmmap::whole));
    BOOST_TEST(std::ranges::count(seam::calls(), os::call::pwrite) == writes); // there are blocks: nothing to do
  }
}

BOOST_AUTO_TEST_CASE(on_a_file_system_that_cannot_allocate_gets_blocks_behind_what_was_only_resized) {
  scratch const s;
  std::filesystem::create_directory(s / "disk");
  BOOST_TEST(found_in_child([&](findings& found) {
               auto problem = own_mounts();
               if (problem.empty() && ::mount("none", (s / "disk").c_str(), "ramfs", 0, nullptr) != 0) {
                 problem = "no ramfs";
               }
               if (!problem.empty()) {
                 found.skip("a file system that cannot allocate: " + problem);
                 return;
               }
               auto f = or_throw(file::create_new(s / "disk/f"));
               or_throw(f.resize(100'000));
               or_throw(f.allocate(fmmap::whole));
               auto const m = or_throw(fmmap::mapping::map(f));
               found.expect(or_throw(m.residency()).resident_bytes >= 100'000, "pages"); // which are its blocks
               found.expect(content_of(f) == std::string(100'000, '\0'), "content");
             }) == "");
}

BOOST_AUTO_TEST_CASE(has_its_size_again_when_filling_with_zeros_fails) {
  scratch const s;
  auto f = open_rw(s.file("f", "abc"));
  armed const table;
  seam::fail(os::call::fallocate, EOPNOTSUPP);
  seam::shorten(os::call::pwrite, 1000);
  seam::fail_nth(8, ENOSPC, seam::every_time); // fstat, fallocate, lseek, then some of the writes
  BOOST_TEST(fails(f.allocate({.offset = 0, .length = 100'000}), std::errc::no_space_on_device));
  seam::disarm();
  BOOST_TEST(std::filesystem::file_size(s / "f") >= 3U);
  seam::arm();
  seam::fail(os::call::fallocate, EOPNOTSUPP);
  seam::shorten(os::call::pwrite, 1000);
  or_throw(f.resize(3));
  seam::fail(os::call::pwrite, ENOSPC);
  BOOST_TEST(fails(f.allocate({.offset = 0, .length = 100'000}), std::errc::no_space_on_device));
  BOOST_TEST(read_back(s / "f") == "abc");
}

BOOST_AUTO_TEST_CASE(works_past_four_gigabytes) {
  scratch const s;
  auto f = or_throw(file::create_new(s / "f"));
  or_throw(f.resize(far_out));
  BOOST_TEST(or_throw(f.size()) == far_out);
  or_throw(f.write_at(far_out + 5, bytes_of("far")));
  BOOST_TEST(or_throw(f.size()) == far_out + 8);
  std::vector<std::byte> got(3);
  BOOST_TEST(or_throw(f.read_at(far_out + 5, got)) == 3U);
  BOOST_TEST(text_of(got) == "far");
  or_throw(f.allocate({.offset = far_out + (1 << 20), .length = 1 << 16}));
  BOOST_TEST(or_throw(f.size()) == far_out + (1 << 20) + (1 << 16));
  auto data = or_throw(f.data_ranges({.offset = far_out - 100'000, .length = 200'000}));
  BOOST_REQUIRE(data.size() == 1U);
  BOOST_TEST(data[0].offset <= far_out + 5);
  BOOST_TEST(data[0].offset + data[0].length >= far_out + 8);
  {
    auto m = or_throw(
        fmmap::mapping::map(f, {.access = access::read_write, .range = {.offset = far_out + 1, .length = 100}}));
    BOOST_TEST(text_of(m.bytes()).substr(4, 3) == "far");
    m.writable_bytes()[4] = std::byte{'F'};
    BOOST_TEST((or_throw(m.flush()) == durability::data));
  }
  BOOST_TEST(or_throw(f.read_at(far_out + 5, got)) == 3U);
  BOOST_TEST(text_of(got) == "Far");
  or_throw(f.punch_hole({.offset = far_out, .length = 4096}));
  BOOST_TEST(or_throw(f.read_at(far_out + 5, got)) == 3U);
  BOOST_TEST((text_of(got) == std::string(3, '\0')));
  BOOST_TEST(or_throw(f.metadata()).allocated_bytes < (1U << 24));
}

BOOST_AUTO_TEST_CASE(is_cloned_with_its_holes) {
  for (bool const copying : {false, true}) {
    scratch const s;
    auto f = or_throw(file::create_new(s / "f"));
    or_throw(f.write_at(1000, bytes_of("near")));
    or_throw(f.write_at(far_out, bytes_of("far")));
    or_throw(f.resize(far_out + 100'000));
    armed const table;
    if (copying) {
      seam::fail(os::call::ioctl, EOPNOTSUPP);
      seam::fail(os::call::copy_file_range, EXDEV);
    }
    auto const method = or_throw(f.clone_to(s / "copy"));
    BOOST_TEST((!copying || method == clone_method::copy));
    auto const copy = or_throw(file::open(s / "copy"));
    auto const meta = or_throw(copy.metadata());
    BOOST_TEST(meta.size == far_out + 100'000);
    BOOST_TEST(meta.allocated_bytes < (1U << 20));
    BOOST_TEST(meta.permissions == 0600U);
    BOOST_TEST(meta.links == 1U);
    std::vector<std::byte> got(4);
    BOOST_TEST(or_throw(copy.read_at(1000, got)) == 4U);
    BOOST_TEST(text_of(got) == "near");
    BOOST_TEST(or_throw(copy.read_at(far_out, got)) == 4U);
    BOOST_TEST((text_of(got) == std::string_view{"far\0", 4}));
  }
}

BOOST_AUTO_TEST_CASE(is_cloned_never_over_another_file) {
  scratch const s;
  auto const f = or_throw(file::open(s.file("f", "new")));
  auto const taken = s.file("taken", "old");
  std::filesystem::create_symlink("nowhere", s / "link");
  BOOST_TEST(fails(f.clone_to(taken), std::errc::file_exists));
  BOOST_TEST(fails(f.clone_to(s / "f"), std::errc::file_exists));
  BOOST_TEST(fails(f.clone_to(s / "link"), std::errc::file_exists));
  BOOST_TEST(fails(f.clone_to(s.folder()), std::errc::file_exists));
  BOOST_TEST(fails(f.clone_to(s / "no/such"), std::errc::no_such_file_or_directory));
  BOOST_TEST(fails(f.clone_to(s / "taken/x"), std::errc::not_a_directory));
  BOOST_TEST(fails(f.clone_to(std::filesystem::path{std::string_view{"a\0b", 3}}), std::errc::invalid_argument));
  BOOST_TEST(read_back(taken) == "old");
  BOOST_TEST(read_back(s / "f") == "new");
  BOOST_TEST(std::ranges::distance(std::filesystem::directory_iterator{s.folder()}) == 3);
}

BOOST_AUTO_TEST_CASE(is_cloned_durably_where_asked) {
  scratch const s;
  auto const f = or_throw(file::open(s.file("f", pattern(1000))));
  int n = 0;
  for (auto const& [level, syncs] : std::vector<std::pair<durability, int>>{{durability::none, 0},
                                                                            {durability::started, 1},
                                                                            {durability::written, 1},
                                                                            {durability::data, 2},
                                                                            {durability::all, 2}}) {
    armed const table;
    auto const path = s / ("copy" + std::to_string(n++));
    (void)or_throw(f.clone_to(path, {.permissions = 0640, .level = level}));
    BOOST_TEST(std::ranges::count(seam::calls(), os::call::fsync) == syncs);
    BOOST_TEST(read_back(path) == pattern(1000));
  }
}

BOOST_AUTO_TEST_CASE(leaves_no_clone_when_cloning_fails_at_any_call) {
  scratch const s;
  auto const f = or_throw(file::open(s.file("f", pattern(5000))));
  for (int const code : {EIO, ENOSPC, EOPNOTSUPP}) {
    for (std::uint64_t n = 1;; ++n) {
      bool cloned = false;
      bool injected = false;
      {
        armed const table;
        seam::fail_nth(n, code);
        cloned = f.clone_to(s / "copy", {.level = durability::data}).has_value();
        injected = seam::injected() > 0;
      }
      BOOST_TEST_CONTEXT("call " << n << " errno " << code) {
        BOOST_TEST(std::filesystem::exists(s / "copy") == cloned);
        BOOST_TEST((!cloned || read_back(s / "copy") == pattern(5000)));
        std::filesystem::remove(s / "copy");
        BOOST_TEST(std::ranges::distance(std::filesystem::directory_iterator{s.folder()}) == 1);
      }
      if (!injected) {
        BOOST_TEST(n > 8U);
        break;
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(is_cloned_on_file_systems_without_unnamed_files) {
  scratch const s;
  auto const f = or_throw(file::open(s.file("f", pattern(5000))));
  for (int const code : {EOPNOTSUPP, EISDIR, EINVAL}) {
    armed const table;
    auto const before = seam::calls().size();
    BOOST_TEST(before == 0U);
    seam::fail_nth(4, code); // fstat, openat of the folder, fstatat, openat with O_TMPFILE
    (void)or_throw(f.clone_to(s / "copy"));
    BOOST_TEST(seam::injected() == 1U);
    seam::disarm();
    BOOST_TEST(read_back(s / "copy") == pattern(5000));
    BOOST_TEST(std::ranges::distance(std::filesystem::directory_iterator{s.folder()}) == 2);
    std::filesystem::remove(s / "copy");
  }
}

BOOST_AUTO_TEST_CASE(is_cloned_on_file_systems_without_hard_links_but_over_nothing) {
  scratch const s;
  auto const f = or_throw(file::open(s.file("f", pattern(5000))));
  (void)s.file("taken", "other");
  for (bool const exists : {false, true}) {
    armed const table;
    seam::fail_nth(4, EOPNOTSUPP); // no unnamed files
    seam::fail(os::call::linkat, EPERM);
    seam::fail(os::call::fstatat, ENOENT, exists ? 1 : 0); // as if the other came later
    auto const cloned = f.clone_to(s / (exists ? "taken" : "copy"));
    BOOST_TEST((exists ? fails(cloned, std::errc::file_exists) : cloned.has_value()));
  }
  BOOST_TEST(read_back(s / "copy") == pattern(5000));
  BOOST_TEST(read_back(s / "taken") == "other");
  BOOST_TEST(std::ranges::distance(std::filesystem::directory_iterator{s.folder()}) == 3);
}

BOOST_AUTO_TEST_CASE(that_cannot_get_a_name_says_what_may_be_the_cause) {
  scratch const s;
  auto const f = or_throw(file::open(s.file("f", "abc")));
  for (int const code : {ENOENT, EPERM}) {
    armed const table;
    seam::fail(os::call::linkat, code);
    auto const cause = code == ENOENT ? "/proc" : "hard links";
    auto const cloned = f.clone_to(s / "copy");
    BOOST_REQUIRE(!cloned.has_value());
    BOOST_TEST(cloned.error().message().contains(cause));
    auto const replaced = fmmap::replace_file(s / "f", 1, [](std::span<std::byte>) {});
    BOOST_REQUIRE(!replaced.has_value());
    BOOST_TEST(replaced.error().message().contains(cause));
  }
  BOOST_TEST(read_back(s / "f") == "abc");
}

BOOST_AUTO_TEST_CASE(of_proc_is_cloned_with_what_reading_it_gives) {
  scratch const s;
  auto const f = or_throw(file::open("/proc/version"));
  (void)or_throw(f.clone_to(s / "copy"));
  BOOST_TEST(read_back(s / "copy") == read_back("/proc/version"));
  BOOST_TEST(!read_back(s / "copy").empty());
}

BOOST_AUTO_TEST_CASE(of_sysfs_is_cloned_as_long_as_it_reads_and_not_as_it_says) {
  auto const path = std::filesystem::path{"/sys/devices/system/cpu/online"};
  if (!std::filesystem::exists(path)) {
    skip("no sysfs");
    return;
  }
  scratch const s;
  auto const f = or_throw(file::open(path));
  (void)or_throw(f.clone_to(s / "copy"));
  BOOST_TEST(read_back(s / "copy") == read_back(path));
  BOOST_TEST(or_throw(f.size()) > read_back(path).size()); // else this test would show nothing
}

BOOST_AUTO_TEST_CASE(that_shrinks_while_it_is_cloned_has_a_copy_as_long_as_what_is_left) {
  // Where the other process comes in between: before the size is used, between SEEK_DATA and SEEK_HOLE, in the copying.
  for (auto const slow : {os::call::ftruncate, os::call::lseek, os::call::copy_file_range, os::call::pread}) {
    for (bool const hole : {false, true}) {
      scratch const s;
      auto const path = s.file("f", pattern(100'000));
      if (hole) {
        std::filesystem::resize_file(path, 300'000);
      }
      auto const f = or_throw(file::open(path));
      auto const child = start_child([&] {
        ::usleep(30'000);
        std::filesystem::resize_file(path, 10'000);
        return 0;
      });
      armed const table;
      seam::fail(os::call::ioctl, EOPNOTSUPP);
      if (slow == os::call::pread) {
        seam::fail(os::call::copy_file_range, EXDEV);
      }
      seam::delay(slow, std::chrono::milliseconds{120});
      auto const cloned = f.clone_to(s / "copy");
      BOOST_TEST(end_of(child) == 0);
      BOOST_TEST_CONTEXT(os::name_of(slow) << (hole ? " with a hole" : "")) {
        BOOST_TEST(cloned.has_value());
        BOOST_TEST((read_back(s / "copy") == pattern(10'000)));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(is_cloned_though_no_hole_is_found_after_its_data) {
  scratch const s;
  auto const f = or_throw(file::open(s.file("f", pattern(100'000))));
  armed const table;
  seam::fail(os::call::ioctl, EOPNOTSUPP);
  seam::fail(os::call::lseek, ENXIO, 1, 1); // as if it had been made shorter after SEEK_DATA
  (void)or_throw(f.clone_to(s / "copy"));
  BOOST_TEST((read_back(s / "copy") == pattern(100'000)));
}

BOOST_AUTO_TEST_CASE(that_is_empty_goes_through_every_function) {
  scratch const s;
  auto f = or_throw(file::create_new(s / "f"));
  BOOST_TEST(or_throw(f.size()) == 0U);
  BOOST_TEST(or_throw(f.metadata()).size == 0U);
  or_throw(f.resize(0));
  for (auto const range : {fmmap::whole, byte_range{.offset = 0, .length = 0}}) {
    or_throw(f.allocate(range));
    or_throw(f.punch_hole(range));
    BOOST_TEST(or_throw(f.data_ranges(range)).empty());
    BOOST_TEST((or_throw(f.rewrite(range)) == durability::data));
    BOOST_TEST(or_throw(fmmap::mapping::map(f, {.range = range})).empty());
  }
  BOOST_TEST(or_throw(f.read_at(0, {})) == 0U);
  or_throw(f.write_at(0, {}));
  or_throw(f.write_at(100, {}));
  BOOST_TEST((or_throw(f.sync()) == durability::data));
  (void)or_throw(f.clone_to(s / "copy"));
  BOOST_TEST(std::filesystem::file_size(s / "copy") == 0U);
  BOOST_TEST(or_throw(f.size()) == 0U);
  or_throw(f.remove());
  or_throw(f.close());
}

BOOST_AUTO_TEST_CASE(takes_an_empty_range_anywhere_in_it) {
  scratch const s;
  auto const content = pattern(5000);
  auto f = open_rw(s.file("f", content));
  for (std::uint64_t const offset : {0U, 1U, 4096U, 5000U}) {
    byte_range const nothing{.offset = offset, .length = 0};
    or_throw(f.allocate(nothing));
    or_throw(f.punch_hole(nothing));
    BOOST_TEST(or_throw(f.data_ranges(nothing)).empty());
    BOOST_TEST((or_throw(f.rewrite(nothing)) == durability::data));
    BOOST_TEST(or_throw(f.read_at(offset, {})) == 0U);
    or_throw(f.write_at(offset, {}));
  }
  BOOST_TEST((content_of(f) == content));
}

BOOST_AUTO_TEST_CASE(for_reading_refuses_every_change) {
  scratch const s;
  auto f = or_throw(file::open(s.file("f", "0123456789")));
  BOOST_TEST((f.access() == access::read_only));
  BOOST_TEST(fails(f.write_at(0, bytes_of("x")), errc::read_only));
  BOOST_TEST(fails(f.resize(5), errc::read_only));
  BOOST_TEST(fails(f.allocate({.offset = 0, .length = 100}), errc::read_only));
  BOOST_TEST(fails(f.punch_hole({.offset = 0, .length = 5}), errc::read_only));
  BOOST_TEST(fails(f.rewrite(), errc::read_only));
  BOOST_TEST(fails(fmmap::mapping::map(f, {.access = access::read_write}), errc::read_only));
  BOOST_TEST((or_throw(f.sync()) == durability::data));
  BOOST_TEST(read_back(s / "f") == "0123456789");
}

BOOST_AUTO_TEST_CASE(that_is_closed_moved_from_or_never_opened_says_so_in_every_function) {
  scratch const s;
  file never;
  check_closed(never);

  auto f = open_rw(s.file("f", "abc"));
  or_throw(f.close());
  check_closed(f);

  auto from = open_rw(s / "f");
  auto const descriptor = from.native_handle();
  auto to = std::move(from);
  check_closed(from);
  BOOST_TEST(to.native_handle() == descriptor);
  BOOST_TEST(or_throw(to.size()) == 3U);

  file assigned;
  assigned = std::move(to);
  check_closed(to);
  BOOST_TEST(or_throw(assigned.size()) == 3U);
  BOOST_TEST(::close(or_throw(assigned.release())) == 0);
  check_closed(assigned);
  BOOST_TEST(read_back(s / "f") == "abc");
}

BOOST_AUTO_TEST_CASE(closes_what_it_held_when_assigned_to) {
  scratch const s;
  auto first = open_rw(s.file("a", "a"));
  auto const descriptor = first.native_handle();
  first = open_rw(s.file("b", "b"));
  BOOST_TEST(first.native_handle() != descriptor);
  BOOST_TEST(::fcntl(descriptor, F_GETFD) == -1);
  auto& itself = first;
  first = std::move(itself);
  BOOST_TEST((!first.is_open() || or_throw(first.size()) == 1U));
}

BOOST_AUTO_TEST_CASE(reports_a_failed_close_and_drops_one_in_the_destructor_to_the_handler) {
  scratch const s;
  auto f = open_rw(s.file("f", "abc"));
  {
    armed const table;
    seam::fail(os::call::close, EIO);
    BOOST_TEST(fails(f.close(), std::errc::io_error));
  }
  BOOST_TEST(fails(f.close(), errc::closed));
  static int dropped = 0;
  dropped = 0;
  auto* const earlier = fmmap::set_dropped_error_handler(
      [](fmmap::error const& why) noexcept { dropped += why == std::errc::io_error ? 1 : 100; });
  {
    auto const g = open_rw(s / "f");
    seam::arm();
    seam::fail(os::call::close, EIO);
  }
  seam::disarm();
  fmmap::set_dropped_error_handler(earlier);
  BOOST_TEST(dropped == 1);
}

BOOST_AUTO_TEST_CASE(stays_open_for_its_mappings_after_close_and_cannot_be_released_while_they_live) {
  scratch const s;
  auto f = open_rw(s.file("f", "0123456789"));
  auto const descriptor = f.native_handle();
  {
    auto m = or_throw(fmmap::mapping::map(f, {.access = access::read_write}));
    auto const released = f.release();
    BOOST_TEST(fails(released, errc::in_use));
    BOOST_TEST(f.is_open());
    or_throw(f.close());
    BOOST_TEST(::fcntl(descriptor, F_GETFD) != -1);
    m.writable_bytes()[0] = std::byte{'X'};
    BOOST_TEST((or_throw(m.flush()) == durability::data));
  }
  BOOST_TEST(::fcntl(descriptor, F_GETFD) == -1);
  BOOST_TEST(read_back(s / "f") == "X123456789");
}

BOOST_AUTO_TEST_CASE(gives_its_descriptor_up_and_takes_it_back) {
  scratch const s;
  auto f = open_rw(s.file("f", "abc"));
  auto const id = f.identity();
  auto const descriptor = or_throw(f.release());
  BOOST_TEST(!f.is_open());
  BOOST_TEST(::fcntl(descriptor, F_GETFD) == FD_CLOEXEC);
  BOOST_TEST((::fcntl(descriptor, F_GETFL) & O_NONBLOCK) == 0);
  BOOST_REQUIRE(::fcntl(descriptor, F_SETFD, 0) == 0);
  auto back = or_throw(file::adopt(descriptor, "f"));
  BOOST_TEST(back.native_handle() == descriptor);
  BOOST_TEST(::fcntl(descriptor, F_GETFD) == FD_CLOEXEC);
  BOOST_TEST((back.identity() == id));
  BOOST_TEST((back.access() == access::read_write));
  BOOST_TEST(back.path() == "f");
  or_throw(back.write_at(3, bytes_of("d")));
  or_throw(back.close());
  BOOST_TEST(read_back(s / "f") == "abcd");
}

BOOST_AUTO_TEST_CASE(is_not_released_with_a_failure_that_only_it_knows_of) {
  scratch const s;
  auto f = open_rw(s.file("f", "abc"));
  {
    armed const table;
    seam::fail(os::call::fdatasync, EIO, 1);
    BOOST_TEST(fails(f.sync(), std::errc::io_error));
    BOOST_TEST(fails(f.release(), std::errc::io_error));
    BOOST_TEST(f.is_open());
    (void)or_throw(f.rewrite());
    seam::fail(os::call::fsync, EIO, 2);
    BOOST_TEST(fails(f.remove(), std::errc::io_error));
    BOOST_TEST(fails(f.release(), std::errc::io_error));
    BOOST_TEST(f.is_open());
    seam::arm();
    BOOST_TEST(::close(or_throw(f.release())) == 0);
    BOOST_TEST(std::ranges::count(seam::calls(), os::call::fsync) == 1);
  }
  BOOST_TEST(!std::filesystem::exists(s / "f"));
}

BOOST_AUTO_TEST_CASE(keeps_its_holes_when_it_is_written_again) {
  scratch const s;
  auto f = or_throw(file::create_new(s / "f"));
  or_throw(f.resize(64 << 20));
  or_throw(f.write_at(1 << 20, bytes_of(pattern(10'000))));
  auto const expected = std::string(1 << 20, '\0') + pattern(10'000);
  (void)or_throw(f.rewrite());
  BOOST_TEST(or_throw(f.metadata()).allocated_bytes < (1U << 20));
  BOOST_TEST((content_of(f).substr(0, expected.size()) == expected));
  // As if the file system took for a hole what a failed sync has lost: it is written again nevertheless.
  armed const table;
  seam::fail(os::call::lseek, ENXIO);
  (void)or_throw(f.rewrite());
  BOOST_TEST(std::ranges::count(seam::calls(), os::call::pwrite) == 3); // its pages
  seam::disarm();
  BOOST_TEST(or_throw(f.metadata()).allocated_bytes < (1U << 20));
}

BOOST_AUTO_TEST_CASE(adopted_for_writing_only_writes_and_cannot_be_mapped) {
  scratch const s;
  auto const path = s.file("f", "abc");
  auto f = or_throw(file::adopt(::open(path.c_str(), O_WRONLY)));
  BOOST_TEST((f.access() == access::read_write));
  or_throw(f.write_at(0, bytes_of("X")));
  or_throw(f.resize(5));
  BOOST_TEST((or_throw(f.sync()) == durability::data));
  std::vector<std::byte> got(1);
  BOOST_TEST(fails(f.read_at(0, got), std::errc::bad_file_descriptor));
  for (auto const wanted : {access::read_only, access::read_write, access::copy_on_write}) {
    BOOST_TEST(fails(fmmap::mapping::map(f, {.access = wanted}), std::errc::permission_denied));
  }
  BOOST_TEST((read_back(path) == std::string_view{"Xbc\0\0", 5}));
}

BOOST_AUTO_TEST_CASE(adopted_for_reading_is_read_only) {
  scratch const s;
  auto const path = s.file("f", "abc");
  auto f = or_throw(file::adopt(::open(path.c_str(), O_RDONLY)));
  BOOST_TEST((f.access() == access::read_only));
  BOOST_TEST(fails(f.resize(5), errc::read_only));
  BOOST_TEST(content_of(f) == "abc");
}

BOOST_AUTO_TEST_CASE(is_not_adopted_unless_its_writes_go_where_they_are_told) {
  scratch const s;
  auto const path = s.file("f", "abc");
  BOOST_REQUIRE(::mkfifo((s / "fifo").c_str(), 0600) == 0);
  int sockets[2];
  BOOST_REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
  struct bad {
    int descriptor;
    fmmap::errc code;
  };
  for (auto const& [descriptor, code] :
       {bad{::open(path.c_str(), O_RDWR | O_APPEND), errc::invalid_options},
        bad{::open((s / "fifo").c_str(), O_RDWR), errc::not_a_regular_file},
        bad{::open(s.folder().c_str(), O_RDONLY), errc::not_a_regular_file},
        bad{::open("/dev/zero", O_RDWR), errc::not_a_regular_file}, bad{sockets[0], errc::not_a_regular_file},
        bad{sockets[1], errc::not_a_regular_file}}) {
    BOOST_REQUIRE(descriptor >= 0);
    BOOST_REQUIRE(::fcntl(descriptor, F_SETFD, 0) == 0);
    BOOST_TEST(fails(file::adopt(descriptor), code));
    BOOST_TEST(::fcntl(descriptor, F_GETFD) == 0); // still the caller's, and untouched
    BOOST_TEST(::close(descriptor) == 0);
  }
  for (int const descriptor : {-1, -100, 1 << 20}) {
    BOOST_TEST(fails(file::adopt(descriptor), std::errc::bad_file_descriptor));
  }
}

BOOST_AUTO_TEST_CASE(of_any_type_is_adopted_on_request) {
  int sockets[2];
  BOOST_REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
  auto f = or_throw(file::adopt(sockets[0], "socket", true));
  BOOST_TEST((or_throw(f.metadata()).type == fmmap::file_type::socket));
  ::close(sockets[1]);
}

BOOST_AUTO_TEST_CASE(leaves_the_descriptor_to_the_caller_when_adoption_fails_at_any_call) {
  scratch const s;
  auto const path = s.file("f", "abc");
  auto const descriptor = ::open(path.c_str(), O_RDWR);
  for (std::uint64_t n = 1; n <= 3; ++n) { // F_GETFL, fstat, F_SETFD
    armed const table;
    seam::fail_nth(n, EBADF);
    BOOST_TEST(fails(file::adopt(descriptor), std::errc::bad_file_descriptor));
    BOOST_TEST(::fcntl(descriptor, F_GETFD) != -1);
  }
  ::close(descriptor);
}

BOOST_AUTO_TEST_CASE(has_an_identity_that_names_it_and_nothing_else) {
  scratch const s;
  auto const a = or_throw(file::open(s.file("a", "a")));
  auto const b = or_throw(file::open(s.file("b", "a")));
  std::filesystem::create_hard_link(s / "a", s / "again");
  auto const again = or_throw(file::open(s / "again"));
  BOOST_TEST((a.identity() == again.identity()));
  BOOST_TEST((a.identity() != b.identity()));
  std::unordered_set<fmmap::file_identity> const known{a.identity(), b.identity(), again.identity()};
  BOOST_TEST(known.size() == 2U);
  BOOST_TEST((std::hash<fmmap::file_identity>{}(a.identity()) == std::hash<fmmap::file_identity>{}(again.identity())));
  struct stat status{};
  BOOST_REQUIRE(::stat((s / "a").c_str(), &status) == 0);
  BOOST_TEST(a.identity().inode == status.st_ino);
  BOOST_TEST(a.identity().device == status.st_dev);
}

BOOST_AUTO_TEST_CASE(tells_its_metadata) {
  scratch const s;
  auto const path = s.file("f", pattern(5000));
  std::filesystem::permissions(path, std::filesystem::perms{0640});
  std::filesystem::create_hard_link(path, s / "second");
  auto const f = or_throw(file::open(path));
  auto const meta = or_throw(f.metadata());
  struct stat status{};
  BOOST_REQUIRE(::stat(path.c_str(), &status) == 0);
  BOOST_TEST(meta.size == 5000U);
  BOOST_TEST(meta.allocated_bytes == static_cast<std::uint64_t>(status.st_blocks) * 512);
  BOOST_TEST(meta.links == 2U);
  BOOST_TEST(meta.block_size == static_cast<std::uint64_t>(status.st_blksize));
  BOOST_TEST(meta.permissions == 0640U);
  BOOST_TEST(meta.owner == ::geteuid());
  BOOST_TEST(meta.group == status.st_gid);
  BOOST_TEST((meta.type == fmmap::file_type::regular));
  BOOST_TEST((meta.identity == f.identity()));
  auto const since_epoch = meta.modified.time_since_epoch();
  BOOST_TEST(since_epoch.count() == status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec);
  BOOST_TEST((meta.status_changed >= meta.modified));
  BOOST_TEST((meta.accessed.time_since_epoch().count() > 0));
}

BOOST_AUTO_TEST_CASE(shows_the_size_others_give_it) {
  scratch const s;
  auto const f = or_throw(file::open(s.file("f", "abc")));
  std::filesystem::resize_file(s / "f", 7);
  BOOST_TEST(or_throw(f.size()) == 7U);
  BOOST_TEST(or_throw(f.metadata()).size == 7U);
}

BOOST_AUTO_TEST_CASE(without_a_name_works_like_any_other_and_leaves_nothing) {
  scratch const s;
  {
    auto f = or_throw(file::temporary(s.folder()));
    BOOST_TEST(f.path().empty());
    BOOST_TEST((f.access() == access::read_write));
    or_throw(f.write_at(0, bytes_of("abc")));
    BOOST_TEST(content_of(f) == "abc");
    BOOST_TEST((or_throw(f.sync()) == durability::data));
    auto const meta = or_throw(f.metadata());
    BOOST_TEST(meta.links == 0U);
    BOOST_TEST(meta.permissions == 0600U);
    (void)or_throw(f.clone_to(s / "copy"));
    BOOST_TEST(read_back(s / "copy") == "abc");
    std::filesystem::remove(s / "copy");
  }
  BOOST_TEST(std::filesystem::is_empty(s.folder()));
  BOOST_TEST(fails(file::temporary(s / "missing"), std::errc::no_such_file_or_directory));
  BOOST_TEST(fails(file::temporary(s.file("f", "")), std::errc::not_a_directory));
  BOOST_TEST(fails(file::temporary(s.folder() / std::string_view{".\0x", 3}), std::errc::invalid_argument));
}

BOOST_AUTO_TEST_CASE(in_memory_works_like_any_other_but_cannot_be_durable) {
  auto f = or_throw(file::in_memory("name"));
  BOOST_TEST(f.path().empty());
  BOOST_TEST(::fcntl(f.native_handle(), F_GETFD) == FD_CLOEXEC);
  or_throw(f.write_at(0, bytes_of("abc")));
  or_throw(f.allocate({.offset = 0, .length = 10'000}));
  or_throw(f.resize(3));
  BOOST_TEST(content_of(f) == "abc");
  for (auto const level : {durability::started, durability::written, durability::data, durability::all}) {
    BOOST_TEST(fails(f.sync(level), errc::not_durable));
  }
  BOOST_TEST((or_throw(f.sync(durability::none)) == durability::none));
  BOOST_TEST(fails(f.rewrite(), errc::not_durable));
  BOOST_TEST(fails(f.remove(), std::errc::no_such_file_or_directory));
  auto m = or_throw(fmmap::mapping::map(f, {.access = access::read_write}));
  BOOST_TEST(fails(m.flush(), errc::not_durable));
  BOOST_TEST(fails(m.stage_flush(), errc::not_durable));
}

BOOST_AUTO_TEST_CASE(in_memory_does_not_claim_durability_after_being_adopted) {
  auto f = or_throw(file::in_memory("name"));
  auto adopted = or_throw(file::adopt(or_throw(f.release())));
  BOOST_TEST(fails(adopted.sync(), errc::not_durable));
}

BOOST_AUTO_TEST_CASE(
    adopts_what_has_no_name_yet_as_a_file) { // also on tmpfs, whose files take seals as those in memory do
  scratch const here;
  scratch const in_memory{memory_folder()};
  for (auto const* s : {&here, &in_memory}) {
    auto const unnamed = ::open(s->folder().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (unnamed < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
      std::cout << "SKIP: " << s->folder() << " knows no files without a name\n";
      continue;
    }
    BOOST_REQUIRE(unnamed >= 0);
    BOOST_TEST(or_throw(file::adopt(unnamed, "to be named")).path() == "to be named");
  }
}

BOOST_AUTO_TEST_CASE(in_memory_takes_no_name_the_system_would_cut) {
  BOOST_TEST(fails(file::in_memory(std::string_view{"a\0b", 3}), std::errc::invalid_argument));
  BOOST_TEST(fails(file::in_memory(std::string(300, 'x')), std::errc::invalid_argument));
  BOOST_TEST(file::in_memory("").has_value());
}

BOOST_AUTO_TEST_CASE(in_memory_named_like_a_file_is_not_taken_for_it) {
  scratch const s;
  auto const path = s.file("data", "abc");
  auto f = or_throw(file::in_memory(path.native().substr(path.native().size() > 200 ? path.native().size() - 200 : 0)));
  BOOST_TEST(fails(f.remove(), std::errc::no_such_file_or_directory));
  BOOST_TEST(read_back(path) == "abc");
}

BOOST_AUTO_TEST_CASE(in_memory_keeps_its_seals) {
  auto f = or_throw(file::in_memory("sealed", {.sealable = true}));
  or_throw(f.resize(8192));
  BOOST_TEST((or_throw(f.seals()) == fmmap::file_seals{}));
  or_throw(f.seal({.grow = true}));
  BOOST_TEST(fails(f.resize(8193), std::errc::operation_not_permitted));
  BOOST_TEST(fails(f.allocate({.offset = 8192, .length = 1}), std::errc::operation_not_permitted));
  BOOST_TEST(fails(f.write_at(8192, bytes_of("x")), std::errc::operation_not_permitted));
  or_throw(f.resize(4096));
  or_throw(f.seal({.shrink = true}));
  BOOST_TEST(fails(f.resize(1), std::errc::operation_not_permitted));
  or_throw(f.write_at(0, bytes_of("x")));
  {
    auto const m = or_throw(fmmap::mapping::map(f, {.access = access::read_write}));
    BOOST_TEST(fails(f.seal({.write = true}), std::errc::device_or_resource_busy));
  }
  or_throw(f.seal({.write = true}));
  BOOST_TEST(fails(f.write_at(0, bytes_of("y")), std::errc::operation_not_permitted));
  BOOST_TEST(fails(f.punch_hole({.offset = 0, .length = 4096}), std::errc::operation_not_permitted));
  BOOST_TEST(!fmmap::mapping::map(f, {.access = access::read_write}).has_value());
  BOOST_TEST(fmmap::mapping::map(f).has_value());
  {
    armed const table;
    seam::fail(os::call::mmap, EPERM, 1); // as before Linux 6.7
    auto const m = or_throw(fmmap::mapping::map(f));
    BOOST_TEST((m.bytes()[0] == std::byte{'x'}));
  }
  or_throw(f.seal({.seal = true}));
  BOOST_TEST(fails(f.seal({.future_write = true}), std::errc::operation_not_permitted));
  BOOST_TEST((or_throw(f.seals()) == fmmap::file_seals{.shrink = true, .grow = true, .write = true, .seal = true}));
  BOOST_TEST(content_of(f).substr(0, 1) == "x");
}

BOOST_AUTO_TEST_CASE(in_memory_sealed_against_future_writes_keeps_the_mappings_it_has) {
  auto f = or_throw(file::in_memory("sealed", {.sealable = true}));
  or_throw(f.resize(4096));
  auto m = or_throw(fmmap::mapping::map(f, {.access = access::read_write}));
  or_throw(f.seal({.future_write = true}));
  m.writable_bytes()[0] = std::byte{'x'};
  BOOST_TEST(fails(f.write_at(0, bytes_of("y")), std::errc::operation_not_permitted));
  BOOST_TEST(!fmmap::mapping::map(f, {.access = access::read_write}).has_value());
  BOOST_TEST(content_of(f).substr(0, 1) == "x");
}

BOOST_AUTO_TEST_CASE(not_made_sealable_cannot_be_sealed) {
  scratch const s;
  auto memory = or_throw(file::in_memory("plain"));
  BOOST_TEST(fails(memory.seal({.write = true}), std::errc::operation_not_permitted));
  auto disk = open_rw(s.file("f", "abc"));
  BOOST_TEST(!disk.seal({.write = true}).has_value());
  BOOST_TEST(content_of(disk) == "abc");
}

BOOST_AUTO_TEST_CASE(in_memory_is_made_on_systems_that_do_not_know_the_newest_flag) {
  armed const table;
  seam::fail(os::call::memfd_create, EINVAL, 1);
  BOOST_TEST(file::in_memory("old").has_value());
  seam::pretend_absent(os::call::memfd_create);
  BOOST_TEST(fails(file::in_memory("none"), std::errc::function_not_supported));
}

BOOST_AUTO_TEST_CASE(is_too_large_beyond_the_limit_of_the_process_and_unchanged) {
  scratch const s;
  auto const path = s.file("f", "abc");
  BOOST_TEST(found_in_child([&](findings& found) {
               ::signal(SIGXFSZ, SIG_IGN);
               limit(RLIMIT_FSIZE, 1 << 20);
               auto f = open_rw(path);
               found.expect(fails(f.resize(2 << 20), std::errc::file_too_large), "resize");
               found.expect(fails(f.allocate({.offset = 0, .length = 2 << 20}), std::errc::file_too_large), "allocate");
               found.expect(content_of(f) == "abc", "content");
               auto m = or_throw(fmmap::mutable_mapped_file::open_existing(path, {.reserve = 8 << 20}));
               found.expect(fails(m.resize(2 << 20), std::errc::file_too_large), "mapped resize");
               found.expect(fails(m.append(bytes_of(pattern(2 << 20))), std::errc::file_too_large), "append");
               found.expect(m.size() == 3 && text_of(m.bytes()) == "abc", "mapped content");
               found.expect(
                   fails(fmmap::replace_file(path, 2 << 20, [](std::span<std::byte>) {}), std::errc::file_too_large),
                   "replace");
               or_throw(m.close());
             }) == "");
  BOOST_TEST(read_back(path) == "abc");
  BOOST_TEST(std::ranges::distance(std::filesystem::directory_iterator{s.folder()}) == 1);
}

BOOST_AUTO_TEST_SUITE_END()
