// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <cstddef>
#include <expected>
#include <filesystem>
#include <functional>
#include <memory>
#include <memory_resource>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/contents.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.pmr;

// Each kind of resource there is.
struct resource_kind {
  char const* name;
  std::function<std::unique_ptr<fmmap::mapped_resource>(scratch const&)> make;
};

inline auto resource_kinds() -> std::vector<resource_kind> const& {
  using fmmap::mapped_resource;
  using fmmap::mapping;
  using fmmap::or_throw;
  constexpr auto reserve = std::size_t{1} << 30;
  constexpr auto fixed_size = std::size_t{64} << 20;
  static std::vector<resource_kind> const all{
      {.name = "a file without a name",
       .make = [](scratch const& s) { return or_throw(mapped_resource::temporary(s.folder())); }},
      {.name = "a file that is created",
       .make = [](scratch const& s) { return or_throw(mapped_resource::create(s / "created")); }},
      {.name = "a file that is there",
       .make = [](scratch const& s) { return or_throw(mapped_resource::open(s.file("opened", pattern(10'000)))); }},
      {.name = "anonymous memory", .make = [](scratch const&) { return or_throw(mapped_resource::anonymous()); }},
      {.name = "an anonymous mapping",
       .make =
           [](scratch const&) {
             return or_throw(mapped_resource::over(or_throw(mapping::anonymous(0, {.reserve = reserve}))));
           }},
      {.name = "a shared anonymous mapping",
       .make =
           [](scratch const&) {
             return or_throw(
                 mapped_resource::over(or_throw(mapping::anonymous(4096, {.shared = true, .reserve = reserve}))));
           }},
      {.name = "a mapping of a file",
       .make =
           [](scratch const& s) {
             auto file = or_throw(fmmap::file::create_new(s / "mapped"));
             or_throw(file.resize(fixed_size));
             return or_throw(
                 mapped_resource::over(or_throw(mapping::map(file, {.access = fmmap::access::read_write}))));
           }},
      {.name = "a copy-on-write mapping of a file",
       .make =
           [](scratch const& s) {
             auto file = or_throw(fmmap::file::create_new(s / "copied"));
             or_throw(file.resize(fixed_size));
             return or_throw(
                 mapped_resource::over(or_throw(mapping::map(file, {.access = fmmap::access::copy_on_write}))));
           }},
  };
  return all;
}

// Calls `body` with a resource of each kind, and sees to it that nothing is in use any more when it returns.
inline void with_each_resource(std::function<void(fmmap::mapped_resource&)> const& body) {
  for (auto const& kind : resource_kinds()) {
    BOOST_TEST_CONTEXT(kind.name) {
      scratch const s{memory_folder()};
      auto const resource = kind.make(s);
      body(*resource);
      (void)fmmap::or_throw(resource->trim());
      auto const left = resource->stats();
      BOOST_TEST(left.used_bytes == 0U);
      BOOST_TEST(left.free_bytes == resource->storage().size());
      BOOST_TEST(left.largest_free == left.free_bytes);
      BOOST_TEST(left.peak_bytes > 0U);
    }
  }
}

inline constexpr std::size_t count = 600;

// That the first `count` elements go in, lie there, are still there after growing, and some of them may go.
template <class Container>
void goes_through(fmmap::mapped_resource& resource) {
  auto one = make_in<Container>(&resource);
  fill(one, 0, count / 3);
  BOOST_TEST(holds(one, count / 3));
  auto const used = resource.stats().used_bytes;
  BOOST_TEST(used > 0U);
  fill(one, count / 3, count);
  BOOST_TEST(holds(one, count));
  BOOST_TEST(contents_lie_in(resource.storage(), one));
  BOOST_TEST(resource.stats().used_bytes >= used);
  one.clear();
  BOOST_TEST(one.empty());
  fill(one, 0, count); // what has been freed is used again
  BOOST_TEST(holds(one, count));
  BOOST_TEST(contents_lie_in(resource.storage(), one));
}

// What forgets to say where its memory comes from gets none.
struct no_default_resource {
  no_default_resource() : before{std::pmr::set_default_resource(std::pmr::null_memory_resource())} {}
  ~no_default_resource() { std::pmr::set_default_resource(before); }
  no_default_resource(no_default_resource const&) = delete;
  auto operator=(no_default_resource const&) -> no_default_resource& = delete;

  std::pmr::memory_resource* before;
};
