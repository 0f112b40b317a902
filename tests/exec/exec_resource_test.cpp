// SPDX-License-Identifier: MIT OR Apache-2.0

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <memory_resource>
#include <new>
#include <system_error>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "exec/strategies.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"

import fmmap.core;
import fmmap.exec;
import fmmap.os;

using fmmap::code_arena;
using fmmap::code_strategy;
using fmmap::errc;
using fmmap::exec_resource;
using fmmap::or_throw;
using fmmap::os::call;

namespace seam = fmmap::os::seam;

namespace {

void append(std::pmr::vector<std::byte>& to, std::uint32_t value) {
  auto const code = returning(value);
  to.insert(to.end(), code.begin(), code.end());
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_vector_of_code)

BOOST_AUTO_TEST_CASE(runs_from_its_flush_on) {
  for (auto const one : {code_strategy::no_alias, code_strategy::dual, code_strategy::toggle}) {
    auto arena = or_throw(code_arena::create({.strategy = one}));
    auto const resource = or_throw(exec_resource::create(arena));
    std::pmr::vector<std::byte> code{resource.get()};
    append(code, 5);
    BOOST_TEST(resource->entry<int()>(code.data()) == nullptr);
    or_throw(resource->flush());
    auto* const first = resource->entry<int()>(code.data());
    BOOST_TEST(first() == 5);
    auto const functions = arena.stats().functions;
    or_throw(resource->flush());
    BOOST_TEST(arena.stats().functions == functions);
    BOOST_TEST(resource->entry<int()>(code.data()) == first);
  }
}

BOOST_AUTO_TEST_CASE(keeps_its_entry_until_it_grows_past_its_capacity) {
  for (auto const one : {code_strategy::no_alias, code_strategy::dual, code_strategy::toggle}) {
    auto arena = or_throw(code_arena::create({.strategy = one}));
    auto const resource = or_throw(exec_resource::create(arena));
    std::pmr::vector<std::byte> code{resource.get()};
    code.reserve(12);
    append(code, 5);
    or_throw(resource->flush());
    auto* const first = resource->entry<int()>(code.data());
    append(code, 6);
    BOOST_TEST(first() == 5);
    or_throw(resource->flush());
    BOOST_TEST(resource->entry<int()>(code.data()) == first);
    BOOST_TEST(first() == 5);
    BOOST_TEST(resource->entry<int()>(code.data() + 6)() == 6);
    append(code, 7); // moves
    BOOST_TEST(resource->entry<int()>(code.data()) == nullptr);
    or_throw(resource->flush());
    BOOST_TEST(resource->entry<int()>(code.data() + 12)() == 7);
    or_throw(arena.reclaim());
    BOOST_TEST(arena.stats().functions == 1U);
  }
}

BOOST_AUTO_TEST_CASE(is_given_up_with_its_memory_and_with_the_resource) {
  auto arena = or_throw(code_arena::create());
  {
    auto const resource = or_throw(exec_resource::create(arena));
    {
      std::pmr::vector<std::byte> code{resource.get()};
      append(code, 5);
      or_throw(resource->flush());
    }
    BOOST_TEST(arena.stats().functions == 0U);
    auto* const left = resource->allocate(64);
    or_throw(resource->flush());
    BOOST_TEST((left != nullptr));
    BOOST_TEST(arena.stats().functions == 1U);
  }
  BOOST_TEST(arena.stats().functions == 0U);
}

BOOST_AUTO_TEST_CASE(runs_in_a_forked_child_and_is_not_published_by_it) {
  auto arena = or_throw(code_arena::create());
  auto const resource = or_throw(exec_resource::create(arena));
  std::pmr::vector<std::byte> code{resource.get()};
  append(code, 5);
  or_throw(resource->flush());
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(resource->entry<int()>(code.data())() == 5, "it does not run");
               append(code, 6); // moves
               found.expect(resource->entry<int()>(code.data()) == nullptr, "it has an entry");
               found.expect(fails(resource->flush(), errc::forked), "flush");
             }) == "");
  BOOST_TEST(resource->entry<int()>(code.data())() == 5);
  append(code, 6);
  or_throw(resource->flush());
  BOOST_TEST(resource->entry<int()>(code.data() + 6)() == 6);
}

BOOST_AUTO_TEST_CASE(has_no_entry_elsewhere) {
  auto arena = or_throw(code_arena::create());
  auto const resource = or_throw(exec_resource::create(arena));
  std::pmr::vector<std::byte> code{resource.get()};
  append(code, 5);
  code.shrink_to_fit();
  or_throw(resource->flush());
  int local = 0;
  BOOST_TEST(resource->entry<int()>(&local) == nullptr);
  BOOST_TEST(resource->entry<int()>(nullptr) == nullptr);
  BOOST_TEST(resource->entry<int()>(code.data() + code.capacity()) == nullptr);
}

