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
#include "support/process.hpp"
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

BOOST_AUTO_TEST_SUITE(a_view_of_a_file)

BOOST_AUTO_TEST_CASE(reads_up_to_its_threshold_and_maps_above_it) {
  scratch const s;
  constexpr std::size_t threshold = std::size_t{128} << 10;
  for (auto const size : {std::size_t{0}, std::size_t{1}, threshold - 1, threshold, threshold + 1, threshold * 3 + 5}) {
    auto const content = pattern(size);
    auto const view = or_throw(fmmap::file_view::open(s.file("f", content)));
    BOOST_TEST((text_of(view.bytes()) == content));
    BOOST_TEST(view.is_mapped() == (size > threshold));
  }
  auto const path = s.file("f", pattern(5000));
  BOOST_TEST(or_throw(fmmap::file_view::open(path, {.map_above = 0})).is_mapped());
  BOOST_TEST(or_throw(fmmap::file_view::open(path, {.map_above = 4999})).is_mapped());
  BOOST_TEST(!or_throw(fmmap::file_view::open(path, {.map_above = 5000})).is_mapped());
  BOOST_TEST(!or_throw(fmmap::file_view::open(path, {.map_above = SIZE_MAX})).is_mapped());
}

BOOST_AUTO_TEST_CASE(takes_a_file_of_exactly_its_size_in_one_read) {
  scratch const s;
  auto const path = s.file("f", pattern(5000));
  armed const table;
  (void)or_throw(fmmap::file_view::open(path));
  BOOST_TEST(std::ranges::count(seam::calls(), os::call::pread) == 1);
  BOOST_TEST(seam::calls().size() == 4U); // openat, fstat, pread, close
}

BOOST_AUTO_TEST_CASE(is_empty_for_an_empty_file) {
  scratch const s;
  auto const view = or_throw(fmmap::file_view::open(s.file("f", "")));
  BOOST_TEST(view.bytes().empty());
  BOOST_TEST(!view.is_mapped());
}

BOOST_AUTO_TEST_CASE(reads_files_of_proc_and_sys_to_their_end) {
  BOOST_TEST(text_of(or_throw(fmmap::file_view::open("/proc/version")).bytes()) == read_back("/proc/version"));
  auto const maps = or_throw(fmmap::file_view::open("/proc/self/smaps")); // longer than a page
  BOOST_TEST(maps.bytes().size() > 4096U);
  BOOST_TEST(text_of(maps.bytes()).find("VmFlags") != std::string_view::npos);
  BOOST_TEST(text_of(or_throw(fmmap::file_view::open("/sys/devices/system/cpu/online")).bytes()) ==
             read_back("/sys/devices/system/cpu/online"));
  BOOST_TEST(or_throw(fmmap::file_view::open("/dev/null")).bytes().empty());
}

