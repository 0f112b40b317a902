// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What becomes of a mapped file's handle, name and rights: adopt, freeze, remove on close, files without a name.

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/machine_code.hpp"
#include "support/mounts.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;

using fmmap::access;
using fmmap::errc;
using fmmap::file;
using fmmap::mapped_file;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;
using fmmap::os::call;
namespace os = fmmap::os;
namespace seam = fmmap::os::seam;

namespace {

constexpr std::size_t page = 4096;

// The errors that destructors report, of one test.
std::vector<std::string> dropped;

void note_dropped(fmmap::error const& why) noexcept { dropped.push_back(why.message()); }

struct dropped_errors {
  dropped_errors() : before{fmmap::set_dropped_error_handler(note_dropped)} { dropped.clear(); }
  dropped_errors(dropped_errors const&) = delete;
  auto operator=(dropped_errors const&) -> dropped_errors& = delete;
  ~dropped_errors() { fmmap::set_dropped_error_handler(before); }

  fmmap::dropped_error_handler before;
};

} // namespace

static_assert(!std::is_copy_constructible_v<mapped_file> && !std::is_copy_constructible_v<mutable_mapped_file>);
static_assert(std::is_nothrow_move_constructible_v<mapped_file> && std::is_nothrow_move_assignable_v<mapped_file>);
static_assert(std::is_nothrow_default_constructible_v<mutable_mapped_file>);

BOOST_AUTO_TEST_SUITE(freezing)

BOOST_AUTO_TEST_CASE(keeps_the_bytes_where_they_are_and_trims_the_file) {
  scratch const s;
  auto m = or_throw(mutable_mapped_file::create(s / "f", {.reserve = 1 << 20}));
  auto const content = pattern(page + 100);
  or_throw(m.append(bytes_of(content)));
  auto const bytes = m.bytes();
  auto frozen = or_throw(std::move(m).freeze());
  BOOST_TEST(!m.is_open()); // NOLINT(bugprone-use-after-move): that is the question
  BOOST_TEST((frozen.bytes().data() == bytes.data() && frozen.bytes().size() == bytes.size()));
  BOOST_TEST(frozen.text() == content);
  BOOST_TEST(frozen.path().ends_with("/f"));
  BOOST_TEST(!frozen.is_executable());
  BOOST_TEST(blocks_of(s / "f") <= 4 * page);
  BOOST_TEST(dies_of(SIGSEGV, [&] { *const_cast<std::byte*>(frozen.bytes().data()) = std::byte{1}; }));
  or_throw(frozen.close());
}

BOOST_AUTO_TEST_CASE(that_fails_leaves_the_object_writable) {
  scratch const s;
  auto m = or_throw(mutable_mapped_file::create(s / "f", {.size = page}));
  m.set_remove_on_close(true);
  {
    seam::armed const seam;
    seam::fail(os::call::mprotect, ENOMEM, 1);
    BOOST_TEST(fails(std::move(m).freeze(), std::errc::not_enough_memory));
  }
  BOOST_TEST(m.is_open());
  BOOST_TEST(m.removes_on_close());
  m.writable_bytes()[0] = std::byte{1};
  BOOST_TEST(or_throw(std::move(m).freeze()).removes_on_close());
  BOOST_TEST(fails(mutable_mapped_file{}.freeze(), errc::closed));
}

BOOST_AUTO_TEST_CASE(of_what_was_changed_in_memory_only_keeps_the_changes) {
  scratch const s;
  auto m = or_throw(mutable_mapped_file::open_copy_on_write(s.file("f", pattern(100))));
  m.writable_bytes()[3] = std::byte{3};
  auto const frozen = or_throw(std::move(m).freeze());
  BOOST_TEST((frozen.bytes()[3] == std::byte{3}));
  BOOST_TEST(read_back(s / "f") == pattern(100));
}

