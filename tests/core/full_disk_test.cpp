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
#include <optional>
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
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/mounts.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

#include "support/small_disk.hpp"

import fmmap.core;
import fmmap.os;

using fmmap::access;
using fmmap::durability;
using fmmap::errc;
using fmmap::file;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;
namespace os = fmmap::os;
namespace seam = fmmap::os::seam;
using seam::armed;

namespace {

constexpr std::size_t mebibyte = std::size_t{1} << 20;
constexpr auto full = std::errc::no_space_on_device;

// Content to fill a disk with, made quickly.
auto much(std::size_t size) -> std::string {
  std::string text;
  for (auto const piece = pattern(65'536); text.size() < size;) {
    text += piece;
  }
  text.resize(size);
  return text;
}

auto entries_in(std::filesystem::path const& folder) -> std::string {
  std::vector<std::string> names;
  for (auto const& entry : std::filesystem::directory_iterator{folder}) {
    names.push_back(entry.path().filename());
  }
  std::ranges::sort(names);
  std::string all;
  for (auto const& name : names) {
    all += name + ' ';
  }
  return all;
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_full_disk)

BOOST_AUTO_TEST_CASE(fails_allocate_and_leaves_size_content_and_space) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    for (bool const emulated : {false, true}) {
      armed const table;
      if (emulated) {
        seam::fail(os::call::fallocate, EOPNOTSUPP);
      }
      auto f = or_throw(file::open(disk / "f", {.access = access::read_write, .create = true}));
      or_throw(f.write_at(0, bytes_of(pattern(1000))));
      or_throw(f.sync());
      auto const before = free_bytes(disk);
      found.expect(fails(f.allocate({.offset = 0, .length = 100 * mebibyte}), full), "allocate");
      found.expect(or_throw(f.size()) == 1000, "size");
      found.expect(read_back(disk / "f") == pattern(1000), "content");
      or_throw(f.sync());
      found.expect(free_bytes(disk) + 65'536 > before, "space");
    }
  });
}

BOOST_AUTO_TEST_CASE(fails_allocate_and_leaves_what_others_have_appended_meanwhile) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    for (std::uint64_t const appended : {std::uint64_t{10}, std::uint64_t{20'000}}) {
      auto f = or_throw(file::create_new(disk / "f"));
      or_throw(f.write_at(0, bytes_of(pattern(1000))));
      auto const child = start_child([&] {
        ::usleep(50'000);
        std::ofstream{disk / "f", std::ios::app}.write(pattern(appended, 1).data(),
                                                       static_cast<std::streamsize>(appended));
        return 0;
      });
      {
        armed const table;
        seam::delay(os::call::fallocate, std::chrono::milliseconds{200}); // after the size has been asked for
        found.expect(fails(f.allocate({.offset = 0, .length = 100 * mebibyte}), full), "allocate");
      }
      found.expect(end_of(child) == 0, "the other process");
      auto const content = read_back(disk / "f");
      found.expect(content.starts_with(pattern(1000) + pattern(appended, 1)), "content");
      found.expect(content.size() < 1000 + appended + 4096, "size");
      or_throw(f.remove());
    }
  });
}

BOOST_AUTO_TEST_CASE(fails_write_at_and_says_how_far_it_came) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    auto f = or_throw(file::create_new(disk / "f"));
    auto const content = much(20 * mebibyte);
    auto const outcome = f.write_at(0, bytes_of(content));
    found.expect(fails(outcome, full), "write");
    auto const range = !outcome ? outcome.error().range() : std::nullopt;
    found.expect(range && range->offset + range->length == content.size(), "the rest");
    found.expect(range && or_throw(f.size()) == range->offset, "size");
    found.expect(read_back(disk / "f") == content.substr(0, range->offset), "content");
  });
}

