// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iterator>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
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

// The table of docs/processes.md: a suite for each row, and in it cases that begin with after_fork, after_exec and at_exit.

using fmmap::access;
using fmmap::advice;
using fmmap::durability;
using fmmap::errc;
using fmmap::file;
using fmmap::mapped_file;
using fmmap::mapping;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;
using fmmap::os::call;
namespace seam = fmmap::os::seam;

namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t roomy = std::size_t{1} << 20;

auto open_rw(std::filesystem::path const& path) -> file {
  return or_throw(file::open(path, {.access = access::read_write}));
}

void put(std::span<std::byte> to, std::string_view text) { std::ranges::copy(bytes_of(text), to.begin()); }

auto starts_with(std::span<std::byte const> bytes, std::string_view text) -> bool {
  return text_of(bytes).starts_with(text);
}

auto entries_in(scratch const& s) -> std::ptrdiff_t {
  return std::ranges::distance(std::filesystem::directory_iterator{s.folder()});
}

// A value that forked children share with this process.
template <class T>
class shared_value {
public:
  shared_value() : memory_{or_throw(mapping::anonymous(sizeof(T), {.shared = true}))} {
    value_ = ::new (static_cast<void*>(memory_.writable_bytes().data())) T{};
  }
  auto operator*() const -> T& { return *value_; }

private:
  mapping memory_;
  T* value_;
};

// Lets one process wait for another.
class gate {
public:
  gate() {
    if (::pipe(ends_) != 0) {
      throw std::runtime_error("pipe");
    }
  }
  gate(gate const&) = delete;
  auto operator=(gate const&) -> gate& = delete;
  ~gate() {
    ::close(ends_[0]);
    ::close(ends_[1]);
  }

  void open() { (void)!::write(ends_[1], "x", 1); }
  void pass() {
    char passed = 0;
    while (::read(ends_[0], &passed, 1) < 0 && errno == EINTR) {
    }
  }

private:
  int ends_[2];
};

// What /proc says of a process: its mappings, open files and status.
enum class whose : unsigned char { this_process, the_program_executed_instead };

auto seen(whose process) -> std::string {
  auto const* const script = process == whose::this_process
                                 ? "cat /proc/$PPID/maps; ls -l /proc/$PPID/fd; cat /proc/$PPID/status; exit"
                                 : "cat /proc/$$/maps; ls -l /proc/$$/fd; cat /proc/$$/status; exit";
  text_pipe answer;
  auto const child = start_child([&] {
    ::dup2(answer.input(), STDOUT_FILENO);
    ::execl("/bin/sh", "sh", "-c", script, nullptr);
    return 127;
  });
  auto text = answer.receive();
  if (end_of(child) != 0) {
    throw std::runtime_error("/bin/sh cannot look at a process");
  }
  return text;
}

// Whether the lines of a maps file have this address.
auto has_address(std::string_view maps, void const* address) -> bool {
  auto const wanted = reinterpret_cast<std::uintptr_t>(address);
  for (auto rest = maps; !rest.empty();) {
    auto const line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    auto const* const last = line.data() + line.size();
    auto const first = std::from_chars(line.data(), last, begin, 16);
    if (first.ec != std::errc{} || first.ptr == last || *first.ptr != '-') {
      continue;
    }
    if (std::from_chars(first.ptr + 1, last, end, 16).ec == std::errc{} && begin <= wanted && wanted < end) {
      return true;
    }
  }
  return false;
}

// The number after a label of a status file.
auto number_after(std::string_view status, std::string_view label, int base) -> std::uint64_t {
  auto const at = status.find(label);
  BOOST_REQUIRE(at != std::string_view::npos);
  auto const begin = status.find_first_not_of(" \t", at + label.size());
  std::uint64_t value = 0;
  std::from_chars(status.data() + begin, status.data() + status.size(), value, base);
  return value;
}

// As the system has it, whatever the path to it.
auto name_of(scratch const& s) -> std::string { return s.folder().filename().string(); }

// That this process has something open or mapped of this name, and the program executed instead of it has not.
void expect_gone_after_exec(std::string_view name) {
  BOOST_TEST(seen(whose::this_process).contains(name));
  BOOST_TEST(!seen(whose::the_program_executed_instead).contains(name));
}

// The same of memory. Where it lay the new program has something else with a probability of 10^-6.
void expect_unmapped_after_exec(std::span<std::byte const> bytes) {
  BOOST_TEST(has_address(seen(whose::this_process), bytes.data()));
  BOOST_TEST(!has_address(seen(whose::the_program_executed_instead), bytes.data()));
}

// Runs `body` in a child for each way to end that destroys no automatic object; `body` ends by what it is given. Calls
// `check` after each.
void at_each_exit(std::function<void(std::function<void()> const& leave)> const& body,
                  std::function<void()> const& check) {
  struct way {
    char const* name;
    int end;
    std::function<void()> leave;
  };
  way const ways[] = {{.name = "exit", .end = 0, .leave = [] { std::exit(0); }},
                      {.name = "_exit", .end = 0, .leave = [] { ::_exit(0); }},
                      {.name = "SIGKILL", .end = -SIGKILL, .leave = [] { ::raise(SIGKILL); }}};
  for (auto const& how : ways) {
    BOOST_TEST_CONTEXT(how.name) {
      std::fflush(nullptr);
      auto const child = start_child([&] {
        body(how.leave);
        return 99;
      });
      BOOST_TEST(end_of(child) == how.end);
      check();
    }
  }
}

// The test's own program, executed to run a case of the suite `executed`.
auto run_executed(char const* name, int descriptor = -1) -> int {
  auto const selected = std::string{"--run_test=executed/"} + name;
  return end_of(start_child([&] {
    ::setenv("FMMAP_TEST_DESCRIPTOR", std::to_string(descriptor).c_str(), 1);
    ::execl("/proc/self/exe", "processes", selected.c_str(), "--log_level=error", "--report_level=no", nullptr);
    return 127;
  }));
}

auto given_descriptor() -> int {
  auto const* const number = std::getenv("FMMAP_TEST_DESCRIPTOR");
  BOOST_REQUIRE(number != nullptr);
  return std::atoi(number);
}

void keep_across_exec(int descriptor) { BOOST_REQUIRE(::fcntl(descriptor, F_SETFD, 0) == 0); }

} // namespace

BOOST_AUTO_TEST_SUITE(a_file_on_disk)