BOOST_AUTO_TEST_CASE(executable_makes_code_that_runs) {
  if (returns_42().empty()) {
    skip("no machine code for this processor");
    return;
  }
  scratch const s;
  auto in_memory = or_throw(mutable_mapped_file::in_memory("code", page));
  or_throw(in_memory.write_exactly(0, bytes_of(returns_42())));
  auto const from_memory = or_throw(std::move(in_memory).freeze_executable());
  BOOST_TEST(from_memory.is_executable());
  BOOST_TEST(called(from_memory.bytes()) == 42);
  auto on_disk = or_throw(mutable_mapped_file::create(s / "code"));
  or_throw(on_disk.append(bytes_of(returns_42())));
  auto const from_disk = or_throw(std::move(on_disk).freeze_executable());
  BOOST_TEST(called(from_disk.bytes()) == 42);
  auto const opened = or_throw(mapped_file::open_executable(s / "code"));
  BOOST_TEST(opened.is_executable());
  BOOST_TEST(called(opened.bytes()) == 42);
  auto const plain = or_throw(mapped_file::open(s / "code"));
  BOOST_TEST(dies_of(SIGSEGV, [&] { (void)called(plain.bytes()); }));
}

// What somebody tries who can make the process call the system, or open its own memory.
BOOST_AUTO_TEST_CASE(executable_makes_code_that_cannot_become_writable_again) {
  scratch const s;
  auto const refuses = [](mapped_file const& code) {
    auto* const begin = const_cast<std::byte*>(code.bytes().data());
    auto const protected_so = ::mprotect(begin, page, PROT_READ | PROT_WRITE) == -1 && errno == EACCES;
    auto const memory = ::open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    auto const at = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(begin));
    auto const written = ::pwrite(memory, "x", 1, at);
    auto const why = errno;
    ::close(memory);
    return protected_so && written == -1 && why == EIO;
  };
  auto in_memory = or_throw(mutable_mapped_file::in_memory("code", page));
  or_throw(in_memory.write_exactly(0, bytes_of("abc")));
  auto const from_memory = or_throw(std::move(in_memory).freeze_executable());
  BOOST_TEST(refuses(from_memory));
  BOOST_TEST(text_of(from_memory.bytes().first(3)) == "abc");
  auto on_disk = or_throw(mutable_mapped_file::create(s / "code", {.reserve = 16 * page}));
  or_throw(on_disk.append(bytes_of("abc")));
  auto const* const before = on_disk.bytes().data();
  auto const from_disk = or_throw(std::move(on_disk).freeze_executable());
  BOOST_TEST(from_disk.bytes().data() == before);
  BOOST_TEST(text_of(from_disk.bytes()) == "abc");
  BOOST_TEST(refuses(from_disk));
  BOOST_TEST(refuses(or_throw(mapped_file::open_executable(s / "code"))));
}

// PR_SET_MDWE is for good, hence a child.
BOOST_AUTO_TEST_CASE(executable_works_where_nothing_may_become_executable_that_was_writable) {
  if (returns_42().empty()) {
    skip("no machine code for this processor");
    return;
  }
  scratch const s;
  BOOST_TEST(found_in_child([&](findings& found) {
               constexpr int set_mdwe = 65; // PR_SET_MDWE, newer than Debian 12's headers
               if (::prctl(set_mdwe, 1, 0, 0, 0) != 0) {
                 found.skip("PR_SET_MDWE needs Linux 6.3");
                 return;
               }
               auto made = or_throw(mutable_mapped_file::create(s / "code"));
               or_throw(made.append(bytes_of(returns_42())));
               auto const code = or_throw(std::move(made).freeze_executable());
               found.expect(called(code.bytes()) == 42, "it does not run");
               auto private_copy = or_throw(mutable_mapped_file::open_copy_on_write(s / "code"));
               found.expect(fails(std::move(private_copy).freeze_executable(), std::errc::permission_denied),
                            "what is private was made executable");
             }) == "");
}