BOOST_AUTO_TEST_CASE(is_an_error_to_flush_where_the_arena_takes_no_more) {
  auto arena = or_throw(code_arena::create({.reserve = 4096}));
  auto const resource = or_throw(exec_resource::create(arena));
  std::pmr::vector<std::byte> code(8192, std::byte{0x90}, resource.get());
  BOOST_TEST(fails(resource->flush(), errc::reservation_exceeded));
  BOOST_TEST(resource->entry<int()>(code.data()) == nullptr);
  code = std::pmr::vector<std::byte>(resource.get());
  code.shrink_to_fit();
  append(code, 5);
  or_throw(resource->flush());
  auto* const entry = resource->entry<int()>(code.data());
  or_throw(arena.seal());
  BOOST_TEST(entry() == 5);
  append(code, 6);
  BOOST_TEST(fails(resource->flush(), errc::sealed));
  code_arena none;
  BOOST_TEST(fails(exec_resource::create(none), errc::closed));
}

// Somebody else's call publishes what a flush has written that failed.
BOOST_AUTO_TEST_CASE(goes_on_after_a_flush_that_failed_and_a_publish_that_did_not) {
  auto arena = or_throw(code_arena::create({.reserve = 8192}));
  auto const resource = or_throw(exec_resource::create(arena));
  std::pmr::vector<std::byte> code{resource.get()};
  append(code, 5);
  {
    std::pmr::vector<std::byte> const too_much(100'000, std::byte{0x90}, resource.get());
    BOOST_TEST(fails(resource->flush(), errc::reservation_exceeded));
    BOOST_TEST(resource->entry<int()>(code.data())() == 5); // others are published all the same
    or_throw(arena.publish());
  }
  std::pmr::vector<std::byte> other{resource.get()};
  append(other, 6);
  {
    seam::armed const table;
    seam::fail(call::membarrier, EIO);
    seam::fail(call::mprotect, EIO);
    BOOST_TEST(fails(resource->flush(), std::errc::io_error));
    BOOST_TEST(resource->entry<int()>(other.data()) == nullptr);
  }
  or_throw(arena.publish());
  other[1] = std::byte{7};
  or_throw(resource->flush());
  BOOST_TEST(resource->entry<int()>(code.data())() == 5);
  BOOST_TEST(resource->entry<int()>(other.data())() == 7);
}

BOOST_AUTO_TEST_CASE(is_refused_where_no_flush_could_publish_it) {
  auto arena = or_throw(code_arena::create());
  auto const resource = or_throw(exec_resource::create(arena));
  BOOST_CHECK_THROW((void)resource->allocate(100, 65536), std::bad_alloc);
  BOOST_CHECK_THROW((void)resource->allocate(std::size_t{300} << 20), std::bad_alloc);
  BOOST_TEST(fails(exec_resource::create(arena, nullptr), errc::invalid_options));
  std::pmr::vector<std::byte> code{resource.get()};
  append(code, 5);
  or_throw(resource->flush());
  BOOST_TEST(resource->entry<int()>(code.data())() == 5);
}

BOOST_AUTO_TEST_CASE(is_nobody_elses_to_retire) {
  auto arena = or_throw(code_arena::create());
  auto const resource = or_throw(exec_resource::create(arena));
  {
    std::pmr::vector<std::byte> code{resource.get()};
    append(code, 5);
    or_throw(resource->flush());
    auto const found = arena.find(reinterpret_cast<void const*>(resource->entry<int()>(code.data())));
    BOOST_TEST_REQUIRE(found.has_value());
    BOOST_TEST(fails(arena.retire(*found), errc::in_use));
    BOOST_TEST(resource->entry<int()>(code.data())() == 5);
  }
  BOOST_TEST(or_throw(arena.reclaim()) == 1);
}

BOOST_AUTO_TEST_CASE(is_gone_with_an_arena_that_is_closed) {
  auto arena = or_throw(code_arena::create());
  auto const resource = or_throw(exec_resource::create(arena));
  std::pmr::vector<std::byte> code{resource.get()};
  append(code, 5);
  or_throw(resource->flush());
  or_throw(arena.close());
  BOOST_TEST(resource->entry<int()>(code.data()) == nullptr);
  code[1] = std::byte{6};
  BOOST_TEST(fails(resource->flush(), errc::closed));
}

BOOST_AUTO_TEST_CASE(is_freed_once_in_a_child_that_closes_the_arena) {
  auto arena = or_throw(code_arena::create());
  auto resource = or_throw(exec_resource::create(arena));
  auto code = std::make_unique<std::pmr::vector<std::byte>>(resource.get());
  append(*code, 5);
  or_throw(resource->flush());
  BOOST_TEST(found_in_child([&](findings& found) {
               auto const* const freed = code->data();
               code.reset();
               found.expect(resource->entry<int()>(freed) == nullptr, "what is freed has an entry");
               found.expect(arena.close().has_value(), "close");
               resource.reset();
             }) == "");
  BOOST_TEST(resource->entry<int()>(code->data())() == 5);
}

BOOST_AUTO_TEST_SUITE_END()