BOOST_AUTO_TEST_CASE(after_fork_is_the_same_file_for_both_and_each_closes_its_own_handle) {
  scratch const s;
  auto f = open_rw(s.file("f", "old"));
  BOOST_TEST(found_in_child([&](findings& found) {
               or_throw(f.write_at(0, bytes_of("new")));
               or_throw(f.resize(10));
               found.expect(f.identity() == or_throw(f.metadata()).identity, "another file");
               or_throw(f.close());
               found.expect(fails(f.size(), errc::closed), "not closed");
             }) == "");
  BOOST_TEST(or_throw(f.size()) == 10U);
  std::vector<std::byte> bytes(3);
  BOOST_TEST(or_throw(f.read_at(0, bytes)) == 3U);
  BOOST_TEST(text_of(bytes) == "new");
}

BOOST_AUTO_TEST_CASE(after_fork_no_call_depends_on_the_offset_that_both_share) {
  scratch const s;
  auto f = open_rw(s.file("f", pattern(100)));
  BOOST_REQUIRE(::lseek(f.native_handle(), 7, SEEK_SET) == 7);
  BOOST_TEST(found_in_child([&](findings& found) {
               std::vector<std::byte> bytes(50);
               found.expect(or_throw(f.read_at(10, bytes)) == 50, "not read");
               or_throw(f.write_at(20, bytes));
               found.expect(::lseek(f.native_handle(), 0, SEEK_CUR) == 7, "the offset moved");
             }) == "");
  BOOST_TEST(::lseek(f.native_handle(), 0, SEEK_CUR) == 7);
}

BOOST_AUTO_TEST_CASE(after_fork_what_the_child_removes_has_no_name_for_the_parent_either) {
  scratch const s;
  auto f = open_rw(s.file("f", "text"));
  BOOST_TEST(found_in_child([&](findings&) { or_throw(f.remove()); }) == "");
  BOOST_TEST(fails(f.remove(), std::errc::no_such_file_or_directory));
  BOOST_TEST(or_throw(f.size()) == 4U);
}

BOOST_AUTO_TEST_CASE(after_exec_its_descriptor_is_closed_however_it_was_opened) {
  scratch const s;
  auto const path = s.file("f", "text");
  auto const opened = open_rw(path);
  auto const created = or_throw(file::create_new(s / "g"));
  auto const directory = or_throw(file::open(s.folder(), {.any_type = true}));
  auto const beside = or_throw(file::open_at(directory, "f"));
  auto const adopted =
      or_throw(file::adopt(::open(path.c_str(), O_RDONLY), path.native())); // NOLINT: without O_CLOEXEC
  for (auto const* const f : {&opened, &created, &directory, &beside, &adopted}) {
    BOOST_TEST((::fcntl(f->native_handle(), F_GETFD) & FD_CLOEXEC) != 0);
  }
  expect_gone_after_exec(name_of(s));
}

BOOST_AUTO_TEST_CASE(after_exec_is_adopted_by_the_new_program_when_it_was_told_to_stay) {
  scratch const s;
  auto f = open_rw(s.file("f", "from before"));
  keep_across_exec(f.native_handle());
  BOOST_TEST(run_executed("adopts_a_file_and_writes_to_it", f.native_handle()) == 0);
  BOOST_TEST(read_back(s / "f") == "from after ");
}

BOOST_AUTO_TEST_CASE(at_exit_is_closed_and_what_was_written_is_in_it) {
  scratch const s;
  at_each_exit(
      [&](auto const& leave) {
        auto f = or_throw(file::create_new(s / "f"));
        or_throw(f.write_at(0, bytes_of("written")));
        leave();
      },
      [&] {
        BOOST_TEST(read_back(s / "f") == "written");
        std::filesystem::remove(s / "f");
      });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_file_without_a_name)

BOOST_AUTO_TEST_CASE(after_fork_lives_as_long_as_one_of_the_two_has_it) {
  scratch const s;
  for (bool const memory : {false, true}) {
    std::optional f{or_throw(memory ? file::in_memory("shared") : file::temporary(s.folder()))};
    or_throw(f->write_at(0, bytes_of("parent")));
    gate closed;
    auto const child = start_child([&] {
      closed.pass();
      std::vector<std::byte> bytes(6);
      return or_throw(f->read_at(0, bytes)) == 6 && text_of(bytes) == "parent" ? 0 : 1;
    });
    or_throw(f->close());
    closed.open();
    BOOST_TEST(end_of(child) == 0);
  }
}

BOOST_AUTO_TEST_CASE(after_exec_is_gone) {
  scratch const s;
  auto const memory = or_throw(file::in_memory("fmmap-of-this-test"));
  auto const unnamed = or_throw(file::temporary(s.folder()));
  expect_gone_after_exec("fmmap-of-this-test");
  expect_gone_after_exec(name_of(s));
}

BOOST_AUTO_TEST_CASE(at_exit_is_gone_unless_another_process_has_it) {
  scratch const s;
  auto kept = or_throw(file::in_memory("kept"));
  at_each_exit(
      [&](auto const& leave) {
        auto f = or_throw(mutable_mapped_file::temporary(s.folder(), {.size = page}));
        put(f.writable_bytes(), "text");
        or_throw(kept.write_at(0, bytes_of("text")));
        leave();
      },
      [&] {
        BOOST_TEST(entries_in(s) == 0);
        BOOST_TEST(or_throw(kept.size()) == 4U);
        or_throw(kept.resize(0));
      });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_shared_mapping_of_a_file)

BOOST_AUTO_TEST_CASE(after_fork_shows_both_what_either_stores_and_each_unmaps_its_own) {
  scratch const s;
  auto m = or_throw(mapping::map(open_rw(s.file("f", pattern(2 * page))), {.access = access::read_write}));
  gate stored;
  auto const child = start_child([&] {
    stored.pass();
    auto const sees = starts_with(m.bytes(), "parent");
    put(m.writable_bytes().subspan(page), "child");
    or_throw(m.close());
    return sees ? 0 : 1;
  });
  put(m.writable_bytes(), "parent");
  stored.open();
  BOOST_TEST(end_of(child) == 0);
  BOOST_TEST(starts_with(m.bytes().subspan(page), "child"));
}

BOOST_AUTO_TEST_CASE(after_fork_size_protection_and_advice_are_each_ones_own) {
  scratch const s;
  auto m = or_throw(mapping::map(open_rw(s.file("f", pattern(4 * page))), {.access = access::read_write}));
  BOOST_TEST(found_in_child([&](findings&) {
               or_throw(m.resize(page));
               or_throw(m.protect(access::read_only));
               or_throw(m.reserve(64 * page));
             }) == "");
  BOOST_TEST(m.size() == 4 * page);
  put(m.writable_bytes(), "still writable");
}

