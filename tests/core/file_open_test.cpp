// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <expected>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "support/mounts.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;

using fmmap::access;
using fmmap::errc;
using fmmap::file;
using fmmap::open_options;
using fmmap::or_throw;
using fmmap::symlinks;
namespace os = fmmap::os;
namespace seam = fmmap::os::seam;
using seam::armed;

namespace {

auto entries_in(scratch const& s) -> std::ptrdiff_t {
  return std::ranges::distance(std::filesystem::directory_iterator{s.folder()});
}

// With the system's openat2, and on a system that looks as if it had none.
void with_and_without_openat2(auto body) {
  for (bool const absent : {false, true}) {
    BOOST_TEST_CONTEXT((absent ? "without openat2" : "with openat2")) {
      armed const table;
      if (absent) {
        seam::pretend_absent(os::call::openat2);
      }
      body(absent);
    }
  }
}

constexpr open_options writing{.access = access::read_write};
constexpr open_options creating{.access = access::read_write, .create = true};

} // namespace

BOOST_AUTO_TEST_SUITE(opening_a_file)

BOOST_AUTO_TEST_CASE(names_it_as_it_was_asked_for) {
  scratch const s;
  auto const f = or_throw(file::open(s.file("f", "abc")));
  BOOST_TEST(f.path() == (s / "f").native());
  auto const missing = file::open(s / "missing");
  BOOST_REQUIRE(fails(missing, std::errc::no_such_file_or_directory));
  BOOST_TEST(missing.error().path() == (s / "missing").native());
  BOOST_TEST(fails(file::open(""), std::errc::no_such_file_or_directory));
}

BOOST_AUTO_TEST_CASE(creates_it_on_request_with_permissions_that_the_umask_narrows) {
  scratch const s;
  BOOST_TEST(found_in_child([&](findings& found) {
               auto const mode = [](file const& f) { return or_throw(f.metadata()).permissions; };
               ::umask(0);
               found.expect(mode(or_throw(file::open(s / "a", creating))) == 0600, "0600 by default");
               found.expect(mode(or_throw(file::create_new(s / "b"))) == 0600, "0600 by default of create_new");
               auto wide = creating;
               wide.permissions = 0666;
               found.expect(mode(or_throw(file::open(s / "c", wide))) == 0666, "as asked");
               ::umask(027);
               found.expect(mode(or_throw(file::create_new(s / "d", {.permissions = 0666}))) == 0640, "umask 027");
               ::umask(0777);
               auto f = or_throw(file::create_new(s / "e"));
               found.expect(mode(f) == 0, "umask 0777");
               or_throw(f.write_at(0, bytes_of("abc")));
             }) == "");
  BOOST_TEST(std::filesystem::file_size(s / "e") == 3U);
}

BOOST_AUTO_TEST_CASE(leaves_an_existing_file_as_it_is_also_with_create) {
  scratch const s;
  auto const path = s.file("f", "abc");
  BOOST_TEST(or_throw(or_throw(file::open(path, creating)).size()) == 3U);
  BOOST_TEST(fails(file::create_new(path), std::errc::file_exists));
  BOOST_TEST(fails(file::create_new(s.folder()), std::errc::file_exists));
  BOOST_TEST(read_back(path) == "abc");
}

BOOST_AUTO_TEST_CASE(refuses_options_that_contradict_each_other_and_creates_nothing) {
  scratch const s;
  BOOST_TEST(fails(file::open(s / "f", {.create = true}), errc::invalid_options));
  BOOST_TEST(fails(file::open(s / "f", {.access = access::copy_on_write, .create = true}), errc::invalid_options));
  BOOST_TEST(entries_in(s) == 0);
}