BOOST_AUTO_TEST_CASE(reads_a_pipe_until_its_writer_has_gone_however_late_it_comes) {
  scratch const s;
  BOOST_REQUIRE(::mkfifo((s / "fifo").c_str(), 0600) == 0);
  for (std::size_t const size : {0U, 5U, 300'000U}) {
    for (unsigned const late : {0U, 50'000U}) {
      auto const content = pattern(size);
      auto const child = start_child([&] {
        ::usleep(late); // the reader is there first
        auto const descriptor = ::open((s / "fifo").c_str(), O_WRONLY);
        ::usleep(late);
        std::size_t done = 0;
        while (done < size) {
          auto const put = ::write(descriptor, content.data() + done, std::min<std::size_t>(size - done, 50'000));
          if (put < 0) {
            return 1;
          }
          done += static_cast<std::size_t>(put);
        }
        return ::close(descriptor);
      });
      auto const view = or_throw(fmmap::file_view::open(s / "fifo"));
      BOOST_TEST((text_of(view.bytes()) == content));
      BOOST_TEST(!view.is_mapped());
      BOOST_TEST(end_of(child) == 0);
    }
  }
}

BOOST_AUTO_TEST_CASE(refuses_directories_and_bad_names) {
  scratch const s;
  BOOST_TEST(fails(fmmap::file_view::open(s.folder()), std::errc::is_a_directory));
  BOOST_TEST(fails(fmmap::file_view::open(s / "missing"), std::errc::no_such_file_or_directory));
  BOOST_TEST(fails(fmmap::file_view::open(s.folder() / std::string_view{"f\0x", 3}), std::errc::invalid_argument));
  BOOST_TEST(fails(fmmap::file_view::open(s / std::string(256, 'x')), std::errc::filename_too_long));
}

BOOST_AUTO_TEST_CASE(follows_links_unless_told_not_to) {
  scratch const s;
  std::filesystem::create_symlink(s.file("f", "abc"), s / "link");
  BOOST_TEST(text_of(or_throw(fmmap::file_view::open(s / "link")).bytes()) == "abc");
  auto const refused = fmmap::file_view::open(s / "link", {.symlinks = fmmap::symlinks::refuse_last});
  BOOST_TEST(fails(refused, errc::symbolic_link));
  auto const here = std::filesystem::current_path();
  std::filesystem::current_path(s.folder()); // whose own path may have links
  for (auto const policy : {fmmap::symlinks::refuse_last, fmmap::symlinks::refuse_all}) {
    BOOST_TEST(text_of(or_throw(fmmap::file_view::open("f", {.symlinks = policy})).bytes()) == "abc");
  }
  std::filesystem::current_path(here);
  std::filesystem::create_directory_symlink(s.folder(), s / "folder");
  BOOST_TEST(fmmap::file_view::open(s / "folder/f", {.symlinks = fmmap::symlinks::refuse_last}).has_value());
  BOOST_TEST(
      fails(fmmap::file_view::open(s / "folder/f", {.symlinks = fmmap::symlinks::refuse_all}), errc::symbolic_link));
}

BOOST_AUTO_TEST_CASE(reads_what_cannot_be_mapped) {
  scratch const s;
  auto const content = pattern(300'000);
  auto const path = s.file("f", content);
  for (int const code : {ENODEV, EACCES, EPERM, EINVAL, EIO, EOPNOTSUPP}) {
    armed const table;
    seam::fail(os::call::mmap, code);
    auto const view = or_throw(fmmap::file_view::open(path));
    BOOST_TEST(!view.is_mapped());
    BOOST_TEST((text_of(view.bytes()) == content));
  }
}

BOOST_AUTO_TEST_CASE(does_not_read_what_the_process_has_no_room_to_map) {
  scratch const s;
  auto const path = s.file("f", pattern(300'000));
  armed const table;
  for (int const code : {ENOMEM, EAGAIN}) {
    seam::fail(os::call::mmap, code);
    auto const view = fmmap::file_view::open(path);
    BOOST_REQUIRE(!view.has_value());
    BOOST_TEST(view.error().code().value() == code);
    BOOST_TEST(view.error().path() == path.native());
  }
  BOOST_TEST(std::ranges::count(seam::calls(), os::call::pread) == 0);
}

BOOST_AUTO_TEST_CASE(of_a_file_larger_than_the_address_space_is_an_error) {
  scratch const s{memory_folder()};
  auto const path = s.file("f", "");
  if (::truncate(path.c_str(), off_t{1} << 60) != 0) {
    skip("no file system with files this large");
    return;
  }
  BOOST_TEST(fails(fmmap::file_view::open(path), std::errc::not_enough_memory));
  if (!sanitized) { // whose allocators end the program
    BOOST_TEST(fails(fmmap::file_view::open(path, {.map_above = SIZE_MAX}), std::errc::not_enough_memory));
  }
}

BOOST_AUTO_TEST_CASE(of_a_file_larger_than_the_limit_of_the_process_is_an_error) {
  if (sanitized) {
    skip("sanitizers reserve most of the address space");
    return;
  }
  scratch const s;
  auto const path = s.file("f", "");
  std::filesystem::resize_file(path, std::uintmax_t{8} << 30);
  BOOST_TEST(found_in_child([&](findings& found) {
               limit(RLIMIT_AS, rlim_t{1} << 29);
               constexpr auto full = std::errc::not_enough_memory;
               found.expect(fails(fmmap::file_view::open(path), full), "mapped");
               found.expect(fails(fmmap::file_view::open(path, {.map_above = SIZE_MAX}), full), "read");
               found.expect(fails(fmmap::file_view::open("/dev/zero"), full), "without an end");
             }) == "");
}

BOOST_AUTO_TEST_CASE(goes_on_after_short_and_interrupted_reads) {
  scratch const s;
  auto const path = s.file("f", pattern(5000));
  armed const table;
  seam::shorten(os::call::pread, 700);
  seam::fail(os::call::pread, EINTR, 3);
  BOOST_TEST((text_of(or_throw(fmmap::file_view::open(path)).bytes()) == pattern(5000)));
  seam::shorten(os::call::read, 7);
  seam::fail(os::call::read, EINTR, 3);
  BOOST_TEST(text_of(or_throw(fmmap::file_view::open("/proc/version")).bytes()) == read_back("/proc/version"));
  seam::fail(os::call::pread, EIO);
  BOOST_TEST(fails(fmmap::file_view::open(path), std::errc::io_error));
}

BOOST_AUTO_TEST_CASE(is_as_long_as_what_is_left_of_a_file_that_shrinks_meanwhile) {
  scratch const s;
  auto const path = s.file("f", pattern(100'000));
  auto const child = start_child([&] {
    ::usleep(50'000);
    std::filesystem::resize_file(path, 10);
    return 0;
  });
  armed const table;
  seam::delay(os::call::pread, std::chrono::milliseconds{300}); // between fstat and the read
  auto const view = or_throw(fmmap::file_view::open(path));
  BOOST_TEST(end_of(child) == 0);
  BOOST_TEST(text_of(view.bytes()) == pattern(10));
}

BOOST_AUTO_TEST_CASE(keeps_its_bytes_when_moved) {
  scratch const s;
  for (std::size_t const size : {100U, 300'000U}) {
    auto const content = pattern(size);
    auto from = or_throw(fmmap::file_view::open(s.file("f", content)));
    auto const* const address = from.bytes().data();
    auto to = std::move(from);
    BOOST_TEST(from.bytes().empty());
    BOOST_TEST(!from.is_mapped());
    BOOST_TEST((to.bytes().data() == address));
    from = or_throw(fmmap::file_view::open(s.file("g", "other")));
    to = std::move(from);
    BOOST_TEST(text_of(to.bytes()) == "other");
    auto& itself = to;
    to = std::move(itself);
    BOOST_TEST(to.is_mapped() == false);
  }
}

BOOST_AUTO_TEST_CASE(outlives_the_name_of_its_file) {
  scratch const s;
  auto const view = or_throw(fmmap::file_view::open(s.file("f", pattern(300'000))));
  std::filesystem::remove(s / "f");
  BOOST_TEST((text_of(view.bytes()) == pattern(300'000)));
}

BOOST_AUTO_TEST_SUITE_END()