BOOST_AUTO_TEST_CASE(after_exec_is_unmapped_and_the_file_has_the_bytes) {
  scratch const s;
  auto m = or_throw(mapping::map(open_rw(s.file("f", pattern(page))), {.access = access::read_write}));
  put(m.writable_bytes(), "stored");
  expect_gone_after_exec(name_of(s) + "/f");
  expect_unmapped_after_exec(m.bytes());
  BOOST_TEST(read_back(s / "f").starts_with("stored"));
}

BOOST_AUTO_TEST_CASE(at_exit_the_file_has_the_bytes) {
  scratch const s;
  at_each_exit(
      [&](auto const& leave) {
        auto m = or_throw(mapping::map(open_rw(s.file("f", pattern(page))), {.access = access::read_write}));
        put(m.writable_bytes(), "stored");
        leave();
      },
      [&] { BOOST_TEST(read_back(s / "f").starts_with("stored")); });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_copy_on_write_mapping)

BOOST_AUTO_TEST_CASE(after_fork_each_has_its_own_copy_of_what_was_changed_and_the_file_shows_through_elsewhere) {
  scratch const s;
  auto f = open_rw(s.file("f", std::string(2 * page, 'f')));
  auto m = or_throw(mapping::map(f, {.access = access::copy_on_write}));
  put(m.writable_bytes(), "before");
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(starts_with(m.bytes(), "before"), "the child has not what was changed before");
               put(m.writable_bytes(), "child!");
               or_throw(f.write_at(page, bytes_of("file")));
               found.expect(starts_with(m.bytes().subspan(page), "file"), "the file does not show through");
               or_throw(m.close());
             }) == "");
  BOOST_TEST(starts_with(m.bytes(), "before"));
  BOOST_TEST(starts_with(m.bytes().subspan(page), "file"));
  BOOST_TEST(read_back(s / "f").starts_with("ffff"));
}

BOOST_AUTO_TEST_CASE(after_exec_is_gone_with_its_changes) {
  scratch const s;
  auto m = or_throw(mapping::map(open_rw(s.file("f", "file")), {.access = access::copy_on_write}));
  put(m.writable_bytes(), "mine");
  expect_gone_after_exec(name_of(s) + "/f");
  expect_unmapped_after_exec(m.bytes());
  BOOST_TEST(read_back(s / "f") == "file");
}

BOOST_AUTO_TEST_CASE(at_exit_is_gone_with_its_changes) {
  scratch const s;
  auto const path = s.file("f", "file");
  at_each_exit(
      [&](auto const& leave) {
        auto m = or_throw(mapping::map(open_rw(path), {.access = access::copy_on_write}));
        put(m.writable_bytes(), "mine");
        leave();
      },
      [&] { BOOST_TEST(read_back(path) == "file"); });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(private_memory)

BOOST_AUTO_TEST_CASE(after_fork_each_has_its_own_copy_that_grows_on_its_own) {
  auto m = or_throw(mapping::anonymous(page, {.reserve = 16 * page}));
  put(m.writable_bytes(), "before");
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(starts_with(m.bytes(), "before"), "the child has not what was stored before");
               put(m.writable_bytes(), "child!");
               or_throw(m.resize(8 * page));
               or_throw(m.reserve(64 * page));
               found.expect(starts_with(m.bytes(), "child!"), "moving lost what was stored");
               or_throw(m.discard({.offset = 0, .length = page}));
               or_throw(m.close());
             }) == "");
  BOOST_TEST(starts_with(m.bytes(), "before"));
  BOOST_TEST(m.size() == page);
}

BOOST_AUTO_TEST_CASE(after_exec_is_gone) {
  auto m = or_throw(mapping::anonymous(page));
  put(m.writable_bytes(), "stored");
  expect_unmapped_after_exec(m.bytes());
}

BOOST_AUTO_TEST_CASE(at_exit_is_gone_and_the_other_processs_copy_stays) {
  auto m = or_throw(mapping::anonymous(page));
  put(m.writable_bytes(), "parent");
  at_each_exit(
      [&](auto const& leave) {
        put(m.writable_bytes(), "child!");
        leave();
      },
      [&] { BOOST_TEST(starts_with(m.bytes(), "parent")); });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(shared_memory)

BOOST_AUTO_TEST_CASE(after_fork_shows_both_what_either_stores_or_discards) {
  auto m = or_throw(mapping::anonymous(2 * page, {.shared = true}));
  put(m.writable_bytes(), "before");
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(starts_with(m.bytes(), "before"), "the child has not what was stored before");
               put(m.writable_bytes().subspan(page), "child");
               or_throw(m.discard({.offset = 0, .length = page}));
               or_throw(m.close());
             }) == "");
  BOOST_TEST(starts_with(m.bytes().subspan(page), "child"));
  BOOST_TEST((m.bytes()[0] == std::byte{0}));
}

BOOST_AUTO_TEST_CASE(after_fork_what_one_adds_by_growing_is_its_own) {
  auto m = or_throw(mapping::anonymous(page, {.shared = true, .reserve = 2 * page}));
  gate grown;
  gate stored;
  auto const child = start_child([&] {
    or_throw(m.resize(2 * page));
    put(m.writable_bytes().subspan(page), "child");
    put(m.writable_bytes(), "both");
    grown.open();
    stored.pass();
    return starts_with(m.bytes().subspan(page), "child") ? 0 : 1;
  });
  grown.pass();
  or_throw(m.resize(2 * page));
  BOOST_TEST(starts_with(m.bytes(), "both"));
  BOOST_TEST((m.bytes()[page] == std::byte{0}));
  put(m.writable_bytes().subspan(page), "parent");
  stored.open();
  BOOST_TEST(end_of(child) == 0);
}

BOOST_AUTO_TEST_CASE(after_exec_is_gone_and_the_other_process_keeps_it) {
  auto m = or_throw(mapping::anonymous(page, {.shared = true}));
  put(m.writable_bytes(), "stored");
  expect_unmapped_after_exec(m.bytes());
  BOOST_TEST(starts_with(m.bytes(), "stored"));
}

BOOST_AUTO_TEST_CASE(at_exit_the_other_process_has_what_was_stored) {
  auto m = or_throw(mapping::anonymous(page, {.shared = true}));
  at_each_exit(
      [&](auto const& leave) {
        put(m.writable_bytes(), "child");
        leave();
      },
      [&] {
        BOOST_TEST(starts_with(m.bytes(), "child"));
        put(m.writable_bytes(), "     ");
      });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(memory_kept_from_children)

BOOST_AUTO_TEST_CASE(after_fork_the_child_has_it_not_and_a_touch_is_a_segmentation_fault) {
  auto m = or_throw(mapping::anonymous(page));
  put(m.writable_bytes(), "secret");
  or_throw(m.advise(advice::dont_fork));
  BOOST_TEST(dies_of(SIGSEGV, [&] { (void)*static_cast<std::byte const volatile*>(m.bytes().data()); }));
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(fails(m.advise(advice::do_fork), std::errc::not_enough_memory), "there is memory");
             }) == "");
  BOOST_TEST(starts_with(m.bytes(), "secret"));
}

