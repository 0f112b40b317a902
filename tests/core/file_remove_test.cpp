// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cerrno>
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
#include <sys/sysmacros.h>
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

namespace {

auto open_rw(std::filesystem::path const& path) -> file {
  return or_throw(file::open(path, {.access = access::read_write}));
}

} // namespace

BOOST_AUTO_TEST_SUITE(removing_a_file)

BOOST_AUTO_TEST_CASE(takes_its_name_durably_and_leaves_it_open) {
  scratch const s;
  auto f = open_rw(s.file("f", "abc"));
  {
    armed const table;
    or_throw(f.remove());
    auto const calls = seam::calls();
    auto const unlinked = std::ranges::find(calls, os::call::unlinkat);
    BOOST_TEST((std::find(unlinked, calls.end(), os::call::fsync) != calls.end()));
  }
  BOOST_TEST(!std::filesystem::exists(s / "f"));
  BOOST_TEST(or_throw(f.size()) == 3U);
  or_throw(f.write_at(3, bytes_of("d")));
  BOOST_TEST(or_throw(f.size()) == 4U);
  BOOST_TEST(fails(f.remove(), std::errc::no_such_file_or_directory));
}

BOOST_AUTO_TEST_CASE(works_for_a_file_open_for_reading) {
  scratch const s;
  auto f = or_throw(file::open(s.file("f", "abc")));
  or_throw(f.remove());
  BOOST_TEST(!std::filesystem::exists(s / "f"));
}

BOOST_AUTO_TEST_CASE(leaves_other_hard_links) {
  scratch const s;
  auto const path = s.file("f", "abc");
  std::filesystem::create_hard_link(path, s / "other");
  auto f = open_rw(path);
  or_throw(f.remove());
  BOOST_TEST(!std::filesystem::exists(path));
  BOOST_TEST(read_back(s / "other") == "abc");
  BOOST_TEST(or_throw(f.metadata()).links == 1U);
  BOOST_TEST(fails(f.remove(), std::errc::no_such_file_or_directory));
  BOOST_TEST(read_back(s / "other") == "abc");
}

BOOST_AUTO_TEST_CASE(refuses_a_name_that_now_belongs_to_another_file) {
  for (bool const proc : {true, false}) {
    scratch const s;
    auto const path = s.file("f", "old");
    auto f = open_rw(path);
    std::filesystem::remove(path);
    (void)s.file("f", "new");
    armed const table;
    if (!proc) {
      seam::fail(os::call::readlinkat, ENOENT);
    }
    BOOST_TEST(fails(f.remove(), errc::path_reused));
    BOOST_TEST(read_back(path) == "new");
    BOOST_TEST(or_throw(f.size()) == 3U);
  }
}

BOOST_AUTO_TEST_CASE(refuses_a_file_opened_through_a_link) {
  for (bool const proc : {true, false}) {
    scratch const s;
    auto const path = s.file("f", "abc");
    std::filesystem::create_symlink("f", s / "link");
    auto f = open_rw(s / "link");
    armed const table;
    if (!proc) {
      seam::fail(os::call::readlinkat, ENOENT);
    }
    BOOST_TEST(fails(f.remove(), errc::symbolic_link));
    BOOST_TEST(read_back(path) == "abc");
    BOOST_TEST(std::filesystem::is_symlink(s / "link"));
  }
}

// Where the path leads when the file is to be removed does not matter, only how it was opened.
BOOST_AUTO_TEST_CASE(refuses_a_file_opened_through_a_link_from_another_directory) {
  scratch const s;
  std::filesystem::create_directory(s / "folder");
  auto const path = s.file("folder/f", "abc");
  std::filesystem::create_symlink("f", s / "folder/link");
  auto const folder = or_throw(file::open(s / "folder", {.any_type = true}));
  for (bool const beneath : {false, true}) {
    auto f = or_throw(file::open_at(folder, "link", {.access = access::read_write, .beneath = beneath}));
    BOOST_TEST(fails(f.remove(), errc::symbolic_link));
  }
  auto const here = std::filesystem::current_path();
  std::filesystem::current_path(s / "folder");
  auto f = open_rw("link");
  std::filesystem::current_path(here);
  BOOST_TEST(fails(f.remove(), errc::symbolic_link));
  BOOST_TEST(read_back(path) == "abc");
}

