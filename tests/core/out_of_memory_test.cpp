// SPDX-License-Identifier: MIT OR Apache-2.0

// Every allocation of every operation fails in turn, once and from there on. Whether an exception or an error comes out,
// nothing leaks, nothing is left behind, objects go on working and destructors do not end the program.

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <expected>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;

using fmmap::access;
using fmmap::durability;
using fmmap::file;
using fmmap::mapping;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;
namespace os = fmmap::os;
namespace seam = fmmap::os::seam;

namespace {

// The thread sanitizer has an operator new of its own, which no program may replace.
#if defined(__SANITIZE_THREAD__)
#define FMMAP_TEST_REPLACES_NEW 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FMMAP_TEST_REPLACES_NEW 0
#endif
#endif
#ifndef FMMAP_TEST_REPLACES_NEW
#define FMMAP_TEST_REPLACES_NEW 1
#endif

int refuse_from = 0; // how many allocations from now on the first refused one is; 0: none is
bool refuse_the_rest = false;
bool has_refused = false;

#if FMMAP_TEST_REPLACES_NEW

auto allocate(std::size_t size, std::size_t alignment) noexcept -> void* {
  if (refuse_from > 0 && --refuse_from == 0) {
    has_refused = true;
    refuse_from = refuse_the_rest ? 1 : 0;
    return nullptr;
  }
  auto const rounded = (std::max(size, std::size_t{1}) + alignment - 1) / alignment * alignment;
  return std::aligned_alloc(alignment, rounded);
}

auto allocate_or_throw(std::size_t size, std::size_t alignment) -> void* {
  auto* const memory = allocate(size, alignment);
  if (memory == nullptr) {
    throw std::bad_alloc{};
  }
  return memory;
}

constexpr auto usual = alignof(std::max_align_t);

} // namespace

auto operator new(std::size_t size) -> void* { return allocate_or_throw(size, usual); }
auto operator new[](std::size_t size) -> void* { return allocate_or_throw(size, usual); }
auto operator new(std::size_t size, std::nothrow_t const&) noexcept -> void* { return allocate(size, usual); }
auto operator new[](std::size_t size, std::nothrow_t const&) noexcept -> void* { return allocate(size, usual); }
auto operator new(std::size_t size, std::align_val_t alignment) -> void* {
  return allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
auto operator new[](std::size_t size, std::align_val_t alignment) -> void* {
  return allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::nothrow_t const&) noexcept { std::free(memory); }
void operator delete[](void* memory, std::nothrow_t const&) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

#endif // FMMAP_TEST_REPLACES_NEW

// Says, once, why not when allocations cannot be refused.
auto can_refuse() -> bool {
  static bool const can = [] {
    if (FMMAP_TEST_REPLACES_NEW == 0) {
      skip("the thread sanitizer has an operator new of its own");
    }
    return FMMAP_TEST_REPLACES_NEW != 0;
  }();
  return can;
}

constexpr std::size_t page = 4096;

// Without the heap, which the system may have in one piece or in two.
auto mappings() -> std::size_t {
  std::ifstream maps{"/proc/self/maps"};
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) {
    count += line.ends_with("[heap]") ? 0 : 1;
  }
  return count;
}

auto names_in(scratch const& s) -> std::set<std::string> {
  std::set<std::string> names;
  for (auto const& entry : std::filesystem::directory_iterator{s.folder()}) {
    names.insert(entry.path().filename());
  }
  return names;
}

// Runs `act` on what `prepare` makes with one allocation refused, and `check` afterwards. Says whether one was.
auto run_once(int nth, bool and_the_rest, auto const& prepare, auto const& act, auto const& check, findings& found)
    -> bool {
  scratch const s;
  auto const descriptors_before = descriptor_count();
  auto const maps_before = mappings();
  bool refused = false;
  {
    auto state = prepare(s);
    auto const names = names_in(s);
    bool done = false;
    has_refused = false;
    refuse_the_rest = and_the_rest;
    refuse_from = nth;
    try {
      done = act(state, s);
    } catch (std::bad_alloc const&) {
    }
    refuse_from = 0;
    refused = has_refused;
    found.expect(done || names_in(s) == names, "a failure has left or taken a file");
    found.expect(done || refused, "it failed with memory enough");
    check(state, s, done, found);
  }
  found.expect(descriptor_count() == descriptors_before, "a descriptor is left");
  found.expect(sanitized || mappings() <= maps_before, "a mapping is left");
  return refused;
}

