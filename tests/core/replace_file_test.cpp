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
#include <sys/wait.h>
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

auto entries_in(std::filesystem::path const& folder) -> std::ptrdiff_t {
  return std::ranges::distance(std::filesystem::directory_iterator{folder});
}

auto filling(std::string content) -> std::function<void(std::span<std::byte>)> {
  return [content = std::move(content)](std::span<std::byte> fresh) {
    std::ranges::copy(bytes_of(content), fresh.begin());
  };
}

auto replace(std::filesystem::path const& path, std::string const& content, fmmap::replace_options options = {})
    -> fmmap::result<void> {
  return fmmap::replace_file(path, content.size(), filling(content), options);
}

auto status_of(std::filesystem::path const& path) -> struct stat {
  struct stat status{};
  BOOST_REQUIRE(::stat(path.c_str(), &status) == 0);
  return status;
}

} // namespace

BOOST_AUTO_TEST_SUITE(replacing_a_file)

BOOST_AUTO_TEST_CASE(gives_new_content_and_leaves_nothing_else) {
  scratch const s;
  auto const path = s.file("f", "old content");
  for (std::size_t const size : {0U, 1U, 4096U, 100'000U}) {
    or_throw(replace(path, pattern(size)));
    BOOST_TEST((read_back(path) == pattern(size)));
    BOOST_TEST(entries_in(s.folder()) == 1);
  }
}

BOOST_AUTO_TEST_CASE(hands_out_zero_bytes_with_blocks_behind_them) {
  scratch const s;
  bool zeros = false;
  or_throw(fmmap::replace_file(s / "f", 100'000, [&](std::span<std::byte> fresh) {
    zeros = fresh.size() == 100'000 && std::ranges::all_of(fresh, [](std::byte b) { return b == std::byte{0}; });
  }));
  BOOST_TEST(zeros);
  BOOST_TEST(status_of(s / "f").st_blocks * 512 >= 100'000);
}

BOOST_AUTO_TEST_CASE(creates_a_missing_file_with_the_permissions_asked_for) {
  scratch const s;
  BOOST_TEST(found_in_child([&](findings& found) {
               ::umask(022);
               or_throw(replace(s / "a", "abc"));
               or_throw(replace(s / "b", "abc", {.permissions = 0666}));
               found.expect((status_of(s / "a").st_mode & 07777) == 0600, "0600 by default");
               found.expect((status_of(s / "b").st_mode & 07777) == 0644, "narrowed by the umask");
             }) == "");
  BOOST_TEST(read_back(s / "a") == "abc");
  BOOST_TEST(entries_in(s.folder()) == 2);
}

BOOST_AUTO_TEST_CASE(keeps_permissions) {
  scratch const s;
  for (mode_t const mode : {0400U, 0644U, 0751U, 04711U, 0000U}) {
    auto const path = s.file("f" + std::to_string(mode), "old");
    BOOST_REQUIRE(::chmod(path.c_str(), mode) == 0);
    or_throw(replace(path, "new", {.permissions = 0666}));
    BOOST_TEST((status_of(path).st_mode & 07777) == mode);
    BOOST_TEST(status_of(path).st_size == 3);
  }
}

BOOST_AUTO_TEST_CASE(keeps_the_owner_or_is_refused) {
  if (!is_root()) {
    skip("files of several owners need root");
    return;
  }
  scratch const s;
  auto const path = s.file("f", "old");
  BOOST_REQUIRE(::chown(path.c_str(), 12, 34) == 0);
  BOOST_REQUIRE(::chmod(path.c_str(), 06755) == 0);
  or_throw(replace(path, "new"));
  BOOST_TEST(status_of(path).st_uid == 12U);
  BOOST_TEST(status_of(path).st_gid == 34U);
  BOOST_TEST((status_of(path).st_mode & 07777) == 06755U);
  ::chmod(s.folder().c_str(), 0777);
  auto const identity = or_throw(file::open(path)).identity();
  BOOST_TEST(found_in_child([&](findings& found) {
               std::filesystem::current_path(s.folder());
               found.expect(become_ordinary_user(), "drop to an ordinary user");
               found.expect(fails(replace("f", "newer"), std::errc::operation_not_permitted), "refused");
             }) == "");
  BOOST_TEST(read_back(path) == "new");
  BOOST_TEST((or_throw(file::open(path)).identity() == identity));
  BOOST_TEST(entries_in(s.folder()) == 1);
}

BOOST_AUTO_TEST_CASE(follows_links_and_keeps_them) {
  scratch const s;
  std::filesystem::create_directory(s / "a");
  std::filesystem::create_directory(s / "b");
  (void)s.file("b/f", "old");
  std::filesystem::create_symlink("../b/middle", s / "a/first");
  std::filesystem::create_symlink(s / "b/f", s / "b/middle");
  std::filesystem::create_symlink("a/first", s / "link");
  or_throw(replace(s / "link", "new"));
  BOOST_TEST(read_back(s / "b/f") == "new");
  BOOST_TEST(std::filesystem::is_symlink(s / "link"));
  BOOST_TEST(std::filesystem::is_symlink(s / "a/first"));
  BOOST_TEST(std::filesystem::is_symlink(s / "b/middle"));
  std::filesystem::create_symlink("b/created", s / "dangling");
  or_throw(replace(s / "dangling", "created"));
  BOOST_TEST(read_back(s / "b/created") == "created");
  std::filesystem::create_symlink("loop", s / "loop");
  BOOST_TEST(fails(replace(s / "loop", "x"), std::errc::too_many_symbolic_link_levels));
  BOOST_TEST(entries_in(s.folder()) == 5);
}

BOOST_AUTO_TEST_CASE(refuses_what_is_not_a_file) {
  scratch const s;
  std::filesystem::create_directory(s / "folder");
  BOOST_REQUIRE(::mkfifo((s / "fifo").c_str(), 0600) == 0);
  (void)s.file("f", "abc");
  BOOST_TEST(fails(replace(s / "folder", "x"), errc::not_a_regular_file));
  BOOST_TEST(fails(replace(s / "fifo", "x"), errc::not_a_regular_file));
  BOOST_TEST(fails(replace(s / ".", "x"), errc::not_a_regular_file));
  BOOST_TEST(fails(replace(s / "f/", "x"), std::errc::not_a_directory));
  BOOST_TEST(fails(replace(s / "f/x", "x"), std::errc::not_a_directory));
  BOOST_TEST(fails(replace(s / "none/x", "x"), std::errc::no_such_file_or_directory));
  BOOST_TEST(fails(replace("", "x"), std::errc::no_such_file_or_directory));
  BOOST_TEST(fails(replace(s.folder() / std::string_view{"f\0x", 3}, "x"), std::errc::invalid_argument));
  BOOST_TEST(fails(replace(s / std::string(256, 'x'), "x"), std::errc::filename_too_long));
  BOOST_TEST(entries_in(s.folder()) == 3);
  BOOST_TEST(read_back(s / "f") == "abc");
}

BOOST_AUTO_TEST_CASE(takes_names_of_every_length) {
  scratch const s;
  for (std::size_t const length : {1U, 243U, 244U, 245U, 254U, 255U}) {
    or_throw(replace(s / std::string(length, 'x'), "abc"));
    or_throw(replace(s / std::string(length, 'x'), "abcd"));
    BOOST_TEST(read_back(s / std::string(length, 'x')) == "abcd");
  }
  BOOST_TEST(entries_in(s.folder()) == 6);
}

BOOST_AUTO_TEST_CASE(leaves_everything_as_it_was_when_the_filler_throws) {
  scratch const s;
  auto const path = s.file("f", "old");
  struct thrown {};
  for (std::size_t const size : {0U, 10'000U}) {
    BOOST_CHECK_THROW((void)fmmap::replace_file(path, size, [](std::span<std::byte>) { throw thrown{}; }), thrown);
    armed const table;
    seam::fail_nth(4, EOPNOTSUPP); // no unnamed files
    BOOST_CHECK_THROW((void)fmmap::replace_file(s / "g", size, [](std::span<std::byte>) { throw thrown{}; }), thrown);
  }
  BOOST_TEST(read_back(path) == "old");
  BOOST_TEST(entries_in(s.folder()) == 1);
}

BOOST_AUTO_TEST_CASE(leaves_old_content_to_who_has_it_open) {
  scratch const s;
  auto const path = s.file("f", pattern(10'000));
  auto const f = or_throw(file::open(path));
  auto const m = or_throw(fmmap::mapping::map(f));
  or_throw(replace(path, "new"));
  BOOST_TEST((text_of(m.bytes()) == pattern(10'000)));
  BOOST_TEST(or_throw(f.size()) == 10'000U);
  BOOST_TEST(or_throw(f.metadata()).links == 0U);
}

BOOST_AUTO_TEST_CASE(syncs_the_content_before_the_name_and_the_name_when_asked) {
  scratch const s;
  auto const path = s.file("f", "old");
  for (auto const& [level, syncs] : std::vector<std::pair<durability, int>>{
           {durability::none, 1}, {durability::written, 1}, {durability::data, 2}, {durability::all, 2}}) {
    armed const table;
    or_throw(replace(path, "new", {.level = level}));
    auto const calls = seam::calls();
    BOOST_TEST(std::ranges::count(calls, os::call::fsync) == syncs);
    BOOST_TEST((std::ranges::find(calls, os::call::fsync) < std::ranges::find(calls, os::call::renameat)));
  }
}

BOOST_AUTO_TEST_CASE(leaves_old_or_new_and_nothing_else_when_it_fails_at_any_call) {
  // Whether or not the file system knows unnamed files: their open is the one that carries O_TMPFILE.
  for (bool const existing : {true, false}) {
    for (int const code : {EIO, ENOSPC, EOPNOTSUPP}) {
      for (std::uint64_t n = 1;; ++n) {
        scratch const s;
        if (existing) {
          (void)s.file("f", "old");
        }
        bool done = false;
        bool injected = false;
        bool renamed = false;
        {
          armed const table;
          seam::fail_nth(n, code);
          done = replace(s / "f", "new").has_value();
          injected = seam::injected() > 0;
          renamed = std::ranges::count(seam::calls(), os::call::renameat) > 0;
        }
        BOOST_TEST_CONTEXT("call " << n << " errno " << code) {
          auto const now = read_back(s / "f");
          auto const before = existing ? "old" : "";
          BOOST_TEST((done ? now == "new" : now == before || (renamed && now == "new")));
          BOOST_TEST(entries_in(s.folder()) == (now.empty() ? 0 : 1));
        }
        if (!injected) {
          BOOST_TEST(n > 10U);
          break;
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(works_on_file_systems_without_unnamed_files_or_without_allocation) {
  scratch const s;
  auto const path = s.file("f", "old");
  for (int const code : {EOPNOTSUPP, EISDIR, EINVAL}) {
    armed const table;
    seam::fail_nth(4, code); // openat of the folder, fstatat twice, openat with O_TMPFILE
    or_throw(replace(path, "unnamed " + std::to_string(code)));
    BOOST_TEST(seam::injected() == 1U);
    BOOST_TEST(std::ranges::count(seam::calls(), os::call::linkat) == 0);
    BOOST_TEST(read_back(path) == "unnamed " + std::to_string(code));
  }
  armed const table;
  seam::fail(os::call::fallocate, EOPNOTSUPP);
  or_throw(replace(path, pattern(10'000)));
  BOOST_TEST((read_back(path) == pattern(10'000)));
  BOOST_TEST(entries_in(s.folder()) == 1);
}

BOOST_AUTO_TEST_CASE(killed_at_any_call_leaves_old_or_new_and_the_next_call_clears_what_is_left) {
  for (bool const after : {false, true}) {
    int leftovers = 0;
    int survived = 0;
    for (std::uint64_t n = 1; survived == 0 && n < 100; ++n) {
      scratch const s;
      auto const path = s.file("f", "old");
      auto const child = start_child([&] {
        seam::arm();
        seam::kill_at(n, after);
        or_throw(replace(path, "new content"));
        return 0;
      });
      auto const end = end_of(child);
      survived += end == 0 ? 1 : 0;
      BOOST_TEST_CONTEXT("call " << n) {
        BOOST_TEST((end == 0 || end == -SIGKILL));
        auto const now = read_back(path);
        BOOST_TEST((now == "old" || now == "new content"));
        leftovers += entries_in(s.folder()) > 1 ? 1 : 0;
        or_throw(replace(path, "newer"));
        BOOST_TEST(read_back(path) == "newer");
        BOOST_TEST(entries_in(s.folder()) == 1);
      }
    }
    BOOST_TEST(survived == 1);
    BOOST_TEST(leftovers > 0); // else this test would show nothing
  }
}

BOOST_AUTO_TEST_CASE(clears_what_a_kill_left_also_without_unnamed_files) {
  scratch const s;
  auto const path = s.file("f", "old");
  auto const child = start_child([&] {
    seam::arm();
    seam::fail_nth(4, EOPNOTSUPP);
    (void)fmmap::replace_file(path, 100, [](std::span<std::byte>) { ::raise(SIGKILL); });
    return 0;
  });
  BOOST_TEST(end_of(child) == -SIGKILL);
  BOOST_TEST(entries_in(s.folder()) == 2);
  BOOST_TEST(read_back(path) == "old");
  armed const table;
  seam::fail_nth(4, EOPNOTSUPP);
  or_throw(replace(path, "new"));
  BOOST_TEST(entries_in(s.folder()) == 1);
  BOOST_TEST(read_back(path) == "new");
}

BOOST_AUTO_TEST_CASE(goes_on_while_another_replacement_is_being_filled) {
  scratch const s;
  auto const path = s.file("f", "old");
  armed const table;
  seam::fail_nth(4, EOPNOTSUPP); // no unnamed files: the name is held all the time
  or_throw(fmmap::replace_file(path, 5, [&](std::span<std::byte> outer) {
    BOOST_TEST(entries_in(s.folder()) == 2);
    for (bool const unnamed : {true, false}) {
      seam::arm();
      if (!unnamed) {
        seam::fail_nth(4, EOPNOTSUPP);
      }
      or_throw(replace(path, unnamed ? "unnamed" : "named"));
      BOOST_TEST(read_back(path) == (unnamed ? "unnamed" : "named"));
      BOOST_TEST(entries_in(s.folder()) == 2);
    }
    std::ranges::copy(bytes_of("outer"), outer.begin());
  }));
  BOOST_TEST(read_back(path) == "outer");
  BOOST_TEST(entries_in(s.folder()) == 1);
}

BOOST_AUTO_TEST_CASE(goes_on_though_something_else_has_the_temporary_name_and_leaves_it) {
  for (bool const unnamed : {true, false}) {
    for (std::string const& what : {"link", "folder", "fifo", "file of mode 0000", "another user's file"}) {
      scratch const s;
      auto const path = s.file("f", "old");
      auto const name = s / ".f.fmmap-new";
      ::chmod(s.folder().c_str(), 01777);
      ::chmod(path.c_str(), 0666);
      if (what == "link") {
        std::filesystem::create_symlink("f", name);
      } else if (what == "folder") {
        std::filesystem::create_directory(name);
      } else if (what == "fifo") {
        BOOST_REQUIRE(::mkfifo(name.c_str(), 0666) == 0);
      } else {
        (void)s.file(".f.fmmap-new", "other");
        ::chmod(name.c_str(), what == "another user's file" ? 0644 : 0000);
      }
      BOOST_TEST_CONTEXT(what << (unnamed ? "" : ", without unnamed files")) {
        BOOST_TEST(found_in_child([&](findings& found) {
                     std::filesystem::current_path(s.folder());
                     if (is_root()) {
                       if (::chown("f", 65534, 65534) != 0 || !become_ordinary_user()) {
                         found.expect(false, "drop to an ordinary user");
                       }
                     } else if (what == "another user's file") {
                       found.skip("files of several users need root");
                       return;
                     }
                     for (int i = 0; i < 2; ++i) {
                       armed const table;
                       if (!unnamed) {
                         seam::fail_nth(4, EOPNOTSUPP);
                       }
                       auto const replaced = replace("f", "new");
                       found.expect(replaced.has_value(), replaced ? "" : replaced.error().message());
                       found.expect(read_back("f") == "new", "content");
                     }
                   }) == "");
        BOOST_TEST(entries_in(s.folder()) == 2);
        BOOST_TEST(std::filesystem::exists(std::filesystem::symlink_status(name)));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(is_busy_when_all_temporary_names_are_taken) {
  scratch const s;
  auto const path = s.file("f", "old");
  std::filesystem::create_directory(s / ".f.fmmap-new");
  for (int i = 1; i < 100; ++i) {
    std::filesystem::create_directory(s / (".f.fmmap-new-" + std::to_string(i)));
  }
  BOOST_TEST(fails(replace(path, "new"), std::errc::device_or_resource_busy));
  std::filesystem::remove(s / ".f.fmmap-new-99");
  (void)s.file(".f.fmmap-new-99", "left by a crash");
  or_throw(replace(path, "new"));
  BOOST_TEST(entries_in(s.folder()) == 100);
}

BOOST_AUTO_TEST_CASE(by_several_processes_at_once_shows_readers_whole_content_only) {
  scratch const s{memory_folder()};
  auto const path = s.file("f", std::string(3000, 'a'));
  constexpr int rounds = 200;
  auto const replacer = [&](char mark) {
    return start_child([&, mark] {
      for (int i = 0; i < rounds; ++i) {
        or_throw(
            replace(path, std::string(static_cast<std::size_t>(1000 + i * 13), mark), {.level = durability::none}));
      }
      return 0;
    });
  };
  auto const first = replacer('b');
  auto const second = replacer('c');
  int looks = 0;
  bool whole = true;
  int ended = 0;
  while (ended < 2) {
    auto const view = or_throw(fmmap::file_view::open(path));
    auto const text = text_of(view.bytes());
    whole = whole && text.size() >= 1000 && text.find_first_not_of(text.front()) == std::string_view::npos;
    ++looks;
    siginfo_t info{};
    ended = 0;
    for (auto const child : {first, second}) {
      info.si_pid = 0;
      ended +=
          ::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == child
              ? 1
              : 0;
    }
  }
  BOOST_TEST(end_of(first) == 0);
  BOOST_TEST(end_of(second) == 0);
  BOOST_TEST(whole);
  BOOST_TEST(looks > 10);
  BOOST_TEST(read_back(path).size() == 1000U + (rounds - 1) * 13U);
  BOOST_TEST(entries_in(s.folder()) == 1);
}

BOOST_AUTO_TEST_SUITE_END()