BOOST_AUTO_TEST_CASE(fails_resize_of_a_mapped_file_and_leaves_it_usable) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    auto f = or_throw(fmmap::mutable_mapped_file::create(disk / "f", {.size = 1000, .reserve = 64 * mebibyte}));
    f.write_at(0, bytes_of(pattern(1000)));
    auto const* const base = f.bytes().data();
    auto const before = free_bytes(disk);
    found.expect(fails(f.resize(50 * mebibyte), full), "inside the reservation");
    found.expect(fails(f.resize(100 * mebibyte), full), "past it");
    found.expect(f.size() == 1000 && std::filesystem::file_size(disk / "f") == 1000, "size");
    found.expect(f.bytes().data() == base && text_of(f.bytes()) == pattern(1000), "content");
    found.expect(free_bytes(disk) + 65'536 > before, "space");
    or_throw(f.resize(2 * mebibyte));
    std::ranges::fill(f.writable_bytes(), std::byte{1}); // blocks are there: no SIGBUS
    or_throw(f.close());
  });
}

BOOST_AUTO_TEST_CASE(fails_append_and_holds_no_space_for_it) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    auto f = or_throw(fmmap::mutable_mapped_file::create(disk / "f", {.reserve = 64 * mebibyte}));
    (void)or_throw(f.append(bytes_of(pattern(1000))));
    auto const* const base = f.bytes().data();
    or_throw(f.shrink_to_fit());
    auto const before = free_bytes(disk);
    found.expect(fails(f.append(bytes_of(much(30 * mebibyte))), full), "append");
    found.expect(f.size() == 1000 && std::filesystem::file_size(disk / "f") == 1000, "size");
    found.expect(f.bytes().data() == base && text_of(f.bytes()) == pattern(1000), "content");
    found.expect(free_bytes(disk) + 65'536 > before, "space");
    // What fits is appended to the last byte, with no room ahead; ext4 keeps a part of the space to itself.
    std::size_t appended = 0;
    while (f.append(bytes_of(pattern(10'000)))) {
      ++appended;
    }
    found.expect(appended * 10'000 + 600'000 > before, "the disk could be filled");
    found.expect(f.size() == 1000 + appended * 10'000, "size when full");
    found.expect(std::filesystem::file_size(disk / "f") == f.size(), "size of the file when full");
    found.expect(text_of(f.bytes()).substr(f.size() - 10'000) == pattern(10'000), "content when full");
    or_throw(f.resize(1000));
    (void)or_throw(f.append(bytes_of(much(mebibyte)))); // and there is space again
    or_throw(f.close());
  });
}

BOOST_AUTO_TEST_CASE(leaves_nothing_of_an_append_that_allocated_only_a_part) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    auto f = or_throw(fmmap::mutable_mapped_file::create(disk / "f", {.reserve = 64 * mebibyte}));
    (void)or_throw(f.append(bytes_of(much(mebibyte))));
    or_throw(f.shrink_to_fit());
    fill_up(disk, mebibyte); // less than it would allocate ahead
    auto const before = free_bytes(disk);
    (void)or_throw(f.append(bytes_of(pattern(300'000))));
    found.expect(free_bytes(disk) + 400'000 > before, "nothing held but what was appended");
    found.expect(fails(f.append(bytes_of(much(2 * mebibyte))), full), "append");
    found.expect(free_bytes(disk) + 400'000 > before, "nor after a failure");
    or_throw(f.close());
    found.expect(std::filesystem::file_size(disk / "f") == mebibyte + 300'000, "size");
  });
}

BOOST_AUTO_TEST_CASE(fails_fill_of_a_hole_and_leaves_size_and_content) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    for (bool const emulated : {false, true}) {
      armed const table;
      if (emulated) {
        seam::fail(os::call::fallocate, EOPNOTSUPP);
      }
      auto const content = pattern(10'000);
      std::ofstream{disk / "sparse", std::ios::binary} << content;
      std::filesystem::resize_file(disk / "sparse", 100 * mebibyte);
      {
        auto f = or_throw(mutable_mapped_file::open_existing(disk / "sparse"));
        found.expect(fails(f.fill({.offset = 5000}, std::byte{1}), full), "fill");
        found.expect(f.size() == 100 * mebibyte, "size of the view");
        found.expect(text_of(f.bytes()).starts_with(content), "content of the view");
        std::vector<std::byte> hole(10, std::byte{9}); // not by the view: on tmpfs reading a hole there takes a page
        (void)or_throw(f.as_file().read_at(50 * mebibyte, hole));
        found.expect(hole == std::vector<std::byte>(10), "the hole");
        or_throw(f.fill({.offset = 0, .length = 5000}, std::byte{2}));
        found.expect(read_back(disk / "sparse").starts_with(std::string(5000, '\2') + content.substr(5000)), "content");
      }
      found.expect(std::filesystem::file_size(disk / "sparse") == 100 * mebibyte, "size");
      std::filesystem::remove(disk / "sparse");
    }
  });
}

BOOST_AUTO_TEST_CASE(fails_creation_and_leaves_no_file) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    found.expect(fails(fmmap::mutable_mapped_file::create(disk / "f", {.size = 100 * mebibyte}), full), "create");
    found.expect(fails(fmmap::mutable_mapped_file::open(disk / "f", {.size = 100 * mebibyte}), full), "open");
    found.expect(entries_in(disk).empty(), "no file");
    {
      auto const empty = or_throw(file::create_new(disk / "empty"));
    }
    found.expect(fails(fmmap::mutable_mapped_file::open(disk / "empty", {.size = 100 * mebibyte}), full),
                 "open an empty one");
    found.expect(std::filesystem::file_size(disk / "empty") == 0, "still empty");
  });
}

BOOST_AUTO_TEST_CASE(fails_replace_file_and_leaves_the_old_content) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    or_throw(fmmap::replace_file(disk / "f", 1000, [](std::span<std::byte> fresh) { fresh[0] = std::byte{1}; }));
    auto const old = read_back(disk / "f");
    for (bool const emulated : {false, true}) {
      armed const table;
      if (emulated) {
        seam::fail(os::call::fallocate, EOPNOTSUPP);
      }
      bool filled = false;
      auto const outcome =
          fmmap::replace_file(disk / "f", 100 * mebibyte, [&](std::span<std::byte>) { filled = true; });
      found.expect(fails(outcome, full), "replace");
      found.expect(!filled, "nothing was filled");
      found.expect(read_back(disk / "f") == old, "content");
      found.expect(entries_in(disk) == "f ", "no leftover");
    }
  });
}