BOOST_AUTO_TEST_CASE(after_fork_destroying_it_in_the_child_unmaps_nothing_that_has_come_to_be_there) {
  for (bool const closing : {false, true}) {
    for (bool const moved : {false, true}) {
      std::optional m{or_throw(mapping::anonymous(4 * page))};
      or_throw(m->advise(advice::dont_fork));
      or_throw(m->advise(advice::do_fork, {.offset = page, .length = page}));
      if (moved) {
        or_throw(m->reserve(64 * page)); // with its advice
      }
      auto* const at = m->writable_bytes().data();
      BOOST_TEST(found_in_child([&](findings& found) {
                   auto* const there = ::mmap(at + 2 * page, page, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
                   found.expect(there == at + 2 * page, "the place is not free");
                   if (closing) {
                     or_throw(m->close());
                   } else {
                     m.reset();
                   }
                   auto const maps = read_back("/proc/self/maps");
                   found.expect(has_address(maps, at + 2 * page), "somebody else's memory is gone");
                   found.expect(!has_address(maps, at + page), "the page that the child had is still mapped");
                 }) == "");
      m.reset();
      BOOST_TEST(!has_address(read_back("/proc/self/maps"), at)); // its owner unmaps all of it
    }
  }
}

BOOST_AUTO_TEST_CASE(after_exec_is_gone) {
  auto const m = or_throw(mapping::anonymous(page));
  or_throw(m.advise(advice::dont_fork));
  expect_unmapped_after_exec(m.bytes());
}

BOOST_AUTO_TEST_CASE(at_exit_of_a_child_the_parents_stays) {
  auto m = or_throw(mapping::anonymous(page));
  or_throw(m.advise(advice::dont_fork));
  put(m.writable_bytes(), "secret");
  at_each_exit([](auto const& leave) { leave(); }, [&] { BOOST_TEST(starts_with(m.bytes(), "secret")); });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(memory_wiped_in_children)

BOOST_AUTO_TEST_CASE(after_fork_reads_as_zero_in_the_child_and_is_its_own) {
  auto m = or_throw(mapping::anonymous(page));
  put(m.writable_bytes(), "secret");
  or_throw(m.advise(advice::wipe_on_fork));
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(m.bytes()[0] == std::byte{0}, "not wiped");
               put(m.writable_bytes(), "mine");
               or_throw(m.close());
             }) == "");
  BOOST_TEST(starts_with(m.bytes(), "secret"));
}

BOOST_AUTO_TEST_CASE(after_exec_is_gone) {
  auto const m = or_throw(mapping::anonymous(page));
  or_throw(m.advise(advice::wipe_on_fork));
  expect_unmapped_after_exec(m.bytes());
}

BOOST_AUTO_TEST_CASE(at_exit_of_a_child_the_parents_stays) {
  auto m = or_throw(mapping::anonymous(page));
  put(m.writable_bytes(), "secret");
  or_throw(m.advise(advice::wipe_on_fork));
  at_each_exit(
      [&](auto const& leave) {
        put(m.writable_bytes(), "child!");
        leave();
      },
      [&] { BOOST_TEST(starts_with(m.bytes(), "secret")); });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_mapped_file)

BOOST_AUTO_TEST_CASE(after_fork_shows_both_the_file_and_each_closes_its_own) {
  scratch const s;
  auto const path = s.file("f", "old");
  std::optional m{or_throw(mapped_file::open(path))};
  BOOST_TEST(found_in_child([&](findings& found) {
               or_throw(open_rw(path).write_at(0, bytes_of("new")));
               found.expect(text_of(m->bytes()) == "new", "the child does not see the file");
               m.reset();
             }) == "");
  BOOST_TEST(text_of(m->bytes()) == "new");
}

BOOST_AUTO_TEST_CASE(after_exec_is_closed_and_unmapped) {
  scratch const s;
  auto const m = or_throw(mapped_file::open(s.file("f", "text")));
  expect_gone_after_exec(name_of(s) + "/f");
  expect_unmapped_after_exec(m.bytes());
}

BOOST_AUTO_TEST_CASE(at_exit_the_file_is_as_it_was) {
  scratch const s;
  auto const path = s.file("f", "text");
  at_each_exit(
      [&](auto const& leave) {
        auto const m = or_throw(mapped_file::open(path));
        leave();
      },
      [&] { BOOST_TEST(read_back(path) == "text"); });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_mutable_mapped_file)

BOOST_AUTO_TEST_CASE(after_fork_shows_both_what_either_stores_and_the_one_that_does_not_grow_it_keeps_its_size) {
  scratch const s;
  std::optional f{or_throw(mutable_mapped_file::create(s / "f", {.size = page, .reserve = roomy}))};
  BOOST_TEST(found_in_child([&](findings&) {
               put(f->writable_bytes(), "child");
               (void)or_throw(f->append(bytes_of("more")));
               or_throw(f->close());
             }) == "");
  BOOST_TEST(starts_with(f->bytes(), "child"));
  BOOST_TEST(f->size() == page);
  f.reset(); // cuts nothing that it does not know
  BOOST_TEST(std::filesystem::file_size(s / "f") == page + 4);
}

BOOST_AUTO_TEST_CASE(after_exec_is_closed_and_unmapped_and_the_file_has_the_bytes) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = page, .reserve = roomy}));
  put(f.writable_bytes(), "stored");
  expect_gone_after_exec(name_of(s) + "/f");
  expect_unmapped_after_exec(f.bytes());
  BOOST_TEST(read_back(s / "f").starts_with("stored"));
}

BOOST_AUTO_TEST_CASE(at_exit_the_file_has_the_bytes_and_whole_appends) {
  scratch const s;
  at_each_exit(
      [&](auto const& leave) {
        auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = 4, .reserve = roomy}));
        put(f.writable_bytes(), "head");
        (void)or_throw(f.append(bytes_of("tail")));
        leave();
      },
      [&] {
        BOOST_TEST(read_back(s / "f") == "headtail");
        std::filesystem::remove(s / "f");
      });
}

BOOST_AUTO_TEST_SUITE_END()

namespace {

// A file with space ahead of what was appended, or a reason why there is none.
struct growing_file {
  scratch s;
  std::optional<mutable_mapped_file> f{or_throw(mutable_mapped_file::create(s / "f", {.reserve = roomy}))};

  growing_file() { (void)or_throw(f->append(bytes_of("first"))); }

