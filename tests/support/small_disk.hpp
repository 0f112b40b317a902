// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <functional>
#include <string>
#include <system_error>

#include <boost/test/unit_test.hpp>

#include <sys/mount.h>

#include "support/mounts.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;

inline auto free_bytes(std::filesystem::path const& folder) -> std::uintmax_t {
  return std::filesystem::space(folder).free;
}

// A small file system to fill, each in a process that alone sees it mounted.
enum class disk_kind { tmpfs, ext4 };

inline void on_small_disk(disk_kind which, std::function<void(findings&, std::filesystem::path const&)> const& body) {
  scratch const s;
  std::filesystem::create_directory(s / "disk");
  BOOST_TEST_CONTEXT((which == disk_kind::tmpfs ? "tmpfs" : "ext4")) {
    BOOST_TEST(found_in_child([&](findings& found) {
                 auto problem = own_mounts();
                 if (problem.empty()) {
                   problem = which == disk_kind::tmpfs ? mount_tmpfs(s / "disk", "size=8m,nr_inodes=20")
                                                       : mount_ext4(s / "image", s / "disk", std::uintmax_t{12} << 20);
                 }
                 if (!problem.empty()) {
                   found.skip(std::string{which == disk_kind::tmpfs ? "a small tmpfs: " : "a small ext4: "} + problem);
                   return;
                 }
                 std::error_code ignored;
                 std::filesystem::remove(s / "disk/lost+found", ignored);
                 body(found, s / "disk");
                 ::umount2((s / "disk").c_str(), MNT_DETACH);
               }) == "");
  }
}

inline void on_small_disks(std::function<void(findings&, std::filesystem::path const&)> const& body) {
  on_small_disk(disk_kind::tmpfs, body);
  on_small_disk(disk_kind::ext4, body);
}

// Leaves about `left` bytes.
inline void fill_up(std::filesystem::path const& folder, std::uintmax_t left) {
  auto ballast =
      fmmap::or_throw(fmmap::file::open(folder / "ballast", {.access = fmmap::access::read_write, .create = true}));
  auto const size = fmmap::or_throw(ballast.size());
  fmmap::or_throw(ballast.allocate({.offset = size, .length = static_cast<std::size_t>(free_bytes(folder) - left)}));
}

inline void fill_to_the_last_block(std::filesystem::path const& folder) {
  auto ballast =
      fmmap::or_throw(fmmap::file::open(folder / "ballast", {.access = fmmap::access::read_write, .create = true}));
  for (std::size_t step = std::size_t{1} << 20; step >= 1024; step /= 2) {
    while (ballast.allocate({.offset = fmmap::or_throw(ballast.size()), .length = step})) {
    }
  }
}