BOOST_AUTO_TEST_CASE(fails_clone_to_and_leaves_no_file) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    scratch const elsewhere;
    auto const f = or_throw(file::open(elsewhere.file("big", much(20 * mebibyte))));
    found.expect(fails(f.clone_to(disk / "copy"), full), "from another disk");
    auto here = or_throw(file::create_new(disk / "f"));
    or_throw(here.write_at(0, bytes_of(much(6 * mebibyte))));
    found.expect(fails(here.clone_to(disk / "copy"), full), "on the same disk");
    found.expect(entries_in(disk) == "f ", "no leftover");
    found.expect(read_back(disk / "f") == much(6 * mebibyte), "content");
  });
}

BOOST_AUTO_TEST_CASE(without_inodes_left_fails_creation_and_nothing_else) {
  on_small_disk(disk_kind::tmpfs, [](findings& found, std::filesystem::path const& disk) {
    auto f = or_throw(fmmap::mutable_mapped_file::create(disk / "f", {.size = 10}));
    for (int i = 0; file::create_new(disk / ("x" + std::to_string(i))); ++i) {
    }
    auto const before = entries_in(disk);
    found.expect(fails(file::create_new(disk / "g"), full), "create_new");
    found.expect(fails(file::temporary(disk), full), "temporary");
    found.expect(fails(f.as_file().clone_to(disk / "g"), full), "clone_to");
    found.expect(fails(fmmap::mutable_mapped_file::create(disk / "g", {.size = 10}), full), "create");
    found.expect(fails(fmmap::replace_file(disk / "f", 10, [](std::span<std::byte>) {}), full), "replace_file");
    (void)or_throw(f.append(bytes_of("abc")));
    or_throw(f.resize(100'000));
    found.expect(entries_in(disk) == before, "no leftover");
  });
}

// Where there is no block behind a page, a store is SIGBUS: it must not take one to find out.
BOOST_AUTO_TEST_CASE(is_an_error_where_the_last_page_has_no_block) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    {
      auto sparse = or_throw(file::open(disk / "f", {.access = access::read_write, .create = true}));
      or_throw(sparse.resize(10));
    }
    auto f = or_throw(fmmap::mutable_mapped_file::open_existing(disk / "f", {.reserve = mebibyte}));
    fill_to_the_last_block(disk);
    found.expect(fails(f.resize(20), full), "resize");
    found.expect(f.size() == 10 && std::filesystem::file_size(disk / "f") == 10, "the size");
    auto m = or_throw(fmmap::mapping::map(f.as_file(), {.access = access::read_write}));
    found.expect(!m.rewrite(), "rewrite through memory");
    found.expect(f.rewrite().has_value(), "rewrite, which leaves the hole");
  });
}