  [[nodiscard]] auto is_ahead() const -> bool { return blocks_of(s / "f") >= (std::uint64_t{64} << 10); }
};

} // namespace

BOOST_AUTO_TEST_SUITE(space_allocated_ahead)

BOOST_AUTO_TEST_CASE(after_fork_stays_the_parents_when_the_child_destroys_or_closes_its_copy) {
  for (bool const closing : {false, true}) {
    growing_file g;
    if (!g.is_ahead()) {
      skip("the file system allocates nothing ahead");
      return;
    }
    BOOST_TEST(found_in_child([&](findings&) {
                 auto moved = *std::move(g.f); // whose it is goes along
                 if (closing) {
                   or_throw(moved.close());
                 }
               }) == "");
    BOOST_TEST(g.is_ahead());
    BOOST_TEST(or_throw(g.f->append(bytes_of("second"))) == 5U);
    g.f.reset();
    BOOST_TEST(!g.is_ahead());
    BOOST_TEST(read_back(g.s / "f") == "firstsecond");
  }
}

BOOST_AUTO_TEST_CASE(after_fork_no_destructor_in_the_child_cuts_off_what_the_parent_appends_meanwhile) {
  growing_file g;
  gate looked;
  gate appended;
  auto const child = start_child([&] {
    seam::arm();
    seam::observe([&](seam::observation const& what) {
      if (what.which == call::ftruncate && !what.over) {
        looked.open();
        appended.pass();
      }
    });
    g.f.reset();
    looked.open();
    return 0;
  });
  looked.pass();
  (void)or_throw(g.f->append(bytes_of("second")));
  appended.open();
  BOOST_TEST(end_of(child) == 0);
  BOOST_TEST(read_back(g.s / "f") == "firstsecond");
  BOOST_TEST(starts_with(g.f->bytes(), "firstsecond"));
}

BOOST_AUTO_TEST_CASE(after_fork_is_given_back_by_the_child_that_allocates_it_or_is_asked_to) {
  for (bool const asked : {false, true}) {
    growing_file g;
    if (!g.is_ahead()) {
      skip("the file system allocates nothing ahead");
      return;
    }
    BOOST_TEST(found_in_child([&](findings&) {
                 if (asked) {
                   or_throw(g.f->shrink_to_fit());
                 } else {
                   (void)or_throw(g.f->append(bytes_of(pattern(100'000)))); // past what the parent has allocated
                 }
                 g.f.reset();
               }) == "");
    BOOST_TEST(blocks_of(g.s / "f") <= (asked ? page : 100'000 + 2 * page));
  }
}

BOOST_AUTO_TEST_CASE(after_exec_stays_with_the_file_until_it_is_trimmed) {
  growing_file g;
  if (!g.is_ahead()) {
    skip("the file system allocates nothing ahead");
    return;
  }
  (void)seen(whose::the_program_executed_instead);
  BOOST_TEST(g.is_ahead());
  or_throw(g.f->shrink_to_fit());
  BOOST_TEST(!g.is_ahead());
}

BOOST_AUTO_TEST_CASE(at_exit_stays_with_the_file_until_it_is_trimmed) {
  scratch const s;
  auto const ahead = [&] { return blocks_of(s / "f") >= (std::uint64_t{64} << 10); };
  if (growing_file const g; !g.is_ahead()) {
    skip("the file system allocates nothing ahead");
    return;
  }
  at_each_exit(
      [&](auto const& leave) {
        auto f = or_throw(mutable_mapped_file::create(s / "f", {.reserve = roomy}));
        (void)or_throw(f.append(bytes_of("text")));
        leave();
      },
      [&] {
        BOOST_TEST(ahead());
        std::filesystem::resize_file(s / "f", 4);
        BOOST_TEST(!ahead());
        std::filesystem::remove(s / "f");
      });
}

BOOST_AUTO_TEST_CASE(at_exit_is_given_back_by_an_object_of_static_storage_when_exit_is_called) {
  scratch const s;
  std::fflush(nullptr);
  auto const child = start_child([&] {
    static std::optional<mutable_mapped_file> f;
    f = or_throw(mutable_mapped_file::create(s / "f", {.reserve = roomy}));
    (void)or_throw(f->append(bytes_of("text")));
    std::exit(0);
    return 99;
  });
  BOOST_TEST(end_of(child) == 0);
  BOOST_TEST(blocks_of(s / "f") <= page);
  BOOST_TEST(read_back(s / "f") == "text");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(removal_on_close)

BOOST_AUTO_TEST_CASE(after_fork_is_done_by_whichever_destroys_its_copy_first) {
  scratch const s;
  std::optional f{or_throw(mutable_mapped_file::create(s / "f", {.size = 4}))};
  f->set_remove_on_close(true);
  std::optional g{or_throw(mapped_file::open(s.file("g", "text")))};
  g->set_remove_on_close(true);
  BOOST_TEST(found_in_child([&](findings&) {
               f.reset();
               g.reset();
             }) == "");
  BOOST_TEST(entries_in(s) == 0);
  put(f->writable_bytes(), "text"); // the parent's is whole all the same
  or_throw(f->close());             // and no error: that it is gone is what was asked for
  or_throw(g->close());
}

BOOST_AUTO_TEST_CASE(after_fork_is_left_to_the_parent_by_a_child_that_is_told_so_or_leaves_at_once) {
  scratch const s;
  std::optional f{or_throw(mutable_mapped_file::create(s / "f", {.size = 4}))};
  f->set_remove_on_close(true);
  BOOST_TEST(found_in_child([&](findings&) {
               f->set_remove_on_close(false);
               f.reset();
             }) == "");
  BOOST_TEST(entries_in(s) == 1);
  BOOST_TEST(found_in_child([](findings&) {}) == ""); // which ends by _exit
  BOOST_TEST(entries_in(s) == 1);
  f.reset();
  BOOST_TEST(entries_in(s) == 0);
}

BOOST_AUTO_TEST_CASE(after_exec_is_forgotten_and_the_file_stays) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = 4}));
  f.set_remove_on_close(true);
  (void)seen(whose::the_program_executed_instead);
  BOOST_TEST(entries_in(s) == 1);
}

BOOST_AUTO_TEST_CASE(at_exit_is_forgotten_and_the_file_stays) {
  scratch const s;
  at_each_exit(
      [&](auto const& leave) {
        auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = 4}));
        f.set_remove_on_close(true);
        leave();
      },
      [&] {
        BOOST_TEST(entries_in(s) == 1);
        std::filesystem::remove(s / "f");
      });
}