BOOST_AUTO_TEST_CASE(removes_a_file_opened_from_another_directory) {
  scratch const s;
  std::filesystem::create_directory(s / "folder");
  (void)s.file("folder/f", "abc");
  (void)s.file("f", "another");
  auto const folder = or_throw(file::open(s / "folder", {.any_type = true}));
  auto f = or_throw(file::open_at(folder, "f", {.access = access::read_write}));
  auto const here = std::filesystem::current_path();
  std::filesystem::current_path(s.folder());
  auto const removed = f.remove();
  auto const again = f.remove();
  std::filesystem::current_path(here);
  BOOST_TEST(removed.has_value());
  BOOST_TEST(fails(again, std::errc::no_such_file_or_directory));
  BOOST_TEST(!std::filesystem::exists(s / "folder/f"));
  BOOST_TEST(read_back(s / "f") == "another");
}

BOOST_AUTO_TEST_CASE(refuses_a_device) {
  scratch const s;
  if (::mknod((s / "null").c_str(), S_IFCHR | 0600, ::makedev(1, 3)) != 0) {
    skip("this user makes no devices");
    return;
  }
  auto device = file::open(s / "null", {.any_type = true});
  if (fails(device, std::errc::permission_denied)) {
    skip("this file system has no devices");
    return;
  }
  BOOST_TEST(fails(or_throw(std::move(device)).remove(), errc::not_a_regular_file));
  BOOST_TEST(std::filesystem::exists(s / "null"));
}

BOOST_AUTO_TEST_CASE(leaves_a_link_that_has_taken_the_old_name) {
  scratch const s;
  auto f = open_rw(s.file("f", "abc"));
  std::filesystem::rename(s / "f", s / "moved");
  std::filesystem::create_symlink("moved", s / "f");
  or_throw(f.remove());
  BOOST_TEST(!std::filesystem::exists(s / "moved"));
  BOOST_TEST(std::filesystem::is_symlink(s / "f"));
}

BOOST_AUTO_TEST_CASE(finds_the_file_after_a_rename_and_leaves_who_took_the_old_name) {
  scratch const s;
  auto f = open_rw(s.file("f", "abc"));
  std::filesystem::create_directory(s / "folder");
  std::filesystem::rename(s / "f", s / "folder/moved");
  (void)s.file("f", "another");
  or_throw(f.remove());
  BOOST_TEST(!std::filesystem::exists(s / "folder/moved"));
  BOOST_TEST(read_back(s / "f") == "another");
}

BOOST_AUTO_TEST_CASE(finds_the_file_after_the_working_directory_has_changed) {
  scratch const s;
  (void)s.file("f", "abc");
  std::filesystem::create_directory(s / "folder");
  (void)s.file("folder/f", "another");
  auto const here = std::filesystem::current_path();
  std::filesystem::current_path(s.folder());
  auto f = open_rw("f");
  std::filesystem::current_path(s / "folder");
  auto const removed = f.remove();
  std::filesystem::current_path(here);
  BOOST_TEST(removed.has_value());
  BOOST_TEST(!std::filesystem::exists(s / "f"));
  BOOST_TEST(read_back(s / "folder/f") == "another");
}

BOOST_AUTO_TEST_CASE(finds_the_file_under_a_name_that_looks_deleted) {
  scratch const s;
  auto f = open_rw(s.file("f (deleted)", "abc"));
  (void)s.file("f", "another");
  or_throw(f.remove());
  BOOST_TEST(!std::filesystem::exists(s / "f (deleted)"));
  BOOST_TEST(read_back(s / "f") == "another");
}

BOOST_AUTO_TEST_CASE(works_by_the_path_it_was_opened_by_where_there_is_no_proc) {
  scratch const s;
  auto f = open_rw(s.file("f", "abc"));
  auto unnamed = or_throw(file::temporary(s.folder()));
  armed const table;
  seam::fail(os::call::readlinkat, ENOENT);
  or_throw(f.remove());
  BOOST_TEST(!std::filesystem::exists(s / "f"));
  BOOST_TEST(fails(f.remove(), std::errc::no_such_file_or_directory));
  BOOST_TEST(fails(unnamed.remove(), std::errc::no_such_file_or_directory));
}