// ext4 takes blocks for unwritten whose first write-back has failed, also when a second one succeeds.
BOOST_AUTO_TEST_CASE(behind_the_file_system_is_made_good_or_reported) {
  constexpr std::size_t size = 20 * mebibyte;
  scratch const s;
  std::filesystem::create_directory(s / "thin");
  std::filesystem::create_directory(s / "disk");
  auto const image = s / "thin/image";
  BOOST_TEST(found_in_child([&](findings& found) {
               auto problem = own_mounts();
               if (problem.empty()) {
                 problem = mount_tmpfs(s / "thin", "size=12m");
               }
               if (problem.empty()) {
                 problem = mount_ext4(image, s / "disk", 64 * mebibyte); // larger than what it lies in
               }
               if (!problem.empty()) {
                 found.skip("an ext4 in less space than it says: " + problem);
                 return;
               }
               {
                 auto f = or_throw(fmmap::mutable_mapped_file::create(s / "disk/f", {.size = size}));
                 std::ranges::fill(f.writable_bytes(), std::byte{7});
                 found.expect(!f.flush(), "flushed into no space");
                 if (::mount("none", (s / "thin").c_str(), nullptr, MS_REMOUNT, "size=100m") != 0) {
                   found.skip("a tmpfs cannot be made larger");
                   return;
                 }
                 found.expect(!f.flush(), "the failure is forgotten");
                 auto m = or_throw(fmmap::mapping::map(f.as_file(), {.access = access::read_write}));
                 found.expect(m.rewrite().has_value() == f.flush().has_value(), "a rewrite claims what a flush denies");
                 (void)or_throw(f.rewrite());
                 (void)or_throw(f.flush());
                 found.expect(std::filesystem::file_size(s / "disk/f") == size, "the size has changed");
               }
               found.expect(::umount((s / "disk").c_str()) == 0, "it cannot be unmounted");
               for (int attempt = 0; attempt < 100 && (problem = mount_image(image, s / "disk")) != ""; ++attempt) {
               }
               found.expect(problem.empty(), problem);
               auto const after = or_throw(fmmap::file_view::open(s / "disk/f"));
               found.expect(after.bytes().size() == size, "the size on the disk");
               found.expect(std::ranges::all_of(after.bytes(), [](std::byte b) { return b == std::byte{7}; }),
                            "bytes are lost");
             }) == "");
}

BOOST_AUTO_TEST_SUITE_END()