BOOST_AUTO_TEST_CASE(at_exit_is_done_by_an_object_of_static_storage_when_exit_is_called) {
  scratch const s;
  std::fflush(nullptr);
  auto const child = start_child([&] {
    static std::optional<mutable_mapped_file> f;
    f = or_throw(mutable_mapped_file::create(s / "f", {.size = 4}));
    f->set_remove_on_close(true);
    std::exit(0);
    return 99;
  });
  BOOST_TEST(end_of(child) == 0);
  BOOST_TEST(entries_in(s) == 0);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_file_view)

BOOST_AUTO_TEST_CASE(after_fork_both_have_the_bytes_those_read_as_a_copy_and_those_mapped_as_the_files) {
  scratch const s;
  std::optional copied{or_throw(fmmap::file_view::open(s.file("small", "old")))};
  std::optional mapped{or_throw(fmmap::file_view::open(s.file("large", "old"), {.map_above = 0}))};
  BOOST_TEST(found_in_child([&](findings& found) {
               or_throw(open_rw(s / "small").write_at(0, bytes_of("new")));
               or_throw(open_rw(s / "large").write_at(0, bytes_of("new")));
               found.expect(text_of(copied->bytes()) == "old", "a copy changed");
               found.expect(text_of(mapped->bytes()) == "new", "a mapping did not");
               copied.reset();
               mapped.reset();
             }) == "");
  BOOST_TEST(text_of(copied->bytes()) == "old");
  BOOST_TEST(text_of(mapped->bytes()) == "new");
}

BOOST_AUTO_TEST_CASE(after_exec_is_gone) {
  scratch const s;
  auto const view = or_throw(fmmap::file_view::open(s.file("f", "text"), {.map_above = 0}));
  expect_gone_after_exec(name_of(s) + "/f");
  expect_unmapped_after_exec(view.bytes());
}

BOOST_AUTO_TEST_CASE(at_exit_the_file_is_as_it_was) {
  scratch const s;
  auto const path = s.file("f", "text");
  at_each_exit(
      [&](auto const& leave) {
        auto const view = or_throw(fmmap::file_view::open(path, {.map_above = 0}));
        leave();
      },
      [&] { BOOST_TEST(read_back(path) == "text"); });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(bytes_that_are_shared)

BOOST_AUTO_TEST_CASE(after_fork_keep_the_memory_in_each_process_on_their_own) {
  scratch const s;
  std::optional<fmmap::shared_bytes> kept;
  {
    auto const m = or_throw(mapped_file::open(s.file("f", "text")));
    kept = or_throw(m.share());
  }
  BOOST_TEST(found_in_child([&](findings& found) {
               auto const at = kept->bytes();
               auto const copy = *kept;
               kept.reset();
               found.expect(text_of(copy.bytes()) == "text", "a copy lost the bytes");
               found.expect(has_address(read_back("/proc/self/maps"), at.data()), "unmapped too early");
             }) == "");
  BOOST_TEST(text_of(kept->bytes()) == "text");
}

BOOST_AUTO_TEST_CASE(after_exec_are_gone) {
  scratch const s;
  auto const kept = or_throw(or_throw(mapped_file::open(s.file("f", "text"))).share());
  expect_unmapped_after_exec(kept.bytes());
}

BOOST_AUTO_TEST_CASE(at_exit_of_one_process_the_others_stay) {
  scratch const s;
  auto const kept = or_throw(or_throw(mapped_file::open(s.file("f", "text"))).share());
  at_each_exit(
      [&](auto const& leave) {
        auto const copy = kept;
        leave();
      },
      [&] { BOOST_TEST(text_of(kept.bytes()) == "text"); });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_memory_lock)

BOOST_AUTO_TEST_CASE(after_fork_holds_nothing_in_the_child_which_may_lock_anew) {
  auto m = or_throw(mapping::anonymous(4 * page));
  auto const before = status_field("VmLck:");
  std::optional held{or_throw(m.lock_memory({.offset = 0, .length = 2 * page}))};
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(status_field("VmLck:") == 0, "the child holds the parent's lock");
               found.expect(held->bytes().size() == 2 * page, "the object says something else");
               std::optional own{or_throw(m.lock_memory({.offset = page, .length = 2 * page}))};
               found.expect(status_field("VmLck:") == 2 * page / 1024, "the child's own does not hold");
               held.reset();
               found.expect(status_field("VmLck:") == 2 * page / 1024, "the parent's, dropped, took the child's along");
               own.reset();
               found.expect(status_field("VmLck:") == 0, "locked for ever");
             }) == "");
  BOOST_TEST(status_field("VmLck:") == before + 2 * page / 1024);
  held.reset();
  BOOST_TEST(status_field("VmLck:") == before);
}

BOOST_AUTO_TEST_CASE(after_exec_holds_nothing) {
  auto const m = or_throw(mapping::anonymous(page));
  auto const held = or_throw(m.lock_memory());
  BOOST_TEST(number_after(seen(whose::this_process), "VmLck:", 10) >= page / 1024);
  BOOST_TEST(number_after(seen(whose::the_program_executed_instead), "VmLck:", 10) == 0U);
}

BOOST_AUTO_TEST_CASE(at_exit_of_one_process_the_others_holds) {
  scratch const s;
  auto const m = or_throw(mapped_file::open(s.file("f", pattern(page))));
  auto const held = or_throw(m.as_mapping().lock_memory());
  auto const locked = status_field("VmLck:");
  at_each_exit(
      [&](auto const& leave) {
        auto const own = or_throw(m.as_mapping().lock_memory());
        leave();
      },
      [&] { BOOST_TEST(status_field("VmLck:") == locked); });
}

BOOST_AUTO_TEST_SUITE_END()

namespace {

// Counts, across processes, the syncs that this process and its children make from now on.
class sync_count {
public:
  sync_count() {
    seam::arm();
    seam::observe([this](seam::observation const& what) {
      if (!what.over && (what.which == call::fdatasync || what.which == call::fsync || what.which == call::msync)) {
        ++*made_;
      }
    });
  }
  sync_count(sync_count const&) = delete;
  auto operator=(sync_count const&) -> sync_count& = delete;
  ~sync_count() { seam::disarm(); }

  [[nodiscard]] auto value() const -> int { return *made_; }

private:
  shared_value<std::atomic<int>> made_;
};

} // namespace

BOOST_AUTO_TEST_SUITE(a_staged_flush)

BOOST_AUTO_TEST_CASE(after_fork_is_run_once_by_each_and_brings_what_either_has_stored) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = page}));
  auto job = or_throw(f.stage_flush());
  sync_count const syncs;
  BOOST_TEST(found_in_child([&](findings& found) {
               put(f.writable_bytes(), "child");
               found.expect(or_throw(job.run()) == durability::data, "not flushed");
               found.expect(fails(job.run(), errc::already_run), "run twice");
             }) == "");
  BOOST_TEST(syncs.value() == 1);
  BOOST_TEST((or_throw(job.run()) == durability::data));
  BOOST_TEST(syncs.value() == 2);
}