BOOST_AUTO_TEST_CASE(has_nothing_to_do_for_a_file_without_a_name) {
  scratch const s;
  auto f = or_throw(file::temporary(s.folder()));
  BOOST_TEST(fails(f.remove(), std::errc::no_such_file_or_directory));
  auto gone = open_rw(s.file("f", "abc"));
  std::filesystem::remove(s / "f");
  BOOST_TEST(fails(gone.remove(), std::errc::no_such_file_or_directory));
  std::filesystem::create_directory(s / "folder");
  auto lost = open_rw(s.file("folder/f", "abc"));
  std::filesystem::remove_all(s / "folder");
  BOOST_TEST(fails(lost.remove(), std::errc::no_such_file_or_directory));
}

BOOST_AUTO_TEST_CASE(goes_on_from_a_directory_that_could_not_be_synced) {
  scratch const s;
  auto f = open_rw(s.file("f", "abc"));
  armed const table;
  seam::fail(os::call::fsync, EIO, 2);
  BOOST_TEST(fails(f.remove(), std::errc::io_error));
  BOOST_TEST(!std::filesystem::exists(s / "f"));
  (void)s.file("f", "another"); // and the name may be taken meanwhile
  BOOST_TEST(fails(f.remove(), std::errc::io_error));
  or_throw(f.remove());
  BOOST_TEST(std::ranges::count(seam::calls(), os::call::unlinkat) == 1);
  BOOST_TEST(std::ranges::count(seam::calls(), os::call::fsync) == 3);
  BOOST_TEST(read_back(s / "f") == "another");
  BOOST_TEST(fails(f.remove(), errc::path_reused));
}

BOOST_AUTO_TEST_CASE(can_be_tried_again_after_a_failure_at_any_call) {
  for (std::uint64_t n = 1;; ++n) {
    scratch const s;
    auto f = open_rw(s.file("f", "abc"));
    bool injected = false;
    {
      armed const table;
      seam::fail_nth(n, EIO);
      (void)f.remove();
      injected = seam::injected() > 0;
    }
    BOOST_TEST_CONTEXT("call " << n) {
      auto const again = f.remove();
      BOOST_TEST((again.has_value() || again.error() == std::errc::no_such_file_or_directory));
      BOOST_TEST(!std::filesystem::exists(s / "f"));
    }
    if (!injected) {
      BOOST_TEST(n > 5U);
      break;
    }
  }
}

BOOST_AUTO_TEST_CASE(killed_at_any_call_leaves_the_file_whole_or_gone) {
  for (std::uint64_t n = 1; n < 30; ++n) {
    scratch const s;
    auto const path = s.file("f", "abc");
    auto const child = start_child([&] {
      auto f = open_rw(path);
      seam::arm();
      seam::kill_at(n);
      or_throw(f.remove());
      return 0;
    });
    auto const end = end_of(child);
    BOOST_TEST((end == 0 || end == -SIGKILL));
    BOOST_TEST((!std::filesystem::exists(path) || (end != 0 && read_back(path) == "abc")));
    if (end == 0) {
      BOOST_TEST(n > 5U);
      return;
    }
  }
  BOOST_ERROR("remove makes more calls than this test tries");
}

BOOST_AUTO_TEST_CASE(in_a_folder_that_may_not_be_changed_is_refused) {
  scratch const s;
  auto const path = s.file("f", "abc");
  ::chmod(path.c_str(), 0644);
  ::chmod(s.folder().c_str(), 0555);
  BOOST_TEST(found_in_child([&](findings& found) {
               std::filesystem::current_path(s.folder());
               if (is_root()) {
                 found.expect(become_ordinary_user(), "drop to an ordinary user");
               }
               auto f = or_throw(file::open("f"));
               auto const removed = f.remove();
               found.expect(fails(removed, std::errc::permission_denied), "refused");
             }) == "");
  ::chmod(s.folder().c_str(), 0755);
  BOOST_TEST(read_back(path) == "abc");
}

BOOST_AUTO_TEST_SUITE_END()