BOOST_AUTO_TEST_CASE(refuses_what_is_not_a_regular_file_without_blocking) {
  scratch const s;
  BOOST_REQUIRE(::mkfifo((s / "fifo").c_str(), 0600) == 0);
  for (auto const& path :
       {s / "fifo", s.folder(), std::filesystem::path{"/dev/zero"}, std::filesystem::path{"/dev/null"}}) {
    BOOST_TEST_CONTEXT(path) { BOOST_TEST(fails(file::open(path), errc::not_a_regular_file)); }
  }
  BOOST_TEST(fails(file::open(s / "fifo", writing), errc::not_a_regular_file));
  BOOST_TEST(fails(file::open("/dev/zero", writing), errc::not_a_regular_file));
  BOOST_TEST(fails(file::open(s.folder(), writing), std::errc::is_a_directory));
  BOOST_TEST(fails(file::open(s.folder(), creating), std::errc::is_a_directory));
}

BOOST_AUTO_TEST_CASE(refuses_a_socket) {
  scratch const s;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  auto const here = std::filesystem::current_path();
  std::filesystem::current_path(s.folder()); // the name of a socket is short
  std::string_view{"socket"}.copy(address.sun_path, sizeof address.sun_path);
  auto const descriptor = ::socket(AF_UNIX, SOCK_STREAM, 0);
  auto const bound = ::bind(descriptor, reinterpret_cast<sockaddr const*>(&address), sizeof address);
  std::filesystem::current_path(here);
  BOOST_REQUIRE(bound == 0);
  BOOST_TEST(fails(file::open(s / "socket"), std::errc::no_such_device_or_address));
  BOOST_TEST(fails(file::open(s / "socket", {.any_type = true}), std::errc::no_such_device_or_address));
  ::close(descriptor);
}

BOOST_AUTO_TEST_CASE(takes_any_type_on_request_without_blocking) {
  scratch const s;
  BOOST_REQUIRE(::mkfifo((s / "fifo").c_str(), 0600) == 0);
  auto const fifo = or_throw(file::open(s / "fifo", {.any_type = true}));
  BOOST_TEST((or_throw(fifo.metadata()).type == fmmap::file_type::fifo));
  BOOST_TEST((::fcntl(fifo.native_handle(), F_GETFL) & O_NONBLOCK) == 0);
  auto const folder = or_throw(file::open(s.folder(), {.any_type = true}));
  BOOST_TEST((or_throw(folder.metadata()).type == fmmap::file_type::directory));
  auto const zero = or_throw(file::open("/dev/zero", {.access = access::read_write, .any_type = true}));
  BOOST_TEST((or_throw(zero.metadata()).type == fmmap::file_type::character_device));
  std::vector<std::byte> got(10, std::byte{1});
  BOOST_TEST(or_throw(zero.read_at(0, got)) == 10U);
  BOOST_TEST((text_of(got) == std::string(10, '\0')));
}