BOOST_AUTO_TEST_CASE(after_exec_is_dropped_unrun) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = page}));
  put(f.writable_bytes(), "text");
  auto const job = or_throw(f.stage_flush());
  sync_count const syncs;
  (void)seen(whose::the_program_executed_instead);
  BOOST_TEST(syncs.value() == 0);
  BOOST_TEST(read_back(s / "f").starts_with("text"));
}

BOOST_AUTO_TEST_CASE(at_exit_is_dropped_unrun) {
  scratch const s;
  auto const path = s.file("f", pattern(page));
  sync_count const syncs;
  at_each_exit(
      [&](auto const& leave) {
        auto f = or_throw(mutable_mapped_file::open(path));
        put(f.writable_bytes(), "text");
        auto const job = or_throw(f.stage_flush());
        leave();
      },
      [&] {
        BOOST_TEST(syncs.value() == 0);
        BOOST_TEST(read_back(path).starts_with("text"));
      });
}

BOOST_AUTO_TEST_SUITE_END()

namespace {

// Lets the file's next sync fail.
void fail_a_sync(file& f) {
  seam::armed const table;
  seam::fail(call::fdatasync, EIO, 1);
  if (f.sync()) {
    throw std::runtime_error("a sync succeeded that was to fail");
  }
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_failed_sync)

BOOST_AUTO_TEST_CASE(after_fork_is_remembered_by_both_and_each_has_to_make_it_good) {
  scratch const s;
  auto f = open_rw(s.file("f", pattern(page)));
  fail_a_sync(f);
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(fails(f.sync(), std::errc::io_error), "the child has forgotten it");
               (void)or_throw(f.rewrite());
               (void)or_throw(f.sync());
             }) == "");
  BOOST_TEST(fails(f.sync(), std::errc::io_error));
  (void)or_throw(f.rewrite());
  BOOST_TEST((or_throw(f.sync()) == durability::data));
}

BOOST_AUTO_TEST_CASE(after_fork_is_remembered_only_by_the_process_that_met_it) {
  scratch const s;
  auto f = open_rw(s.file("f", pattern(page)));
  (void)or_throw(f.sync());
  BOOST_TEST(found_in_child([&](findings& found) {
               fail_a_sync(f);
               found.expect(fails(f.sync(), std::errc::io_error), "the child has forgotten it");
             }) == "");
  BOOST_TEST((or_throw(f.sync()) == durability::data));
}

BOOST_AUTO_TEST_CASE(after_exec_is_forgotten_also_by_who_adopts_the_descriptor) {
  scratch const s;
  auto f = open_rw(s.file("f", pattern(page)));
  fail_a_sync(f);
  BOOST_TEST(fails(f.sync(), std::errc::io_error));
  keep_across_exec(f.native_handle());
  BOOST_TEST(run_executed("adopts_a_file_and_syncs_it", f.native_handle()) == 0);
}

BOOST_AUTO_TEST_CASE(at_exit_is_forgotten_with_the_process) {
  scratch const s;
  auto const path = s.file("f", pattern(page));
  at_each_exit(
      [&](auto const& leave) {
        auto f = open_rw(path);
        fail_a_sync(f);
        leave();
      },
      [&] { BOOST_TEST((or_throw(open_rw(path).sync()) == durability::data)); });
}

BOOST_AUTO_TEST_SUITE_END()

namespace {

auto catches_bus_errors(whose process) -> bool {
  return (number_after(seen(process), "SigCgt:", 16) >> (SIGBUS - 1) & 1U) != 0;
}

} // namespace

BOOST_AUTO_TEST_SUITE(the_handler_of_bus_errors)

BOOST_AUTO_TEST_CASE(after_fork_serves_the_child_too_also_within_a_guard) {
  scratch const s;
  auto const path = s.file("f", pattern(2 * page));
  auto const m = or_throw(mapped_file::open(path));
  std::filesystem::resize_file(path, page);
  std::vector<std::byte> copy(2 * page);
  or_throw(fmmap::install_fault_handler());
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(fails(fmmap::guarded_copy_out(m.bytes(), copy), errc::truncated), "no error");
             }) == "");
  pid_t child = -1;
  auto const outcome = fmmap::guarded(m.bytes(), [&](std::span<std::byte const> bytes) {
    child = ::fork();
    return child == 0 ? static_cast<std::byte const volatile&>(bytes[page]) : std::byte{};
  });
  if (child == 0) {
    ::_exit(fails(outcome, errc::truncated) ? 0 : 1);
  }
  BOOST_TEST(outcome.has_value());
  BOOST_TEST(end_of(child) == 0);
}

BOOST_AUTO_TEST_CASE(after_exec_is_gone) {
  or_throw(fmmap::install_fault_handler());
  BOOST_TEST(catches_bus_errors(whose::this_process));
  BOOST_TEST(!catches_bus_errors(whose::the_program_executed_instead));
}

BOOST_AUTO_TEST_CASE(at_exit_from_within_a_guard_the_process_ends_as_it_was_told) {
  scratch const s;
  auto const path = s.file("f", "text");
  at_each_exit(
      [&](auto const& leave) {
        auto const m = or_throw(mapped_file::open(path));
        or_throw(fmmap::guarded(m.bytes(), [&](std::span<std::byte const>) { leave(); }));
      },
      [] {});
}

BOOST_AUTO_TEST_SUITE_END()

namespace {

shared_value<std::atomic<int>>* told = nullptr; // how many errors, for the handler

void count_error(fmmap::error const& /*why*/) noexcept { ++**told; }

class counted_errors {
public:
  counted_errors() : before_{fmmap::set_dropped_error_handler(count_error)} { told = &count_; }
  counted_errors(counted_errors const&) = delete;
  auto operator=(counted_errors const&) -> counted_errors& = delete;
  ~counted_errors() { fmmap::set_dropped_error_handler(before_); }

  [[nodiscard]] auto value() const -> int { return *count_; }

private:
  shared_value<std::atomic<int>> count_;
  fmmap::dropped_error_handler before_;
};

// One that cannot be removed when it is destroyed: somebody else has its name.
auto unremovable(scratch const& s) -> mutable_mapped_file {
  auto f = or_throw(mutable_mapped_file::create(s / "f", {.size = 4}));
  f.set_remove_on_close(true);
  std::filesystem::remove(s / "f");
  (void)s.file("f", "of somebody else");
  return f;
}

} // namespace

BOOST_AUTO_TEST_SUITE(the_handler_of_dropped_errors)