auto found_at_every_allocation(auto const& prepare, auto const& act, auto const& check) -> std::string {
  if (!can_refuse()) {
    return {};
  }
  auto* const progress = static_cast<int*>(
      ::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)); // outlives the child
  auto text = found_in_child([&](findings& found) {
    for (auto const signal : {SIGABRT, SIGSEGV, SIGBUS}) {
      ::signal(signal, SIG_DFL); // the test framework's handler would go on in the child
    }
    (void)run_once(0, false, prepare, act, check, found); // what the program allocates once
    for (bool const and_the_rest : {false, true}) {
      for (int nth = 1;; ++nth) {
        *progress = nth;
        auto const refused = run_once(nth, and_the_rest, prepare, act, check, found);
        if (!found.text().empty()) {
          found.expect(false, "at allocation " + std::to_string(nth) + (and_the_rest ? " and all after it" : ""));
          return;
        }
        if (!refused) {
          break;
        }
      }
    }
    *progress = 0;
  });
  if (!text.empty()) {
    text += "the last allocation refused was the " + std::to_string(*progress) + ".\n";
  }
  ::munmap(progress, page);
  return text;
}

auto nothing(scratch const&) -> int { return 0; }

auto open_rw(std::filesystem::path const& path) -> file {
  return or_throw(file::open(path, {.access = access::read_write}));
}

// A file of sixteen pages and a mapping of it.
struct mapped {
  file f;
  mapping m;
  std::filesystem::path path;

  explicit mapped(scratch const& s, fmmap::map_options options = {.access = access::read_write})
      : f{open_rw(s.file("f", pattern(16 * page)))}, m{or_throw(mapping::map(f, options))}, path{s / "f"} {}
};

auto map_one(scratch const& s) -> mapped { return mapped{s}; }

void is_as_it_was(mapped& t, findings& found) {
  found.expect(t.m.size() == 16 * page, "the mapping has another size");
  found.expect(text_of(t.m.bytes()) == pattern(16 * page), "the mapping has other bytes");
  found.expect(or_throw(t.f.size()) == 16 * page, "the file has another size");
  t.m.writable_bytes()[0] = t.m.bytes()[0];
  found.expect(t.m.flush().has_value(), "it cannot be flushed");
}

void is_as_it_was_unless_done(mapped& t, scratch const&, bool, findings& found) { is_as_it_was(t, found); }

} // namespace

BOOST_AUTO_TEST_SUITE(without_memory)

BOOST_AUTO_TEST_CASE(a_refused_allocation_is_seen) {
  if (!can_refuse()) {
    return;
  }
  refuse_from = 2;
  auto const first = std::make_unique<int>(1);
  BOOST_CHECK_THROW((void)std::make_unique<int>(2), std::bad_alloc);
  BOOST_TEST(*std::make_unique<int>(3) == 3);
}

BOOST_AUTO_TEST_CASE(opening_a_file_leaves_nothing) {
  auto const existing = [](scratch const& s) { return s.file("f", pattern(100)); };
  BOOST_TEST(found_at_every_allocation(
                 existing, [](auto const& path, scratch const&) { return file::open(path).has_value(); },
                 [](auto const& path, scratch const&, bool, findings& found) {
                   found.expect(read_back(path) == pattern(100), "the file has changed");
                 }) == "");
  BOOST_TEST(found_at_every_allocation(
                 nothing,
                 [](int, scratch const& s) {
                   return file::open(s / "new", {.access = access::read_write, .create = true}).has_value();
                 },
                 [](auto const&...) {}) == "");
  BOOST_TEST(found_at_every_allocation(
                 nothing, [](int, scratch const& s) { return file::temporary(s.folder()).has_value(); },
                 [](auto const&...) {}) == "");
  BOOST_TEST(found_at_every_allocation(
                 nothing, [](int, scratch const&) { return file::in_memory("memory").has_value(); },
                 [](auto const&...) {}) == "");
  BOOST_TEST(found_at_every_allocation(
                 existing, [](auto const& path, scratch const&) { return fmmap::mapped_file::open(path).has_value(); },
                 [](auto const&...) {}) == "");
  for (std::size_t const map_above : {std::size_t{0}, page}) {
    BOOST_TEST(found_at_every_allocation(
                   existing,
                   [&](auto const& path, scratch const&) {
                     return fmmap::file_view::open(path, {.map_above = map_above}).has_value();
                   },
                   [](auto const&...) {}) == "");
  }
}

