// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <memory_resource>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <elf.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exec/strategies.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"

import fmmap.core;
import fmmap.exec;
import fmmap.os;

using fmmap::code_arena;
using fmmap::code_span;
using fmmap::errc;
using fmmap::or_throw;
using fmmap::os::call;
namespace seam = fmmap::os::seam;

extern "C" {
// As in GDB's manual.
struct jit_code_entry {
  jit_code_entry* next;
  jit_code_entry* previous;
  char const* file;
  std::uint64_t file_size;
};
struct jit_descriptor {
  std::uint32_t version;
  std::uint32_t action;
  jit_code_entry* relevant;
  jit_code_entry* first;
};
extern jit_descriptor __jit_debug_descriptor;
}

namespace {

auto published(code_arena& arena, std::uint32_t value, std::string_view name = {}) -> code_span {
  auto const code = or_throw(arena.allocate(6));
  or_throw(arena.write(code, returning(value), name));
  or_throw(arena.publish());
  return code;
}

auto map_path() -> std::filesystem::path { return "/tmp/perf-" + std::to_string(::getpid()) + ".map"; }

auto map_text() -> std::string {
  std::ifstream file{map_path()};
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

auto line_of(code_span code, std::string_view name) -> std::string {
  std::ostringstream line;
  line << std::hex << reinterpret_cast<std::uintptr_t>(code.address()) << ' ' << code.size() << ' ' << name << '\n';
  return line.str();
}

auto name_after(code_span code) -> std::string {
  std::ostringstream name;
  name << "code_" << std::hex << reinterpret_cast<std::uintptr_t>(code.address());
  return name.str();
}

// What a debugger reads: the names of functions by their addresses.
auto told() -> std::map<std::uintptr_t, std::string> {
  std::map<std::uintptr_t, std::string> found;
  jit_code_entry const* before = nullptr;
  for (auto const* one = __jit_debug_descriptor.first; one != nullptr; one = one->next) {
    BOOST_TEST_REQUIRE(one->previous == before);
    before = one;
    auto const* const header = reinterpret_cast<Elf64_Ehdr const*>(one->file);
    BOOST_TEST_REQUIRE(std::memcmp(header->e_ident, ELFMAG, SELFMAG) == 0);
    auto const* const sections = reinterpret_cast<Elf64_Shdr const*>(one->file + header->e_shoff);
    auto const& symbols = sections[2];
    auto const* const function = reinterpret_cast<Elf64_Sym const*>(one->file + symbols.sh_offset) + 1;
    auto const& strings = sections[symbols.sh_link];
    BOOST_TEST_REQUIRE(strings.sh_offset + strings.sh_size == one->file_size);
    BOOST_TEST_REQUIRE(function->st_size == sections[function->st_shndx].sh_size);
    found[sections[function->st_shndx].sh_addr] = one->file + strings.sh_offset + function->st_name;
  }
  return found;
}

auto address_of(code_span code) -> std::uintptr_t { return reinterpret_cast<std::uintptr_t>(code.address()); }

} // namespace

BOOST_AUTO_TEST_SUITE(a_list_for_perf)

// In a child, of which the file carries the number.
BOOST_AUTO_TEST_CASE(names_all_that_is_published) {
  BOOST_TEST(found_in_child([](findings& found) {
               auto arena = or_throw(code_arena::create({.perf_map = true}));
               auto const first = published(arena, 1, "first");
               found.expect(map_text() == line_of(first, "first"), "the first: " + map_text());
               auto const odd = or_throw(arena.allocate(6));
               auto const nameless = or_throw(arena.allocate(6));
               auto const renamed = or_throw(arena.allocate(6));
               auto const given_up = or_throw(arena.allocate(6));
               or_throw(arena.write(odd, returning(2), "two\nlines and a tab\t"));
               or_throw(arena.write(nameless, returning(3)));
               or_throw(arena.write(renamed, returning(4), "before"));
               or_throw(arena.write(renamed, returning(4), "after"));
               or_throw(arena.write(given_up, returning(5), "given up"));
               or_throw(arena.retire(given_up));
               found.expect(map_text() == line_of(first, "first"), "what is not published is listed");
               or_throw(arena.publish());
               auto const text = map_text();
               found.expect(text.contains(line_of(odd, "two?lines and a tab?")), "a name with lines: " + text);
               found.expect(text.contains(line_of(nameless, name_after(nameless))), "no name: " + text);
               found.expect(text.contains(line_of(renamed, "after")), "the last name: " + text);
               found.expect(std::ranges::count(text, '\n') == 4, "lines: " + text);
               struct stat file{};
               ::stat(map_path().c_str(), &file);
               found.expect((file.st_mode & 0777) == 0600, "others can read it");
               // Another arena goes on with it.
               auto other = or_throw(code_arena::create({.perf_map = true}));
               auto const last = published(other, 6, "last");
               found.expect(map_text() == text + line_of(last, "last"), "another arena");
               std::filesystem::remove(map_path());
             }) == "");
}

BOOST_AUTO_TEST_CASE(names_what_a_container_holds) {
  BOOST_TEST(found_in_child([](findings& found) {
               auto arena = or_throw(code_arena::create({.perf_map = true}));
               auto const resource = or_throw(fmmap::exec_resource::create(arena));
               auto const bytes = returning(1);
               std::pmr::vector<std::byte> code{bytes.begin(), bytes.end(), resource.get()};
               or_throw(resource->flush("held"));
               auto const owner = arena.find(reinterpret_cast<void const*>(resource->entry<int()>(code.data())));
               found.expect(owner && map_text() == line_of(*owner, "held"), map_text());
               code[1] = std::byte{2};
               or_throw(resource->flush("held again"));
               found.expect(map_text() == line_of(*owner, "held"), "it is listed twice");
               std::filesystem::remove(map_path());
             }) == "");
}

BOOST_AUTO_TEST_CASE(is_refused_where_the_file_is_something_else) {
  BOOST_TEST(found_in_child([](findings& found) {
               auto const wanted = fmmap::code_arena_options{.perf_map = true};
               std::filesystem::create_symlink("/tmp/elsewhere", map_path());
               auto const through_link = code_arena::create(wanted);
               found.expect(fails(through_link, std::errc::too_many_symbolic_link_levels), "a link is followed");
               found.expect(through_link.error().message().contains(map_path().native()), "it does not say which");
               std::filesystem::remove(map_path());
               ::mkfifo(map_path().c_str(), 0600);
               found.expect(fails(code_arena::create(wanted), std::errc::permission_denied), "a pipe");
               std::filesystem::remove(map_path());
               std::ofstream{map_path().native() + ".other"} << "";
               std::filesystem::create_hard_link(map_path().native() + ".other", map_path());
               found.expect(fails(code_arena::create(wanted), std::errc::permission_denied), "a second name");
               std::filesystem::remove(map_path().native() + ".other");
               std::filesystem::remove(map_path());
               if (is_root()) {
                 std::ofstream{map_path()} << "a line\n";
                 found.expect(::chown(map_path().c_str(), 65534, 65534) == 0, "chown");
                 auto const refused = code_arena::create(wanted);
                 found.expect(!refused && refused.error() == std::errc::permission_denied, "somebody else's");
                 found.expect(map_text() == "a line\n", "it was written to");
                 std::filesystem::remove(map_path());
               }
             }) == "");
}

std::string dropped;

BOOST_AUTO_TEST_CASE(that_cannot_be_written_keeps_no_code_from_running) {
  BOOST_TEST(found_in_child([](findings& found) {
               fmmap::set_dropped_error_handler([](fmmap::error const& why) noexcept { dropped = why.message(); });
               auto arena = or_throw(code_arena::create({.perf_map = true}));
               {
                 seam::armed const table;
                 seam::fail(call::write, ENOSPC);
                 found.expect(published(arena, 1, "lost").entry<int()>()() == 1, "it does not run");
               }
               found.expect(!dropped.empty(), "nobody is told");
               auto const next = published(arena, 2, "next");
               found.expect(map_text() == line_of(next, "next"), "the next: " + map_text());
               std::filesystem::remove(map_path());
             }) == "");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(what_a_debugger_is_told)

BOOST_AUTO_TEST_CASE(is_each_function_from_publish_until_it_is_reclaimed) {
  auto const before = told().size();
  auto arena = or_throw(code_arena::create({.debugger = true}));
  auto const one = published(arena, 1, "one");
  auto const two = published(arena, 2, "two");
  auto const nameless = published(arena, 3);
  auto all = told();
  BOOST_TEST(all.size() == before + 3);
  BOOST_TEST(all[address_of(one)] == "one");
  BOOST_TEST(all[address_of(two)] == "two");
  BOOST_TEST(all[address_of(nameless)] == name_after(nameless));
  or_throw(arena.retire(two));
  BOOST_TEST(told().size() == before + 3); // somebody may be in it
  BOOST_TEST(or_throw(arena.reclaim()) == 1);
  BOOST_TEST(!told().contains(address_of(two)));
  {
    auto const again = published(arena, 4, "again");
    BOOST_TEST(told()[address_of(again)] == "again");
  }
  auto other = or_throw(code_arena::create({.debugger = true}));
  (void)published(other, 5, "other");
  or_throw(arena.close());
  BOOST_TEST(told().size() == before + 1);
  other = code_arena{};
  BOOST_TEST(told().size() == before);
}

BOOST_AUTO_TEST_CASE(is_nothing_unless_it_is_asked_for) {
  auto const before = told().size();
  auto arena = or_throw(code_arena::create());
  (void)published(arena, 1, "one");
  BOOST_TEST(told().size() == before);
}

BOOST_AUTO_TEST_CASE(is_nothing_of_a_publish_that_failed) {
  auto const before = told().size();
  auto arena = or_throw(code_arena::create({.strategy = fmmap::code_strategy::no_alias, .debugger = true}));
  auto const code = or_throw(arena.allocate(6));
  or_throw(arena.write(code, returning(1), "once"));
  {
    seam::armed const table;
    seam::fail(call::pwrite, ENOSPC);
    BOOST_TEST(fails(arena.publish(), std::errc::no_space_on_device));
  }
  BOOST_TEST(told().size() == before);
  or_throw(arena.publish());
  BOOST_TEST(told()[address_of(code)] == "once");
}

BOOST_AUTO_TEST_CASE(is_whole_in_a_forked_child) {
  auto arena = or_throw(code_arena::create({.debugger = true}));
  (void)published(arena, 1, "one");
  BOOST_TEST(found_in_child([&](findings& found) {
               ::alarm(20);
               auto const before = told().size();
               arena = code_arena{};
               found.expect(told().size() == before - 1, "what is gone is still told of");
             }) == "");
  BOOST_TEST(!told().empty());
}

BOOST_AUTO_TEST_SUITE_END()