BOOST_AUTO_TEST_CASE(after_fork_is_the_childs_too) {
  scratch const s;
  counted_errors const errors;
  BOOST_TEST(found_in_child([&](findings&) { (void)unremovable(s); }) == "");
  BOOST_TEST(errors.value() == 1);
}

BOOST_AUTO_TEST_CASE(after_exec_is_none) {
  counted_errors const errors;
  BOOST_TEST(run_executed("has_no_handler_of_dropped_errors") == 0);
}

BOOST_AUTO_TEST_CASE(at_exit_is_not_called_for_what_is_not_destroyed) {
  scratch const s;
  counted_errors const errors;
  at_each_exit(
      [&](auto const& leave) {
        auto const f = unremovable(s);
        leave();
      },
      [&] {
        BOOST_TEST(errors.value() == 0);
        std::filesystem::remove(s / "f");
      });
}

BOOST_AUTO_TEST_CASE(at_exit_is_called_for_an_object_of_static_storage_when_exit_is_called) {
  scratch const s;
  counted_errors const errors;
  std::fflush(nullptr);
  auto const child = start_child([&] {
    static std::optional<mutable_mapped_file> f;
    f = unremovable(s);
    std::exit(0);
    return 99;
  });
  BOOST_TEST(end_of(child) == 0);
  BOOST_TEST(errors.value() == 1);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_replacement_being_filled)

BOOST_AUTO_TEST_CASE(after_fork_is_finished_by_the_parent_when_the_child_leaves_by_exit) {
  scratch const s;
  auto const path = s.file("f", "old");
  for (bool const named : {false, true}) {
    seam::armed const table;
    if (named) {
      seam::fail_nth(4, EOPNOTSUPP); // as on a file system without files that have no name
    }
    or_throw(fmmap::replace_file(path, 3, [&](std::span<std::byte> content) {
      auto const child = start_child([&] {
        put(content, "new"); // the content is shared with the child
        return 0;
      });
      BOOST_TEST(end_of(child) == 0);
    }));
    BOOST_TEST(read_back(path) == "new");
    BOOST_TEST(entries_in(s) == 1);
  }
}

BOOST_AUTO_TEST_CASE(after_exec_is_given_up_and_the_old_file_stays) {
  scratch const s;
  auto const path = s.file("f", "old");
  for (bool const named : {false, true}) {
    auto const child = start_child([&] {
      seam::arm();
      if (named) {
        seam::fail_nth(4, EOPNOTSUPP);
      }
      (void)fmmap::replace_file(path, 3, [&](std::span<std::byte> content) {
        put(content, "new");
        auto const script = "! ls -l /proc/$$/fd | grep -q " + name_of(s);
        ::execl("/bin/sh", "sh", "-c", script.c_str(), nullptr);
      });
      return 99;
    });
    BOOST_TEST(end_of(child) == 0); // and nothing of it was open any more
    BOOST_TEST(read_back(path) == "old");
    BOOST_TEST(entries_in(s) == (named ? 2 : 1));
  }
  seam::armed const table;
  seam::fail_nth(4, EOPNOTSUPP);
  or_throw(fmmap::replace_file(path, 3, [](std::span<std::byte> content) { put(content, "new"); }));
  BOOST_TEST(entries_in(s) == 1); // which cleared what was left
  BOOST_TEST(read_back(path) == "new");
}

BOOST_AUTO_TEST_CASE(at_exit_is_given_up_and_the_old_file_stays) {
  scratch const s;
  auto const path = s.file("f", "old");
  for (bool const named : {false, true}) {
    at_each_exit(
        [&](auto const& leave) {
          seam::arm();
          if (named) {
            seam::fail_nth(4, EOPNOTSUPP);
          }
          (void)fmmap::replace_file(path, 3, [&](std::span<std::byte> content) {
            put(content, "new");
            leave();
          });
        },
        [&] {
          BOOST_TEST(read_back(path) == "old");
          BOOST_TEST(entries_in(s) == (named ? 2 : 1));
          or_throw(fmmap::replace_file(path, 3, [](std::span<std::byte> content) { put(content, "old"); }));
        });
  }
}

BOOST_AUTO_TEST_SUITE_END()

// Threads of the parent are not in the child, and what they held stays held.
BOOST_AUTO_TEST_SUITE(a_child_of_a_process_with_threads)

BOOST_AUTO_TEST_CASE(reads_writes_and_guards_bytes_while_a_thread_of_the_parent_was_flushing) {
  if (thread_sanitized) {
    skip("the thread sanitizer wants no fork of a process with threads");
    return;
  }
  scratch const s;
  auto const path = s.file("f", pattern(2 * page));
  auto f = or_throw(mutable_mapped_file::open(path));
  auto second = open_rw(path);
  or_throw(fmmap::install_fault_handler());
  gate flushing;
  gate forked;
  seam::armed const table;
  seam::observe([&](seam::observation const& what) {
    if (what.which == call::fdatasync && !what.over) {
      flushing.open();
      forked.pass();
    }
  });
  std::thread thread{[&] { (void)or_throw(f.flush()); }};
  flushing.pass();
  auto const child = start_child([&] {
    seam::disarm();
    std::vector<std::byte> bytes(2 * page);
    put(f.writable_bytes(), "child");
    auto const sees = starts_with(f.bytes(), "child");
    or_throw(second.write_at(page, bytes_of("child")));
    auto const reads = or_throw(second.read_at(page, bytes)) == page && starts_with(bytes, "child");
    auto const guards = fmmap::guarded_copy_out(f.bytes(), bytes).has_value();
    return sees && reads && guards ? 0 : 1;
  });
  BOOST_TEST(end_of(child) == 0);
  forked.open();
  thread.join();
  BOOST_TEST(starts_with(f.bytes(), "child"));
}

BOOST_AUTO_TEST_SUITE_END()

// What the executed program does; not run by itself.
BOOST_AUTO_TEST_SUITE(executed, *boost::unit_test::disabled())

BOOST_AUTO_TEST_CASE(adopts_a_file_and_writes_to_it) {
  auto f = or_throw(mutable_mapped_file::adopt(or_throw(file::adopt(given_descriptor()))));
  BOOST_TEST(text_of(f.bytes()) == "from before");
  put(f.writable_bytes(), "from after ");
}

BOOST_AUTO_TEST_CASE(adopts_a_file_and_syncs_it) {
  BOOST_TEST((or_throw(or_throw(file::adopt(given_descriptor())).sync()) == durability::data));
}

BOOST_AUTO_TEST_CASE(has_no_handler_of_dropped_errors) {
  BOOST_TEST((fmmap::set_dropped_error_handler(nullptr) == nullptr));
}

BOOST_AUTO_TEST_SUITE_END()