BOOST_AUTO_TEST_CASE(waits_for_whoever_holds_a_lease_on_it) {
  scratch const s;
  auto const path = s.file("f", "abc");
  BOOST_TEST(found_in_child([&](findings& found) {
               int ends[2];
               found.expect(::pipe(ends) == 0, "a pipe");
               ::alarm(60); // and not for ever
               // A server with a lease: asked by the system to give it up, it takes a while.
               auto const server = start_child([&] {
                 sigset_t asked;
                 ::sigemptyset(&asked);
                 ::sigaddset(&asked, SIGIO);
                 ::sigprocmask(SIG_BLOCK, &asked, nullptr); // whatever comes when
                 auto const descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
                 for (int i = 0; i < 3; ++i) {
                   char const answer = ::fcntl(descriptor, F_SETLEASE, F_WRLCK) == 0 ? 'y' : 'n';
                   (void)!::write(ends[1], &answer, 1);
                   if (answer == 'n') {
                     break;
                   }
                   timespec const longest{.tv_sec = 5, .tv_nsec = 0};
                   ::sigtimedwait(&asked, nullptr, &longest);
                   ::usleep(50'000);
                   ::fcntl(descriptor, F_SETLEASE, F_UNLCK);
                   ::usleep(200'000); // until nobody else has the file open
                 }
                 return 0;
               });
               for (int i = 0; i < 3; ++i) {
                 char answer = 'n';
                 (void)!::read(ends[0], &answer, 1);
                 if (answer == 'n') {
                   found.skip("no leases on this file system");
                   break;
                 }
                 if (i == 0) {
                   found.expect(or_throw(or_throw(file::open(path)).size()) == 3, "open");
                 } else if (i == 1) {
                   auto const folder = or_throw(file::open(s.folder(), {.any_type = true}));
                   auto f = or_throw(file::open_at(folder, "f", {.access = access::read_write, .beneath = true}));
                   or_throw(f.write_at(0, bytes_of("xyz")));
                 } else {
                   found.expect(text_of(or_throw(fmmap::file_view::open(path)).bytes()) == "xyz", "view");
                 }
               }
               found.expect(end_of(server) == 0, "the server");
             }) == "");
}

BOOST_AUTO_TEST_CASE(that_would_have_to_wait_for_anything_else_does_not) {
  scratch const s;
  BOOST_REQUIRE(::mkfifo((s / "fifo").c_str(), 0600) == 0);
  (void)s.file("f", "abc");
  armed const table;
  seam::fail(os::call::openat, EAGAIN, 1);
  BOOST_TEST(fails(file::open(s / "fifo", {.any_type = true}), std::errc::resource_unavailable_try_again));
  seam::fail(os::call::openat, EAGAIN, 1);
  BOOST_TEST(fails(fmmap::file_view::open(s / "fifo"), std::errc::resource_unavailable_try_again));
  seam::fail(os::call::openat, EAGAIN, 1);
  BOOST_TEST(file::open(s / "f").has_value());
  seam::fail(os::call::openat, EAGAIN);
  BOOST_TEST(fails(file::open(s / "f"), std::errc::resource_unavailable_try_again));
}

BOOST_AUTO_TEST_CASE(takes_a_file_of_proc_that_says_it_is_empty) {
  auto const f = or_throw(file::open("/proc/version"));
  BOOST_TEST(or_throw(f.size()) == 0U);
  std::vector<std::byte> got(100'000);
  BOOST_TEST(text_of(got).substr(0, or_throw(f.read_at(0, got))) == read_back("/proc/version"));
  BOOST_TEST(or_throw(fmmap::mapping::map(f)).empty());
}

BOOST_AUTO_TEST_CASE(measures_a_block_device) {
  if (!is_root()) {
    skip("a block device needs root");
    return;
  }
  scratch const s;
  std::filesystem::create_directory(s / "mount");
  BOOST_TEST(found_in_child([&](findings& found) {
               auto problem = own_mounts();
               if (problem.empty()) {
                 problem = mount_ext4(s / "image", s / "mount", 4 << 20);
               }
               if (!problem.empty()) {
                 found.skip("a block device: " + problem);
                 return;
               }
               struct stat status{};
               ::stat((s / "mount").c_str(), &status);
               auto const name =
                   "/dev/block/" + std::to_string(major(status.st_dev)) + ":" + std::to_string(minor(status.st_dev));
               auto const path =
                   std::filesystem::exists(name) ? name : "/dev/loop" + std::to_string(minor(status.st_dev));
               found.expect(fails(file::open(path), errc::not_a_regular_file), "refused unless asked for");
               auto const device = or_throw(file::open(path, {.any_type = true}));
               found.expect(or_throw(device.size()) == 4 << 20, "its size");
               found.expect(or_throw(device.metadata()).size == 4 << 20, "its size, with the rest");
               found.expect(or_throw(fmmap::mapping::map(device)).size() == 4 << 20, "mapped whole");
               ::umount2((s / "mount").c_str(), MNT_DETACH);
             }) == "");
}

BOOST_AUTO_TEST_CASE(treats_links_as_told_with_openat2_and_without) {
  scratch const s;
  std::filesystem::create_directory(s / "folder");
  (void)s.file("folder/f", "abc");
  std::filesystem::create_symlink("f", s / "folder/last");
  std::filesystem::create_directory_symlink("folder", s / "middle");
  with_and_without_openat2([&](bool) {
    BOOST_TEST(file::open(s / "folder/last").has_value());
    BOOST_TEST(file::open(s / "middle/f").has_value());
    BOOST_TEST(fails(file::open(s / "folder/last", {.symlinks = symlinks::refuse_last}), errc::symbolic_link));
    BOOST_TEST(file::open(s / "middle/f", {.symlinks = symlinks::refuse_last}).has_value());
    BOOST_TEST(fails(file::open(s / "folder/last", {.symlinks = symlinks::refuse_all}), errc::symbolic_link));
    BOOST_TEST(fails(file::open(s / "middle/f", {.symlinks = symlinks::refuse_all}), errc::symbolic_link));
    BOOST_TEST(fails(file::open(s / "middle/last", {.symlinks = symlinks::refuse_all}), errc::symbolic_link));
    auto const here = std::filesystem::current_path();
    std::filesystem::current_path(s.folder());
    BOOST_TEST(file::open("folder/f", {.symlinks = symlinks::refuse_all}).has_value());
    BOOST_TEST(file::open("./folder/../folder//f", {.symlinks = symlinks::refuse_all}).has_value());
    BOOST_TEST(fails(file::open("folder/f/", {.symlinks = symlinks::refuse_all}), std::errc::not_a_directory));
    BOOST_TEST(fails(file::open("folder/f/x", {.symlinks = symlinks::refuse_all}), std::errc::not_a_directory));
    BOOST_TEST(fails(file::open("none/f", {.symlinks = symlinks::refuse_all}), std::errc::no_such_file_or_directory));
    BOOST_TEST(fails(file::open("", {.symlinks = symlinks::refuse_all}), std::errc::no_such_file_or_directory));
    BOOST_TEST(
        fails(file::open("folder/last", {.symlinks = symlinks::refuse_all, .any_type = true}), errc::symbolic_link));
    BOOST_TEST(file::open("folder/", {.symlinks = symlinks::refuse_all, .any_type = true}).has_value());
    std::filesystem::current_path(here);
  });
}

BOOST_AUTO_TEST_CASE(creates_through_no_link_that_it_may_not_follow) {
  scratch const s;
  std::filesystem::create_directory(s / "folder");
  std::filesystem::create_directory_symlink("folder", s / "middle");
  with_and_without_openat2([&](bool absent) {
    auto options = creating;
    options.symlinks = symlinks::refuse_all;
    auto const name = absent ? "a" : "b";
    BOOST_TEST(fails(file::open(s / "middle" / name, options), errc::symbolic_link));
    BOOST_TEST(fails(file::create_new(s / "middle" / name, options), errc::symbolic_link));
    auto const real = std::filesystem::canonical(s.folder()) / "folder" / name;
    BOOST_TEST(file::open(real, options).has_value());
    BOOST_TEST(fails(file::create_new(real, options), std::errc::file_exists));
    BOOST_TEST(!file::create_new(s / "new/", options).has_value());
    BOOST_TEST((std::filesystem::status(real).permissions() == std::filesystem::perms{0600}));
  });
  BOOST_TEST(entries_in(s) == 2);
}

BOOST_AUTO_TEST_CASE(ends_at_a_dangling_link_also_when_it_is_to_create) {
  scratch const s;
  std::filesystem::create_symlink("nowhere", s / "dangling");
  std::filesystem::create_symlink("loop", s / "loop");
  with_and_without_openat2([&](bool) {
    for (auto const policy : {symlinks::follow, symlinks::refuse_last, symlinks::refuse_all}) {
      auto options = creating;
      options.symlinks = policy;
      BOOST_TEST(!file::open(s / "dangling", options).has_value());
      BOOST_TEST(!file::create_new(s / "dangling", options).has_value());
      BOOST_TEST(!file::open(s / "loop", options).has_value());
    }
    BOOST_TEST(fails(file::open(s / "dangling", creating), std::errc::no_such_file_or_directory));
    BOOST_TEST(fails(file::open(s / "loop"), std::errc::too_many_symbolic_link_levels));
  });
  BOOST_TEST(entries_in(s) == 2);
}

BOOST_AUTO_TEST_CASE(stays_beneath_the_directory_it_starts_from) {
  scratch const s;
  std::filesystem::create_directories(s / "top/inner");
  (void)s.file("outside", "secret");
  (void)s.file("top/f", "abc");
  (void)s.file("top/inner/g", "abc");
  std::filesystem::create_symlink("../outside", s / "top/out");
  std::filesystem::create_symlink(s / "outside", s / "top/absolute");
  std::filesystem::create_symlink("f", s / "top/in");
  auto const top = or_throw(file::open(s / "top", {.any_type = true}));
  with_and_without_openat2([&](bool absent) {
    open_options const beneath{.beneath = true};
    BOOST_TEST(file::open_at(top, "f", beneath).has_value());
    BOOST_TEST(file::open_at(top, "inner/g", beneath).has_value());
    BOOST_TEST(fails(file::open_at(top, "../outside", beneath), std::errc::cross_device_link));
    BOOST_TEST(fails(file::open_at(top, "inner/../../outside", beneath), std::errc::cross_device_link));
    BOOST_TEST(fails(file::open_at(top, s / "outside", beneath), std::errc::cross_device_link));
    BOOST_TEST(!file::open_at(top, "out", beneath).has_value());
    BOOST_TEST(!file::open_at(top, "absolute", beneath).has_value());
    BOOST_TEST(file::open_at(top, "in", beneath).has_value() == !absent);
    BOOST_TEST(
        fails(file::open_at(top, "in", {.symlinks = symlinks::refuse_all, .beneath = true}), errc::symbolic_link));
    auto options = creating;
    options.beneath = true;
    BOOST_TEST(fails(file::open_at(top, "../new", options), std::errc::cross_device_link));
    BOOST_TEST(!file::open_at(top, "out/new", options).has_value());
    BOOST_TEST(file::open_at(top, "inner/new", options).has_value());
    std::filesystem::remove(s / "top/inner/new");
  });
  BOOST_TEST(!std::filesystem::exists(s / "new"));
}

BOOST_AUTO_TEST_CASE(asks_again_when_a_rename_on_the_way_disturbs_it) {
  scratch const s;
  auto const top = or_throw(file::open(s.folder(), {.any_type = true}));
  (void)s.file("f", "abc");
  armed const table;
  seam::fail(os::call::openat2, EAGAIN, 3);
  BOOST_TEST(file::open_at(top, "f", {.beneath = true}).has_value());
  seam::fail(os::call::openat2, EAGAIN);
  BOOST_TEST(fails(file::open_at(top, "f", {.beneath = true}), std::errc::resource_unavailable_try_again));
}

BOOST_AUTO_TEST_CASE(starts_from_a_directory_whatever_the_working_directory_is) {
  scratch const s;
  (void)s.file("f", "abc");
  auto const top = or_throw(file::open(s.folder(), {.any_type = true}));
  auto const moved = std::filesystem::path{s.folder().native() + "-moved"};
  std::filesystem::rename(s.folder(), moved);
  BOOST_TEST(or_throw(or_throw(file::open_at(top, "f")).size()) == 3U);
  BOOST_TEST(file::open_at(top, "g", creating).has_value());
  std::filesystem::rename(moved, s.folder());
  BOOST_TEST(std::filesystem::exists(s / "g"));
  auto const plain = or_throw(file::open(s / "f"));
  BOOST_TEST(fails(file::open_at(plain, "f"), std::errc::not_a_directory));
  BOOST_TEST(fails(file::open_at(top, std::string_view{"f\0x", 3}), std::errc::invalid_argument));
}

BOOST_AUTO_TEST_CASE(refuses_names_that_are_no_names) {
  scratch const s;
  (void)s.file("f", "abc");
  std::filesystem::path const nul{s.folder() / std::string_view{"f\0x", 3}};
  BOOST_TEST(fails(file::open(nul), std::errc::invalid_argument));
  BOOST_TEST(fails(file::open(nul, creating), std::errc::invalid_argument));
  BOOST_TEST(fails(file::create_new(nul), std::errc::invalid_argument));
  auto const longest = s / std::string(255, 'x');
  auto const longer = s / std::string(256, 'x');
  BOOST_TEST(file::create_new(longest).has_value());
  BOOST_TEST(fails(file::create_new(longer), std::errc::filename_too_long));
  BOOST_TEST(fails(file::open(longer), std::errc::filename_too_long));
  std::string deep = s.folder();
  while (deep.size() < 5000) {
    deep += "/.";
  }
  BOOST_TEST(fails(file::open(deep + "/f"), std::errc::filename_too_long));
  BOOST_TEST(fails(file::open(deep + "/new", creating), std::errc::filename_too_long));
  auto const f = or_throw(file::open(s / "f"));
  BOOST_TEST(fails(f.clone_to(longer), std::errc::filename_too_long));
  BOOST_TEST(fails(f.clone_to(deep + "/new"), std::errc::filename_too_long));
  BOOST_TEST(entries_in(s) == 2);
}

BOOST_AUTO_TEST_CASE(respects_permissions) {
  scratch const s;
  auto const secret = s.file("secret", "abc");
  auto const readable = s.file("readable", "abc");
  ::chmod(s.folder().c_str(), 0755);
  ::chmod(secret.c_str(), 0000);
  ::chmod(readable.c_str(), 0444);
  BOOST_TEST(found_in_child([&](findings& found) {
               std::filesystem::current_path(s.folder());
               if (is_root()) {
                 found.expect(become_ordinary_user(), "drop to an ordinary user");
               } else {
                 ::chmod(".", 0555);
               }
               found.expect(fails(file::open("secret"), std::errc::permission_denied), "unreadable");
               found.expect(fails(file::open("readable", writing), std::errc::permission_denied), "unwritable");
               found.expect(fails(file::open("new", creating), std::errc::permission_denied),
                            "create in another's folder");
               found.expect(fails(file::create_new("new"), std::errc::permission_denied), "create_new");
               found.expect(fails(file::temporary("."), std::errc::permission_denied), "temporary");
               auto const f = file::open("readable");
               found.expect(f.has_value(), "readable");
               found.expect(f && fails(f->clone_to("new"), std::errc::permission_denied), "clone");
               found.expect(fails(fmmap::file_view::open("secret"), std::errc::permission_denied), "view");
               found.expect(fails(fmmap::mutable_mapped_file::open("readable"), std::errc::permission_denied), "map");
               found.expect(fmmap::mutable_mapped_file::open_copy_on_write("readable").has_value(), "copy on write");
               found.expect(
                   fails(fmmap::replace_file("readable", 1, [](std::span<std::byte>) {}), std::errc::permission_denied),
                   "replace");
             }) == "");
  ::chmod(s.folder().c_str(), 0755);
  BOOST_TEST(entries_in(s) == 2);
}

BOOST_AUTO_TEST_CASE(and_everything_with_names_works_in_a_directory_that_may_be_written_but_not_read) {
  scratch const s;
  std::filesystem::create_directory(s / "drop");
  ::chmod(s.folder().c_str(), 0755);
  ::chmod((s / "drop").c_str(), 0333);
  BOOST_TEST(found_in_child([&](findings& found) {
               std::filesystem::current_path(s.folder());
               if (is_root()) {
                 found.expect(become_ordinary_user(), "drop to an ordinary user");
               }
               auto const fill = [](std::span<std::byte> bytes) { std::ranges::fill(bytes, std::byte{'x'}); };
               auto const calls_of = [](os::call which) { return std::ranges::count(seam::calls(), which); };
               armed const table;
               for (auto const level : {fmmap::durability::none, fmmap::durability::data}) {
                 auto const replaced = fmmap::replace_file("drop/replaced", 3, fill, {.level = level});
                 found.expect(replaced.has_value(), "replace");
                 auto options = creating;
                 options.sync_directory = level != fmmap::durability::none;
                 auto created = file::open("drop/f", options);
                 found.expect(created.has_value(), "create");
                 found.expect(created && created->clone_to("drop/copy", {.level = level}).has_value(), "clone");
                 found.expect(calls_of(os::call::syncfs) == (options.sync_directory ? 3 : 0), "what is synced");
                 seam::arm();
                 found.expect(created && created->remove().has_value(), "remove");
                 found.expect(calls_of(os::call::syncfs) == 1, "is durable, whatever it takes");
                 auto copy = file::open("drop/copy");
                 found.expect(copy && copy->remove().has_value(), "remove the copy");
                 seam::arm();
                 seam::fail(os::call::syncfs, EIO);
                 auto again = or_throw(file::open("drop/f", creating));
                 found.expect(fails(again.remove(), std::errc::io_error), "a failed sync");
                 seam::arm();
                 or_throw(again.remove());
                 seam::arm();
               }
             }) == "");
  ::chmod((s / "drop").c_str(), 0755);
  BOOST_TEST(read_back(s / "drop/replaced") == "xxx");
  BOOST_TEST(std::ranges::distance(std::filesystem::directory_iterator{s / "drop"}) == 1);
}

BOOST_AUTO_TEST_CASE(respects_a_read_only_file_system) {
  scratch const s;
  std::filesystem::create_directory(s / "mount");
  BOOST_TEST(found_in_child([&](findings& found) {
               auto const mount = s / "mount";
               auto problem = own_mounts();
               if (problem.empty()) {
                 problem = mount_tmpfs(mount, "size=1m");
               }
               if (!problem.empty()) {
                 found.skip("a read-only file system: " + problem);
                 return;
               }
               {
                 auto f = or_throw(file::create_new(mount / "f"));
                 or_throw(f.write_at(0, bytes_of("abc")));
               }
               ::mount("none", mount.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr);
               found.expect(fails(file::open(mount / "f", writing), std::errc::read_only_file_system),
                            "open for writing");
               found.expect(fails(file::create_new(mount / "g"), std::errc::read_only_file_system), "create");
               found.expect(fails(file::temporary(mount), std::errc::read_only_file_system), "temporary");
               auto f = or_throw(file::open(mount / "f"));
               found.expect(fails(f.remove(), std::errc::read_only_file_system), "remove");
               found.expect(fails(f.clone_to(mount / "g"), std::errc::read_only_file_system), "clone");
               found.expect(fails(fmmap::replace_file(mount / "f", 1, [](std::span<std::byte>) {}),
                                  std::errc::read_only_file_system),
                            "replace");
               found.expect(read_back(mount / "f") == "abc", "content");
             }) == "");
}

BOOST_AUTO_TEST_CASE(reports_a_full_table_of_descriptors_and_leaves_no_file) {
  scratch const s;
  auto const path = s.file("f", "abc");
  BOOST_TEST(found_in_child([&](findings& found) {
               auto const f = or_throw(file::open(path));
               limit(RLIMIT_NOFILE, static_cast<rlim_t>(f.native_handle()) + 1);
               std::vector<int> taken;
               for (int next = 0; (next = ::dup(0)) >= 0;) {
                 taken.push_back(next);
               }
               constexpr auto full = std::errc::too_many_files_open;
               found.expect(fails(file::open(path), full), "open");
               found.expect(fails(file::create_new(s / "g"), full), "create_new");
               found.expect(fails(file::temporary(s.folder()), full), "temporary");
               found.expect(fails(file::in_memory("m"), full), "in_memory");
               found.expect(fails(f.clone_to(s / "g"), full), "clone_to");
               found.expect(fails(fmmap::file_view::open(path), full), "file_view");
               found.expect(fails(fmmap::mutable_mapped_file::create(s / "g", {.size = 10}), full),
                            "mutable_mapped_file");
               found.expect(fails(fmmap::replace_file(path, 1, [](std::span<std::byte>) {}), full), "replace_file");
             }) == "");
  BOOST_TEST(entries_in(s) == 1);
  BOOST_TEST(read_back(path) == "abc");
}

BOOST_AUTO_TEST_CASE(leaves_no_file_when_creating_fails_at_any_call) {
  scratch const s;
  for (bool const exclusive : {false, true}) {
    for (std::uint64_t n = 1;; ++n) {
      bool made = false;
      bool injected = false;
      {
        armed const table;
        seam::fail_nth(n, EIO);
        auto options = creating;
        options.sync_directory = true;
        made = exclusive ? file::create_new(s / "f", options).has_value() : file::open(s / "f", options).has_value();
        injected = seam::injected() > 0;
      }
      BOOST_TEST_CONTEXT("call " << n) { BOOST_TEST(std::filesystem::exists(s / "f") == made); }
      std::filesystem::remove(s / "f");
      if (!injected) {
        BOOST_TEST(n > 4U);
        break;
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(makes_a_new_name_durable_only_when_asked_and_only_when_new) {
  scratch const s;
  auto options = creating;
  options.sync_directory = true;
  armed const table;
  BOOST_TEST(file::open(s / "a", creating).has_value());
  BOOST_TEST(std::ranges::count(seam::calls(), os::call::fsync) == 0);
  BOOST_TEST(file::open(s / "b", options).has_value());
  BOOST_TEST(std::ranges::count(seam::calls(), os::call::fsync) == 1);
  BOOST_TEST(file::open(s / "b", options).has_value());
  BOOST_TEST(std::ranges::count(seam::calls(), os::call::fsync) == 1);
}

BOOST_AUTO_TEST_CASE(opens_again_what_appears_between_its_two_looks) {
  scratch const s;
  (void)s.file("f", "abc");
  armed const table;
  seam::fail(os::call::openat, ENOENT, 1); // as if it had been missing at the first
  auto const f = or_throw(file::open(s / "f", creating));
  BOOST_TEST(or_throw(f.size()) == 3U);
}

BOOST_AUTO_TEST_CASE(goes_on_when_a_signal_interrupts_it) {
  scratch const s;
  (void)s.file("f", "abc");
  auto const top = or_throw(file::open(s.folder(), {.any_type = true}));
  armed const table;
  seam::fail(os::call::openat, EINTR, 3);
  BOOST_TEST(file::open(s / "f").has_value());
  seam::fail(os::call::openat2, EINTR, 3);
  BOOST_TEST(file::open_at(top, "f", {.beneath = true}).has_value());
}

BOOST_AUTO_TEST_CASE(gives_descriptors_that_close_on_exec) {
  scratch const s;
  auto const path = s.file("f", "abc");
  auto const top = or_throw(file::open(s.folder(), {.any_type = true}));
  auto const opened = or_throw(file::open(path));
  auto const created = or_throw(file::create_new(s / "g"));
  auto const unnamed = or_throw(file::temporary(s.folder()));
  auto const memory = or_throw(file::in_memory("m"));
  auto const resolved = or_throw(file::open_at(top, "f", {.beneath = true}));
  auto const mapped = or_throw(fmmap::mutable_mapped_file::open(path));
  for (auto const* const f : {&top, &opened, &created, &unnamed, &memory, &resolved}) {
    BOOST_TEST(::fcntl(f->native_handle(), F_GETFD) == FD_CLOEXEC);
  }
  armed const table;
  seam::pretend_absent(os::call::openat2);
  auto const stepped = or_throw(file::open_at(top, "f", {.beneath = true}));
  BOOST_TEST(::fcntl(stepped.native_handle(), F_GETFD) == FD_CLOEXEC);
  // And in a program that runs after an exec there are none but those it was started with.
  std::string const script =
      "for d in /proc/self/fd/*; do readlink $d; done | grep -q -e '" + s.folder().native() + "/'";
  auto const child = start_child([&] {
    ::execl("/bin/sh", "sh", "-c", script.c_str(), static_cast<char*>(nullptr));
    return 9;
  });
  BOOST_TEST(end_of(child) == 1); // grep found nothing
}

BOOST_AUTO_TEST_CASE(of_a_running_program_for_writing_is_refused) {
  scratch const s;
  std::filesystem::copy_file("/bin/sleep", s / "program");
  auto const child = start_child([&] {
    ::execl((s / "program").c_str(), "program", "60", static_cast<char*>(nullptr));
    return 9;
  });
  // The child is that program once it shows up as such.
  auto const link = "/proc/" + std::to_string(child) + "/exe";
  for (int i = 0; i < 5000 && std::filesystem::read_symlink(link).filename() != "program"; ++i) {
    ::usleep(1000);
  }
  BOOST_TEST(fails(file::open(s / "program", writing), std::errc::text_file_busy));
  BOOST_TEST(file::open(s / "program").has_value());
  ::kill(child, SIGKILL);
  BOOST_TEST(end_of(child) == -SIGKILL);
}

BOOST_AUTO_TEST_SUITE_END()