// By mprotect then.
BOOST_AUTO_TEST_CASE(executable_needs_no_proc_and_keeps_locked_memory_locked) {
  if (returns_42().empty()) {
    skip("no machine code for this processor");
    return;
  }
  scratch const s;
  auto const make = [&](char const* name) {
    auto made = or_throw(mutable_mapped_file::create(s / name));
    or_throw(made.append(bytes_of(returns_42())));
    return made;
  };
  {
    auto made = make("moved");
    seam::armed const table;
    seam::fail(call::openat, ENOENT);
    BOOST_TEST(called(or_throw(std::move(made).freeze_executable()).bytes()) == 42);
  }
  auto made = make("locked");
  auto const locked = or_throw(made.as_mapping().lock_memory());
  auto const before = status_field("VmLck:");
  auto const code = or_throw(std::move(made).freeze_executable());
  BOOST_TEST(called(code.bytes()) == 42);
  BOOST_TEST(status_field("VmLck:") == before);
}

BOOST_AUTO_TEST_CASE(executable_is_refused_where_the_file_system_forbids_it) {
  scratch const s;
  BOOST_TEST(
      found_in_child([&](findings& found) {
        auto why = own_mounts();
        why = why.empty() ? mount_tmpfs(s.folder(), "size=1m") : why;
        if (why.empty() && ::mount("none", s.folder().c_str(), nullptr, MS_REMOUNT | MS_NOEXEC, "size=1m") != 0) {
          why = "no remount";
        }
        if (!why.empty()) {
          found.skip(why);
          return;
        }
        auto m = or_throw(mutable_mapped_file::create(s / "code", {.size = page}));
        found.expect(fails(mapped_file::open_executable(s / "code"), std::errc::operation_not_permitted),
                     "opened to be executed");
        found.expect(fails(std::move(m).freeze_executable(), std::errc::operation_not_permitted), "made executable");
        found.expect(m.is_open() && !m.writable_bytes().empty(), "it is not writable any more");
      }) == "");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(removing_on_close)

BOOST_AUTO_TEST_CASE(happens_at_close_destruction_and_assignment) {
  scratch const s;
  auto const make = [&](char const* name) {
    auto m = or_throw(mutable_mapped_file::create(s / name, {.size = page}));
    m.set_remove_on_close(true);
    return m;
  };
  auto closed = make("closed");
  or_throw(closed.close());
  BOOST_TEST(!std::filesystem::exists(s / "closed"));
  {
    auto const destroyed = make("destroyed");
  }
  BOOST_TEST(!std::filesystem::exists(s / "destroyed"));
  auto assigned = make("assigned");
  assigned = make("other");
  BOOST_TEST(!std::filesystem::exists(s / "assigned"));
  BOOST_TEST(std::filesystem::exists(s / "other"));
  auto moved = std::move(assigned);
  assigned = {}; // NOLINT(bugprone-use-after-move): that is the question
  BOOST_TEST(std::filesystem::exists(s / "other"));
  BOOST_TEST(moved.removes_on_close());
  auto frozen = or_throw(std::move(moved).freeze());
  moved = {};
  BOOST_TEST(std::filesystem::exists(s / "other"));
  frozen = {};
  BOOST_TEST(!std::filesystem::exists(s / "other"));
}

BOOST_AUTO_TEST_CASE(can_be_taken_back) {
  scratch const s;
  auto m = or_throw(mapped_file::open(s.file("f", "bytes")));
  m.set_remove_on_close(true);
  m.set_remove_on_close(false);
  or_throw(m.close());
  BOOST_TEST(read_back(s / "f") == "bytes");
}

BOOST_AUTO_TEST_CASE(is_content_when_the_name_is_gone_already) {
  dropped_errors const errors;
  scratch const s;
  auto m = or_throw(mutable_mapped_file::create(s / "f", {.size = page}));
  m.set_remove_on_close(true);
  or_throw(m.remove());
  or_throw(m.close());
  auto memory = or_throw(mutable_mapped_file::in_memory("f", page));
  memory.set_remove_on_close(true);
  or_throw(memory.close());
  {
    auto unnamed = or_throw(mutable_mapped_file::temporary(s.folder()));
    unnamed.set_remove_on_close(true);
  }
  BOOST_TEST(dropped.empty());
}

BOOST_AUTO_TEST_CASE(follows_a_rename_and_leaves_other_names) {
  scratch const s;
  {
    auto m = or_throw(mapped_file::open(s.file("f", "bytes")));
    m.set_remove_on_close(true);
    std::filesystem::create_hard_link(s / "f", s / "link");
    std::filesystem::rename(s / "f", s / "renamed");
  }
  BOOST_TEST(!std::filesystem::exists(s / "renamed"));
  BOOST_TEST(read_back(s / "link") == "bytes");
}

BOOST_AUTO_TEST_CASE(that_is_refused_is_reported_and_the_file_closed) {
  dropped_errors const errors;
  scratch const s;
  std::filesystem::create_symlink("target", s / "link");
  (void)s.file("target", "bytes");
  auto m = or_throw(mapped_file::open(s / "link"));
  m.set_remove_on_close(true);
  BOOST_TEST(fails(m.close(), errc::symbolic_link));
  BOOST_TEST(!m.is_open());
  BOOST_TEST(dropped.empty());
  {
    auto n = or_throw(mutable_mapped_file::open_existing(s / "link"));
    n.set_remove_on_close(true);
  }
  BOOST_TEST(dropped.size() == 1U);
  BOOST_TEST(read_back(s / "target") == "bytes");
  BOOST_TEST(fails(m.remove(), errc::closed)); // after close nothing can be removed, and it says so
  BOOST_TEST(fails(m.close(), errc::closed));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(adopting_an_open_file)

BOOST_AUTO_TEST_CASE(takes_it_over_for_reading) {
  scratch const s;
  auto const content = pattern(3 * page);
  auto opened = or_throw(file::open(s.file("f", content)));
  auto const m = or_throw(mapped_file::adopt(std::move(opened), {.range = {.offset = 100, .length = page}}));
  BOOST_TEST(!opened.is_open()); // NOLINT(bugprone-use-after-move): that is the question
  BOOST_TEST(m.text() == content.substr(100, page));
}

BOOST_AUTO_TEST_CASE(leaves_it_with_the_caller_when_it_fails) {
  scratch const s;
  auto opened = or_throw(file::open(s.file("f", pattern(page)), {.access = access::read_write}));
  BOOST_TEST(fails(mapped_file::adopt(std::move(opened), {.range = {.offset = page + 1}}), errc::out_of_range));
  BOOST_TEST(opened.is_open()); // NOLINT(bugprone-use-after-move): that is the question
  {
    seam::armed const seam;
    seam::fail(os::call::mmap, ENOMEM);
    BOOST_TEST(fails(mutable_mapped_file::adopt(std::move(opened)), std::errc::not_enough_memory));
  }
  BOOST_TEST(opened.is_open());
  auto empty = or_throw(file::create_new(s / "empty"));
  {
    seam::armed const seam;
    seam::fail(os::call::mmap, ENOMEM);
    BOOST_TEST(fails(mutable_mapped_file::adopt(std::move(empty), {.size = page}), std::errc::not_enough_memory));
  }
  BOOST_TEST(or_throw(empty.size()) == 0U);
  BOOST_TEST(fails(mapped_file::adopt(file{}), errc::closed));
  BOOST_TEST(fails(mutable_mapped_file::adopt(file{}), errc::closed));
  BOOST_TEST(fails(mutable_mapped_file::adopt(file{}, {.size = 1}), errc::closed));
  auto folder = or_throw(file::open(s.folder(), {.any_type = true}));
  BOOST_TEST(fails(mapped_file::adopt(std::move(folder)), errc::not_a_regular_file));
  BOOST_TEST(fails(mutable_mapped_file::adopt(std::move(folder)), errc::not_a_regular_file));
}

BOOST_AUTO_TEST_CASE(writes_as_the_file_was_opened) {
  scratch const s;
  auto const path = s.file("f", pattern(page));
  auto writing = or_throw(file::open(path, {.access = access::read_write}));
  auto m = or_throw(mutable_mapped_file::adopt(std::move(writing), {.reserve = 1 << 20}));
  or_throw(m.write<char>(0, 'x'));
  or_throw(m.append(bytes_of("more")));
  or_throw(m.close());
  BOOST_TEST(read_back(path) == 'x' + pattern(page).substr(1) + "more");
  auto reading = or_throw(file::open(path));
  BOOST_TEST(fails(mutable_mapped_file::adopt(std::move(reading), {.size = 1}), errc::invalid_options));
  auto n =
      or_throw(mutable_mapped_file::adopt(std::move(reading))); // NOLINT(bugprone-use-after-move): still the caller's
  or_throw(n.write<char>(0, 'y'));
  BOOST_TEST(fails(n.flush(), errc::copy_on_write));
  BOOST_TEST(read_back(path)[0] == 'x');
  auto only_writing = or_throw(file::adopt(::open(path.c_str(), O_WRONLY | O_CLOEXEC)));
  BOOST_TEST(fails(mutable_mapped_file::adopt(std::move(only_writing)), std::errc::permission_denied));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_file_without_a_name)

BOOST_AUTO_TEST_CASE(in_memory_grows_and_reads_as_any_other) {
  auto m = or_throw(mutable_mapped_file::in_memory("scratch", 10, {.reserve = 1 << 20}));
  BOOST_TEST(m.size() == 10U);
  BOOST_TEST(m.path().empty());
  or_throw(m.append(bytes_of("more")));
  or_throw(m.resize(3 * page));
  BOOST_TEST(m.text().substr(0, 14) == std::string(10, '\0') + "more");
  BOOST_TEST(fails(m.flush(), errc::not_durable));
  BOOST_TEST(fails(m.resize(page, fmmap::durability::data), errc::not_durable));
  BOOST_TEST(fails(m.remove(), std::errc::no_such_file_or_directory));
  auto const much = std::uint64_t{1} << (sanitized ? 34U : 40U); // without them, more than any memory here
  auto large = or_throw(mutable_mapped_file::in_memory("large", much));
  or_throw(large.append(bytes_of("more")));
  or_throw(large.resize(2 * much));
  or_throw(large.fill({.offset = much, .length = page}, std::byte{1}));
  BOOST_TEST(or_throw(large.metadata()).allocated_bytes < 100 * page);
  auto const empty = or_throw(mutable_mapped_file::in_memory("", 0));
  BOOST_TEST(empty.empty());
  BOOST_TEST(fails(mutable_mapped_file::in_memory("huge", UINT64_MAX), std::errc::file_too_large));
}

BOOST_AUTO_TEST_CASE(on_disk_is_gone_when_it_is_closed) {
  scratch const s;
  auto m = or_throw(mutable_mapped_file::temporary(s.folder(), {.size = page}));
  or_throw(m.append(bytes_of("more")));
  BOOST_TEST(m.size() == page + 4);
  BOOST_TEST((or_throw(m.flush()) == fmmap::durability::data));
  BOOST_TEST(std::filesystem::is_empty(s.folder()));
  or_throw(m.close());
  BOOST_TEST(std::filesystem::is_empty(s.folder()));
  BOOST_TEST(fails(mutable_mapped_file::temporary(s / "missing"), std::errc::no_such_file_or_directory));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(the_time_of_creation)

BOOST_AUTO_TEST_CASE(is_told_where_the_file_system_keeps_it) {
  scratch const s;
  auto const f = or_throw(file::create_new(s / "f"));
  auto const meta = or_throw(f.metadata());
  BOOST_REQUIRE(meta.created.has_value()); // ext4, XFS, btrfs and tmpfs do
  BOOST_TEST((*meta.created <= meta.modified + std::chrono::seconds{1}));
  BOOST_TEST((*meta.created > meta.modified - std::chrono::hours{1}));
  seam::armed const seam;
  for (auto const absent : {ENOSYS, EPERM}) {
    seam::fail(os::call::statx, absent, 1);
    BOOST_TEST(!or_throw(f.metadata()).created);
  }
  seam::fail(os::call::statx, EIO, 1);
  BOOST_TEST(fails(f.metadata(), std::errc::io_error));
}

BOOST_AUTO_TEST_SUITE_END()