BOOST_AUTO_TEST_CASE(creating_a_file_with_a_durable_name_leaves_nothing) {
  BOOST_TEST(
      found_at_every_allocation(
          nothing,
          [](int, scratch const& s) { return file::create_new(s / "new", {.sync_directory = true}).has_value(); },
          [](auto const&...) {}) == "");
}

BOOST_AUTO_TEST_CASE(opening_from_a_directory_or_without_links_leaves_nothing) {
  auto const directory = [](scratch const& s) {
    (void)s.file("f", "abc");
    return or_throw(file::open(s.folder(), {.any_type = true}));
  };
  for (bool const absent : {false, true}) {
    BOOST_TEST(
        found_at_every_allocation(
            [&](scratch const& s) {
              auto opened = directory(s);
              seam::arm();
              for (int i = 0; i < 100; ++i) { // the record of calls has room then
                (void)opened.size();
              }
              seam::arm();
              if (absent) {
                seam::pretend_absent(os::call::openat2);
              }
              return opened;
            },
            [](file const& from, scratch const&) {
              return file::open_at(from, "f", {.symlinks = fmmap::symlinks::refuse_all, .beneath = true}).has_value();
            },
            [](file const& from, scratch const&, bool, findings& found) {
              seam::disarm();
              found.expect(file::open_at(from, "f").has_value(), "the directory is of no use");
            }) == "");
  }
}

BOOST_AUTO_TEST_CASE(a_descriptor_that_was_not_adopted_is_still_the_callers) {
  BOOST_TEST(
      found_at_every_allocation([](scratch const& s) { return ::open(s.file("f", "abc").c_str(), O_RDWR | O_CLOEXEC); },
                                [](int descriptor, scratch const&) { return file::adopt(descriptor, "f").has_value(); },
                                [](int descriptor, scratch const&, bool done, findings& found) {
                                  found.expect((::fcntl(descriptor, F_GETFD) == -1) == done,
                                               "closed without success, or open with it");
                                  if (!done) {
                                    ::close(descriptor);
                                  }
                                }) == "");
}

BOOST_AUTO_TEST_CASE(an_error_keeps_its_code_or_becomes_an_exception) {
  BOOST_TEST(found_at_every_allocation([](scratch const& s) { return s / "missing"; },
                                       [](auto const& path, scratch const&) {
                                         return fails(file::open(path), std::errc::no_such_file_or_directory);
                                       },
                                       [](auto const&...) {}) == "");
  BOOST_TEST(found_at_every_allocation(
                 map_one,
                 [](mapped& t, scratch const&) {
                   return fails(t.m.bytes({.offset = 17 * page}), fmmap::errc::out_of_range) &&
                          fails(mapping::map(t.f, {.address = reinterpret_cast<std::byte*>(1)}),
                                fmmap::errc::invalid_options);
                 },
                 is_as_it_was_unless_done) == "");
}

BOOST_AUTO_TEST_CASE(a_file_that_is_written_resized_and_synced_works) {
  BOOST_TEST(found_at_every_allocation(
                 map_one,
                 [](mapped& t, scratch const&) {
                   std::byte out{};
                   return t.f.write_at(0, t.m.bytes().first(10)).has_value() && t.f.read_at(0, {&out, 1}).has_value() &&
                          t.f.resize(20 * page).has_value() &&
                          t.f.allocate({.offset = 16 * page, .length = page}).has_value() &&
                          t.f.punch_hole({.offset = 18 * page, .length = page}).has_value() &&
                          t.f.data_ranges().has_value() && t.f.metadata().has_value() && t.f.sync().has_value() &&
                          t.f.rewrite().has_value();
                 },
                 [](mapped& t, scratch const&, bool, findings& found) {
                   or_throw(t.f.resize(16 * page));
                   is_as_it_was(t, found);
                 }) == "");
}

BOOST_AUTO_TEST_CASE(a_clone_is_whole_or_not_there) {
  BOOST_TEST(found_at_every_allocation(
                 map_one,
                 [](mapped& t, scratch const& s) {
                   return t.f.clone_to(s / "clone", {.level = durability::data}).has_value();
                 },
                 [](mapped& t, scratch const& s, bool done, findings& found) {
                   found.expect(!done || read_back(s / "clone") == pattern(16 * page), "the clone is another file");
                   is_as_it_was(t, found);
                 }) == "");
}

BOOST_AUTO_TEST_CASE(a_file_is_removed_or_can_be_removed_later) {
  BOOST_TEST(found_at_every_allocation(
                 map_one, [](mapped& t, scratch const&) { return t.f.remove().has_value(); },
                 [](mapped& t, scratch const&, bool done, findings& found) {
                   found.expect(std::filesystem::exists(t.path) != done, "removed without success, or not with it");
                   found.expect(done || t.f.remove().has_value(), "it cannot be removed any more");
                   is_as_it_was(t, found);
                 }) == "");
}

BOOST_AUTO_TEST_CASE(a_replaced_file_is_the_old_or_the_new_one) {
  for (auto const size : {std::size_t{0}, std::size_t{10'000}}) {
    BOOST_TEST(found_at_every_allocation(
                   [](scratch const& s) { return s.file("f", "old"); },
                   [&](auto const& path, scratch const&) {
                     return fmmap::replace_file(
                                path, size, [](std::span<std::byte> out) { std::ranges::fill(out, std::byte{'n'}); })
                         .has_value();
                   },
                   [&](auto const& path, scratch const& s, bool done, findings& found) {
                     found.expect(read_back(path) == (done ? std::string(size, 'n') : "old"), "it is neither");
                     found.expect(names_in(s).size() == 1, "there is a leftover");
                   }) == "");
  }
}

BOOST_AUTO_TEST_CASE(mapping_leaves_nothing) {
  for (auto const wanted : {access::read_only, access::read_write, access::copy_on_write}) {
    for (std::size_t const reserve : {std::size_t{0}, 64 * page}) {
      BOOST_TEST(found_at_every_allocation(
                     map_one,
                     [&](mapped& t, scratch const&) {
                       return mapping::map(t.f, {.access = wanted, .reserve = reserve, .populate = true}).has_value();
                     },
                     is_as_it_was_unless_done) == "");
    }
  }
  for (std::size_t const reserve : {std::size_t{0}, 64 * page}) {
    BOOST_TEST(found_at_every_allocation(
                   nothing,
                   [&](int, scratch const&) { return mapping::anonymous(page, {.reserve = reserve}).has_value(); },
                   [](auto const&...) {}) == "");
  }
}

BOOST_AUTO_TEST_CASE(a_mapping_goes_on_working) {
  BOOST_TEST(found_at_every_allocation(
                 map_one,
                 [](mapped& t, scratch const&) {
                   return t.m.advise(fmmap::advice::will_need).has_value() && t.m.residency().has_value() &&
                          t.m.share({.offset = page, .length = 10}).has_value() &&
                          t.m.bytes(fmmap::whole).has_value() && t.m.protect(access::read_only).has_value() &&
                          t.m.protect(access::read_write).has_value();
                 },
                 [](mapped& t, scratch const&, bool, findings& found) {
                   or_throw(t.m.protect(access::read_write));
                   is_as_it_was(t, found);
                 }) == "");
  BOOST_TEST(found_at_every_allocation(
                 map_one, [](mapped& t, scratch const&) { return t.m.reserve(1024 * page).has_value(); },
                 is_as_it_was_unless_done) == "");
  BOOST_TEST(
      found_at_every_allocation(
          map_one,
          [](mapped& t, scratch const&) { return t.m.resize(page).has_value() && t.m.resize(16 * page).has_value(); },
          [](mapped& t, scratch const&, bool, findings& found) {
            or_throw(t.m.resize(16 * page));
            is_as_it_was(t, found);
          }) == "");
  BOOST_TEST(found_at_every_allocation(
                 map_one, [](mapped& t, scratch const&) { return t.m.close().has_value(); },
                 [](mapped& t, scratch const&, bool, findings& found) {
                   found.expect(!t.m.is_open(), "it is still open");
                 }) == "");
  BOOST_TEST(found_at_every_allocation(
                 [](scratch const&) {
                   auto m = or_throw(mapping::anonymous(3 * page));
                   m.writable_bytes()[3 * page - 1] = std::byte{42};
                   return m;
                 },
                 [](mapping& m, scratch const&) {
                   return m.reserve(1024 * page).has_value() && m.resize(100 * page).has_value();
                 },
                 [](mapping& m, scratch const&, bool, findings& found) {
                   found.expect(m.bytes()[3 * page - 1] == std::byte{42}, "a byte was lost");
                   or_throw(m.resize(page));
                 }) == "");
}

BOOST_AUTO_TEST_CASE(flushes_reach_what_they_say) {
  BOOST_TEST(found_at_every_allocation(
                 map_one,
                 [](mapped& t, scratch const&) {
                   if (!t.m.flush().has_value() || !t.m.flush({.offset = 5, .length = 10}).has_value() ||
                       !t.m.rewrite().has_value()) {
                     return false;
                   }
                   auto job = t.m.stage_flush({.offset = page, .length = 10});
                   return job.has_value() && job->run().has_value();
                 },
                 is_as_it_was_unless_done) == "");
}

BOOST_AUTO_TEST_CASE(a_memory_lock_that_was_refused_holds_nothing) {
  BOOST_TEST(found_at_every_allocation(
                 map_one,
                 [](mapped& t, scratch const&) {
                   auto const held = t.m.lock_memory({.offset = 0, .length = 4 * page});
                   refuse_from = 0; // how a lock goes is another case
                   return held.has_value();
                 },
                 [](mapped& t, scratch const&, bool, findings& found) {
                   found.expect(status_field("VmLck:") == 0, "pages stay locked");
                   (void)or_throw(t.m.lock_memory());
                   found.expect(status_field("VmLck:") == 0, "pages stay locked for ever");
                   is_as_it_was(t, found);
                 }) == "");
}

BOOST_AUTO_TEST_CASE(a_memory_lock_goes) {
  struct held {
    mapped t;
    std::optional<fmmap::memory_lock> first;
    std::optional<fmmap::memory_lock> second;
  };
  BOOST_TEST(found_at_every_allocation(
                 [](scratch const& s) {
                   held made{.t = mapped{s}, .first = {}, .second = {}};
                   made.first = or_throw(made.t.m.lock_memory({.offset = 0, .length = 8 * page}));
                   made.second = or_throw(made.t.m.lock_memory({.offset = 4 * page, .length = 2 * page}));
                   return made;
                 },
                 [](held& h, scratch const&) {
                   h.first.reset();
                   h.second.reset();
                   return true;
                 },
                 [](held& h, scratch const&, bool, findings& found) {
                   found.expect(status_field("VmLck:") == 0, "pages stay locked");
                   is_as_it_was(h.t, found);
                 }) == "");
}

BOOST_AUTO_TEST_CASE(a_failed_sync_stays_failed_until_all_of_it_is_rewritten) {
  BOOST_TEST(found_at_every_allocation(
                 [](scratch const& s) {
                   mapped t{s};
                   seam::arm();
                   for (int i = 0; i < 100; ++i) { // the record of calls has room then
                     (void)t.f.size();
                   }
                   seam::arm();
                   seam::fail(os::call::fdatasync, EIO, 1);
                   return t;
                 },
                 [](mapped& t, scratch const&) { return fails(t.m.flush(), std::errc::io_error); },
                 [](mapped& t, scratch const&, bool, findings& found) {
                   auto const begun = seam::injected() == 1; // or refused before the system was asked
                   seam::disarm();
                   found.expect(fails(t.m.flush(), std::errc::io_error) == begun, "the failure is forgotten");
                   if (!begun) {
                     return;
                   }
                   found.expect(t.m.rewrite({.offset = page, .length = page}).has_value(), "a page is not rewritten");
                   found.expect(fails(t.m.flush(), std::errc::io_error), "one page has made good for all");
                   found.expect(t.m.rewrite().has_value(), "it cannot be rewritten");
                   is_as_it_was(t, found);
                 }) == "");
}

BOOST_AUTO_TEST_CASE(creating_a_mutable_mapped_file_leaves_nothing) {
  for (auto const size : {std::uint64_t{0}, std::uint64_t{5000}}) {
    for (std::size_t const reserve : {std::size_t{0}, 64 * page}) {
      BOOST_TEST(found_at_every_allocation(
                     nothing,
                     [&](int, scratch const& s) {
                       return mutable_mapped_file::create(s / "new", {.size = size, .reserve = reserve}).has_value();
                     },
                     [](auto const&...) {}) == "");
    }
  }
}

BOOST_AUTO_TEST_CASE(opening_a_mutable_mapped_file_leaves_it_as_it_was) {
  for (std::string const& content : {std::string{}, pattern(10'000)}) {
    BOOST_TEST(found_at_every_allocation(
                   [&](scratch const& s) { return s.file("f", content); },
                   [](auto const& path, scratch const&) {
                     return mutable_mapped_file::open(path, {.size = 5000, .reserve = 64 * page}).has_value();
                   },
                   [&](auto const& path, scratch const&, bool done, findings& found) {
                     found.expect(done || read_back(path) == content, "the file has changed");
                   }) == "");
    BOOST_TEST(found_at_every_allocation(
                   [&](scratch const& s) { return s.file("f", content); },
                   [](auto const& path, scratch const&) {
                     return mutable_mapped_file::open_copy_on_write(path, {.reserve = 64 * page}).has_value();
                   },
                   [&](auto const& path, scratch const&, bool, findings& found) {
                     found.expect(read_back(path) == content, "the file has changed");
                   }) == "");
  }
}

BOOST_AUTO_TEST_CASE(growing_a_mutable_mapped_file_works_or_changes_nothing) {
  enum class way : unsigned char { resize, append, reserve };
  for (auto const how : {way::resize, way::append, way::reserve}) {
    for (std::size_t const reserve : {std::size_t{0}, 64 * page}) {
      auto const problems = found_at_every_allocation(
          [&](scratch const& s) {
            return or_throw(mutable_mapped_file::open(s.file("f", pattern(5000)), {.reserve = reserve}));
          },
          [&](mutable_mapped_file& f, scratch const&) {
            switch (how) {
            case way::resize:
              return f.resize(40'000).has_value();
            case way::append:
              return f.append(f.bytes()).has_value() && f.append(f.bytes()).has_value();
            case way::reserve:
              return f.reserve(1024 * page).has_value();
            }
            return false;
          },
          [&](mutable_mapped_file& f, scratch const& s, bool, findings& found) {
            found.expect(text_of(f.bytes().first(5000)) == pattern(5000), "bytes have changed");
            found.expect(std::filesystem::file_size(s / "f") == f.size(), "the file has another size than the view");
            auto const size = f.size();
            found.expect(or_throw(f.append(bytes_of("more"))) == size, "an append goes elsewhere");
            found.expect(text_of(f.bytes().last(4)) == "more", "an append is not there");
            or_throw(f.resize(5000, durability::data));
            or_throw(f.close());
            found.expect(read_back(s / "f") == pattern(5000), "the file has changed");
          });
      BOOST_TEST_CONTEXT("way " << static_cast<int>(how) << " reserve " << reserve) { BOOST_TEST(problems == ""); }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_mutable_mapped_file_shrinks_closes_and_goes) {
  auto const prepare = [](scratch const& s) {
    std::optional f{or_throw(mutable_mapped_file::create(s / "f"))};
    (void)or_throw(f->append(bytes_of(pattern(5000)))); // with space allocated ahead
    return f;
  };
  auto const is_whole = [](auto& f, scratch const& s, bool, findings& found) {
    f.reset();
    found.expect(read_back(s / "f") == pattern(5000), "the file has changed");
  };
  BOOST_TEST(found_at_every_allocation(
                 prepare, [](auto& f, scratch const&) { return f->shrink_to_fit().has_value(); }, is_whole) == "");
  BOOST_TEST(found_at_every_allocation(
                 prepare, [](auto& f, scratch const&) { return f->close().has_value(); }, is_whole) == "");
  BOOST_TEST(found_at_every_allocation(
                 prepare,
                 [](auto& f, scratch const&) {
                   f.reset();
                   return true;
                 },
                 is_whole) == "");
  BOOST_TEST(found_at_every_allocation(
                 prepare, [](auto& f, scratch const&) { return f->remove().has_value(); },
                 [](auto& f, scratch const& s, bool done, findings& found) {
                   found.expect(std::filesystem::exists(s / "f") != done, "removed without success, or not with it");
                   found.expect(text_of(f->bytes()) == pattern(5000), "the bytes have changed");
                 }) == "");
}

BOOST_AUTO_TEST_SUITE_END()
