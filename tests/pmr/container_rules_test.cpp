// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <forward_list>
#include <fstream>
#include <functional>
#include <future>
#include <iostream>
#include <iterator>
#include <list>
#include <map>
#include <memory>
#include <memory_resource>
#include <new>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "support/contents.hpp"
#include "support/mounts.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.pmr;

// What docs/containers.md says of containers in mapped memory; its tables name these cases.

using fmmap::allocation_error;
using fmmap::durability;
using fmmap::errc;
using fmmap::mapped_resource;
using fmmap::mapping;
using fmmap::or_throw;

namespace pmr = std::pmr;

namespace {

constexpr std::size_t mebibyte = std::size_t{1} << 20;

// Two resources, and strings that are too long to lie in their objects.
struct two_resources {
  std::unique_ptr<mapped_resource> first = or_throw(mapped_resource::anonymous());
  std::unique_ptr<mapped_resource> second = or_throw(mapped_resource::anonymous());

  [[nodiscard]] auto strings() const -> pmr::vector<pmr::string> {
    pmr::vector<pmr::string> all{first.get()};
    fill(all, 0, 100);
    return all;
  }
};

template <class T>
auto is_in(mapped_resource const& resource, T const& container) -> bool {
  return container.get_allocator().resource() == &resource && contents_lie_in(resource.storage(), container);
}

// Why `allocate` throws.
auto why_not(std::function<void()> const& allocate) -> std::error_code {
  try {
    allocate();
  } catch (allocation_error const& e) {
    BOOST_TEST(e.what() == e.why().message());
    return e.why().code();
  }
  return {};
}

auto grow_until_it_fails(pmr::vector<std::uint64_t>& numbers) -> std::error_code {
  return why_not([&] {
    for (std::uint64_t n = numbers.size();; ++n) {
      numbers.push_back(n);
    }
  });
}

auto counts_up(pmr::vector<std::uint64_t> const& numbers) -> bool {
  return std::ranges::all_of(numbers,
                             [&, n = std::uint64_t{0}](std::uint64_t number) mutable { return number == n++; });
}

} // namespace

BOOST_AUTO_TEST_SUITE(across_resources)

BOOST_AUTO_TEST_CASE(two_resources_are_never_equal_and_one_is_to_itself) {
  scratch const s;
  two_resources const two;
  BOOST_TEST((*two.first != *two.second));
  BOOST_TEST((*two.first == *two.first));
  auto const path = s.file("same", "");
  auto const one = or_throw(mapped_resource::open(path));
  auto const other = or_throw(mapped_resource::open(path));
  BOOST_TEST((*one != *other));
}

BOOST_FIXTURE_TEST_CASE(a_copy_is_in_the_default_resource, two_resources) {
  auto const original = strings();
  auto const copy = original; // NOLINT(performance-unnecessary-copy-initialization): what a copy does is the question
  BOOST_TEST((copy.get_allocator().resource() == pmr::get_default_resource()));
  BOOST_TEST(holds(copy, 100));
  BOOST_TEST(!contents_lie_in(first->storage(), copy));
  BOOST_TEST(is_in(*first, original));
}

BOOST_FIXTURE_TEST_CASE(a_copy_with_a_resource_is_in_that_one_with_all_it_has, two_resources) {
  auto const original = strings();
  pmr::vector<pmr::string> const copy{original, second.get()};
  BOOST_TEST(is_in(*second, copy));
  BOOST_TEST(holds(copy, 100));
}

BOOST_FIXTURE_TEST_CASE(what_is_moved_from_keeps_its_resource_and_no_element_moves, two_resources) {
  auto original = strings();
  auto const* const elements = original.data();
  auto const moved = std::move(original);
  BOOST_TEST(moved.data() == elements);
  BOOST_TEST(is_in(*first, moved));
}

BOOST_FIXTURE_TEST_CASE(a_move_with_another_resource_moves_each_element_into_it, two_resources) {
  auto original = strings();
  auto const* const elements = original.data();
  pmr::vector<pmr::string> const moved{std::move(original), second.get()};
  BOOST_TEST(moved.data() != elements);
  BOOST_TEST(is_in(*second, moved));
  BOOST_TEST(holds(moved, 100));
}

BOOST_FIXTURE_TEST_CASE(copy_assignment_leaves_each_its_resource, two_resources) {
  auto const original = strings();
  pmr::vector<pmr::string> target{second.get()};
  target = original;
  BOOST_TEST(is_in(*second, target));
  BOOST_TEST(holds(target, 100));
}

BOOST_FIXTURE_TEST_CASE(move_assignment_takes_the_memory_within_a_resource_and_moves_elements_between_two,
                        two_resources) {
  auto original = strings();
  auto const* const elements = original.data();
  pmr::vector<pmr::string> same{first.get()};
  same = std::move(original);
  BOOST_TEST(same.data() == elements);
  pmr::vector<pmr::string> other{second.get()};
  other = std::move(same);
  BOOST_TEST(other.data() != elements);
  BOOST_TEST(is_in(*second, other));
  BOOST_TEST(holds(other, 100));
}

BOOST_FIXTURE_TEST_CASE(swap_exchanges_the_memory_within_a_resource, two_resources) {
  auto one = strings();
  auto const* const elements = one.data();
  pmr::vector<pmr::string> other{first.get()};
  std::swap(one, other);
  BOOST_TEST(other.data() == elements);
  BOOST_TEST(one.empty());
  BOOST_TEST(is_in(*first, other));
}

// Between two it is undefined; what gives the same effect is three moves.
BOOST_FIXTURE_TEST_CASE(three_moves_exchange_the_contents_of_containers_in_two, two_resources) {
  auto one = strings();
  pmr::vector<pmr::string> other{second.get()};
  add(other, 7);
  auto kept = std::move(one);
  one = std::move(other);
  other = std::move(kept);
  BOOST_TEST(is_in(*first, one));
  BOOST_TEST(is_in(*second, other));
  BOOST_TEST(one.size() == 1U);
  BOOST_TEST(holds(other, 100));
}

BOOST_FIXTURE_TEST_CASE(splice_and_merge_hang_nodes_over_within_a_resource, two_resources) {
  pmr::list<pmr::string> list{first.get()};
  pmr::list<pmr::string> other{first.get()};
  fill(list, 0, 3);
  auto const* const node = &list.front();
  other.splice(other.begin(), list);
  BOOST_TEST(&other.front() == node);
  BOOST_TEST(is_in(*first, other));
  pmr::forward_list<int> ones{{1, 3}, first.get()};
  pmr::forward_list<int> twos{{2, 4}, first.get()};
  ones.merge(twos);
  BOOST_TEST(std::ranges::equal(ones, std::array{1, 2, 3, 4}));
  pmr::map<int, pmr::string> map{first.get()};
  pmr::map<int, pmr::string> more{first.get()};
  fill(map, 0, 5);
  fill(more, 0, 10);
  auto const* const element = &*more.find(9);
  map.merge(more);
  BOOST_TEST(&*map.find(9) == element);
  BOOST_TEST(map.size() == 10U);
  BOOST_TEST(more.size() == 5U);
}

// Between two it is undefined; elements can be moved.
BOOST_FIXTURE_TEST_CASE(elements_go_from_list_to_list_in_two_by_move_iterators, two_resources) {
  pmr::list<pmr::string> list{first.get()};
  fill(list, 0, 100);
  pmr::list<pmr::string> other{second.get()};
  other.insert(other.end(), std::move_iterator{list.begin()}, std::move_iterator{list.end()});
  list.clear();
  BOOST_TEST(is_in(*second, other));
  BOOST_TEST(holds(other, 100));
}

BOOST_FIXTURE_TEST_CASE(an_extracted_node_belongs_to_its_resource_and_is_inserted_there, two_resources) {
  pmr::map<int, pmr::string> map{first.get()};
  fill(map, 0, 10);
  auto const* const text = map.find(3)->second.data();
  auto node = map.extract(3);
  BOOST_TEST((node.get_allocator().resource() == first.get()));
  node.key() = 30;
  pmr::map<int, pmr::string> other{first.get()};
  other.insert(std::move(node));
  BOOST_TEST(other.at(30).data() == text);
  // Between two it is undefined; the value can be moved out of the node.
  node = map.extract(4);
  pmr::map<int, pmr::string> third{second.get()};
  third.emplace(node.key(), std::move(node.mapped()));
  BOOST_TEST(is_in(*second, third));
  BOOST_TEST((third.at(4) == value<pmr::string>(4)));
}

BOOST_FIXTURE_TEST_CASE(what_is_put_into_a_container_comes_to_its_resource, two_resources) {
  pmr::vector<pmr::map<int, pmr::string>> all{second.get()};
  pmr::map<int, pmr::string> one{first.get()};
  fill(one, 0, 10);
  all.push_back(one);
  all.push_back(std::move(one));
  all.emplace_back(std::initializer_list<std::pair<int const, pmr::string>>{{1, value<pmr::string>(40)}});
  all.resize(10);
  fill(all.back(), 0, 10);
  BOOST_TEST(is_in(*second, all));
  BOOST_TEST(holds(all[1], 10));
}

BOOST_FIXTURE_TEST_CASE(a_function_returns_containers_in_their_resource, two_resources) {
  auto const returned = [&](bool which) {
    auto one = strings();
    auto other = strings();
    return which ? std::move(one) : std::move(other);
  }(true);
  BOOST_TEST(is_in(*first, returned));
}

BOOST_FIXTURE_TEST_CASE(parts_and_sums_of_strings_are_in_the_default_resource, two_resources) {
  pmr::string const text(100, 'x', first.get());
  auto const uses_default = [](pmr::string const& made) {
    return made.get_allocator().resource() == pmr::get_default_resource();
  };
  BOOST_TEST(uses_default(text.substr(1)));
  BOOST_TEST(uses_default(text + text));
  BOOST_TEST(!uses_default(pmr::string{text, 1, pmr::string::npos, first.get()}));
  BOOST_TEST(!uses_default(pmr::string{text, first.get()} + text)); // what is moved from keeps its resource
  pmr::string kept{first.get()};
  kept = text.substr(1); // copies into the resource again
  BOOST_TEST(is_in(*first, kept));
}

namespace {

struct plain {
  pmr::string text;
};

struct told {
  using allocator_type = pmr::polymorphic_allocator<>;

  explicit told(allocator_type in = {}) : text{in} {}
  told(told const& other, allocator_type in = {}) : text{other.text, in} {}
  told(told&& other) noexcept = default;
  told(told&& other, allocator_type in) : text{std::move(other.text), in} {}
  auto operator=(told const&) -> told& = default;
  auto operator=(told&&) -> told& = default;
  ~told() = default;

  pmr::string text;
};

} // namespace

BOOST_FIXTURE_TEST_CASE(a_struct_is_told_of_the_resource_only_when_it_has_an_allocator_type, two_resources) {
  pmr::vector<plain> plains{first.get()};
  pmr::vector<told> tolds{first.get()};
  plains.resize(1);
  tolds.resize(1);
  plains[0].text.assign(100, 'x');
  tolds[0].text.assign(100, 'x');
  BOOST_TEST(!contents_lie_in(first->storage(), plains[0].text));
  BOOST_TEST(is_in(*first, tolds[0].text));
  tolds.push_back(tolds[0]);
  tolds.emplace_back();
  BOOST_TEST(is_in(*first, tolds[1].text));
  BOOST_TEST((tolds[2].text.get_allocator().resource() == first.get()));
}

BOOST_FIXTURE_TEST_CASE(assigning_braces_keeps_the_memory_and_shrinking_gives_it_back, two_resources) {
  auto texts = strings();
  auto const before = texts.capacity();
  texts = {}; // moves from an empty one in the default resource
  BOOST_TEST(texts.capacity() == before);
  texts.shrink_to_fit();
  BOOST_TEST(texts.capacity() == 0U);
}

// The standard leaves it undefined, and its libraries exchange the pointers: each buffer then goes back to the wrong resource.
BOOST_AUTO_TEST_CASE(a_swap_between_two_is_found_by_a_checked_resource) {
  BOOST_TEST(dies_of(SIGABRT, [] {
    auto const first = or_throw(mapped_resource::anonymous({.checked = true}));
    auto const second = or_throw(mapped_resource::anonymous({.checked = true}));
    pmr::vector<int> one{{1, 2, 3}, first.get()};
    pmr::vector<int> other{{4}, second.get()};
    one.swap(other);
  }));
}

// Of a program that is built with it, whether fmmap is or not.
BOOST_AUTO_TEST_CASE(what_an_element_leaves_behind_is_known_to_the_address_sanitizer) {
  if (!sanitized || thread_sanitized) {
    return skip("no address sanitizer");
  }
  auto const end_after_reading = [](bool destroyed) {
    return end_of(start_child([&] {
      ::close(STDERR_FILENO); // its report
      auto const resource = or_throw(mapped_resource::temporary("."));
      pmr::list<int> list{{1, 2, 3}, resource.get()};
      auto const* const first = &list.front();
      if (destroyed) {
        list.pop_front();
      }
      return *const_cast<int const volatile*>(first) == 1 ? 0 : 2;
    }));
  };
  BOOST_TEST(end_after_reading(false) == 0);
  BOOST_TEST(end_after_reading(true) == 1);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(when_there_is_no_more)

BOOST_AUTO_TEST_CASE(a_full_disk_is_an_error_and_the_container_is_as_before) {
  scratch const s;
  std::filesystem::create_directory(s / "disk");
  BOOST_TEST(found_in_child([&](findings& found) {
               auto problem = own_mounts();
               if (problem.empty()) {
                 problem = mount_tmpfs(s / "disk", "size=16m");
               }
               if (!problem.empty()) {
                 return found.skip("a small tmpfs: " + problem);
               }
               auto const resource = or_throw(mapped_resource::temporary(s / "disk"));
               pmr::vector<std::uint64_t> numbers{resource.get()};
               found.expect(grow_until_it_fails(numbers) == std::errc::no_space_on_device, "another error");
               found.expect(numbers.size() >= mebibyte / 2, "less than 4 MiB of 16");
               found.expect(counts_up(numbers), "changed");
               // What lies in the storage can be stored to: its blocks are there.
               pmr::vector<std::byte> small{1000, std::byte{1}, resource.get()};
               numbers.clear();
               numbers.shrink_to_fit();
               found.expect(or_throw(resource->trim()) > 0, "nothing to give back");
               numbers.assign(mebibyte, 7); // half of the disk
               found.expect(std::ranges::count(numbers, 7U) == static_cast<std::ptrdiff_t>(mebibyte), "not assigned");
               found.expect(small.back() == std::byte{1}, "another container has changed");
               ::umount2((s / "disk").c_str(), MNT_DETACH);
             }) == "");
}

BOOST_AUTO_TEST_CASE(an_exhausted_reserve_is_an_error_and_what_is_freed_can_be_had_again) {
  auto const resource = or_throw(mapped_resource::anonymous({.reserve = 8 * mebibyte}));
  pmr::vector<std::uint64_t> numbers{resource.get()};
  BOOST_TEST(grow_until_it_fails(numbers) == make_error_code(errc::reservation_exceeded));
  BOOST_TEST(counts_up(numbers));
  BOOST_TEST(resource->stats().reserved_bytes == 8 * mebibyte);
  pmr::list<pmr::string> list{resource.get()};
  BOOST_TEST(why_not([&] { fill(list, 0, 1'000'000); }) == make_error_code(errc::reservation_exceeded));
  BOOST_TEST(holds(list, list.size()));
  numbers.clear();
  numbers.shrink_to_fit();
  list.clear();
  BOOST_TEST(why_not([&] { fill(list, 0, 10'000); }) == std::error_code{});
  list.clear();
  // All of it for one object, whatever the sizes of those before.
  BOOST_TEST(why_not([&] { numbers.reserve(mebibyte); }) == std::error_code{});
}

BOOST_AUTO_TEST_CASE(a_limit_of_addresses_is_an_error_of_the_reserve_when_the_resource_is_made) {
  if (sanitized) {
    return skip("a sanitizer takes more addresses than any limit leaves");
  }
  BOOST_TEST(found_in_child([](findings& found) {
               limit(RLIMIT_AS, std::size_t{2} << 30);
               auto const large = mapped_resource::temporary(".");
               found.expect(fails(large, std::errc::not_enough_memory), "64 GiB reserved under a limit of 2 GiB");
               auto const small = mapped_resource::temporary(".", {.reserve = 256 * mebibyte});
               found.expect(small.has_value(), "no 256 MiB");
               pmr::vector<std::uint64_t> numbers{mebibyte, 1, small->get()};
               found.expect(numbers.back() == 1, "not stored");
             }) == "");
}

BOOST_AUTO_TEST_CASE(a_limit_of_file_sizes_is_an_error_where_its_signal_is_ignored) {
  scratch const s;
  BOOST_TEST(found_in_child([&](findings& found) {
               limit(RLIMIT_FSIZE, 8 * mebibyte);
               ::signal(SIGXFSZ, SIG_IGN);
               auto const resource = or_throw(mapped_resource::temporary(s.folder()));
               pmr::vector<std::uint64_t> numbers{resource.get()};
               found.expect(grow_until_it_fails(numbers) == std::errc::file_too_large, "another error");
               found.expect(!numbers.empty() && counts_up(numbers), "changed");
             }) == "");
  BOOST_TEST(dies_of(SIGXFSZ, [&] {
    limit(RLIMIT_FSIZE, 8 * mebibyte);
    auto const resource = or_throw(mapped_resource::temporary(s.folder()));
    pmr::vector<std::byte> const bytes{16 * mebibyte, resource.get()};
  }));
}

BOOST_AUTO_TEST_CASE(a_limit_of_memory_does_not_count_what_lies_in_a_file) {
  if (sanitized) {
    return skip("a sanitizer needs more memory than the limit");
  }
  BOOST_TEST(found_in_child([](findings& found) {
               limit(RLIMIT_DATA, 32 * mebibyte);
               auto const in_file = or_throw(mapped_resource::temporary("."));
               pmr::vector<std::uint64_t> numbers{8 * mebibyte, 1, in_file.get()};
               found.expect(numbers.back() == 1, "not stored");
               auto const in_memory = or_throw(mapped_resource::anonymous());
               found.expect(why_not([&] { pmr::vector<std::uint64_t> const more{8 * mebibyte, 1, in_memory.get()}; }) ==
                                std::errc::not_enough_memory,
                            "64 MiB of anonymous memory under a limit of 32");
             }) == "");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(flush_points)

BOOST_AUTO_TEST_CASE(bring_the_bytes_of_containers_into_the_file) {
  scratch const s;
  auto const resource = or_throw(mapped_resource::create(s / "data"));
  pmr::string text(10'000, 'x', resource.get());
  auto const offset = reinterpret_cast<std::byte const*>(text.data()) - resource->storage().data();
  BOOST_CHECK(or_throw(resource->flush(text.data(), text.size())) == durability::data);
  BOOST_TEST(read_back(s / "data").substr(static_cast<std::size_t>(offset), text.size()) == std::string_view{text});
  text[5] = 'y';
  auto job = or_throw(resource->stage_flush());
  BOOST_CHECK(or_throw(std::async(std::launch::async, [&] { return job.run(); }).get()) == durability::all);
  BOOST_TEST(read_back(s / "data")[static_cast<std::size_t>(offset) + 5] == 'y');
  BOOST_TEST(fails(resource->flush(text.data(), std::size_t{1} << 40), errc::out_of_range));
}

BOOST_AUTO_TEST_CASE(are_errors_without_a_file) {
  auto const resource = or_throw(mapped_resource::anonymous());
  pmr::vector<int> const numbers{{1, 2, 3}, resource.get()};
  BOOST_TEST(fails(resource->flush(), errc::not_durable));
  BOOST_TEST(fails(resource->flush(numbers.data(), sizeof(int)), errc::not_durable));
  BOOST_TEST(fails(resource->stage_flush(), errc::not_durable));
}

// The books of what is allocated are gone with the object.
BOOST_AUTO_TEST_CASE(do_not_make_a_resource_of_what_a_file_holds) {
  scratch const s;
  {
    auto const resource = or_throw(mapped_resource::create(s / "data"));
    pmr::vector<int> const numbers{{1, 2, 3}, resource.get()};
    (void)or_throw(resource->flush());
  }
  auto const again = or_throw(mapped_resource::open(s / "data"));
  BOOST_TEST(again->stats().used_bytes == 0U);
  BOOST_TEST(again->stats().free_bytes == std::filesystem::file_size(s / "data"));
}

BOOST_AUTO_TEST_SUITE_END()

// docs/processes.md
BOOST_AUTO_TEST_SUITE(containers_and_processes)

BOOST_AUTO_TEST_CASE(after_fork_a_child_goes_on_with_memory_of_its_own) {
  auto const resource = or_throw(mapped_resource::anonymous());
  pmr::map<int, pmr::string> map{resource.get()};
  fill(map, 0, 100);
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(holds(map, 100), "not what the parent had");
               fill(map, 100, 300);
               found.expect(holds(map, 300), "lost");
               map.clear();
               (void)or_throw(resource->trim());
               found.expect(resource->stats().used_bytes == 0, "still in use");
             }) == "");
  BOOST_TEST(holds(map, 100));
  fill(map, 100, 200);
  BOOST_TEST(holds(map, 200));
}

BOOST_AUTO_TEST_CASE(after_fork_a_child_reads_and_writes_shared_memory_and_allocates_none) {
  scratch const s;
  auto const check = [](std::unique_ptr<mapped_resource> const& resource) {
    pmr::vector<int> numbers{{1, 2, 3}, resource.get()};
    auto list = std::make_unique<pmr::list<int>>(pmr::list<int>{{1, 2, 3}, resource.get()});
    BOOST_TEST(found_in_child([&](findings& found) {
                 found.expect(numbers[2] == 3, "not what the parent had");
                 numbers[2] = 4;
                 found.expect(why_not([&] { list->push_back(1); }) == make_error_code(errc::forked), "allocated");
                 found.expect(why_not([&] { numbers.resize(100'000); }) == make_error_code(errc::forked), "allocated");
                 list.reset(); // deallocates nothing
               }) == "");
    BOOST_TEST(numbers[2] == 4);
    list->push_back(4);
    BOOST_TEST(std::ranges::equal(*list, std::array{1, 2, 3, 4}));
  };
  check(or_throw(mapped_resource::temporary(s.folder())));
  check(or_throw(mapped_resource::create(s / "data")));
  check(or_throw(mapped_resource::over(or_throw(mapping::anonymous(mebibyte, {.shared = true})))));
}

BOOST_AUTO_TEST_CASE(after_exec_nothing_is_open_or_mapped) {
  scratch const s;
  auto const resource = or_throw(mapped_resource::create(s / "data"));
  pmr::vector<int> const numbers{{1, 2, 3}, resource.get()};
  auto const name = s.folder().filename().string();
  auto const looks = [&](std::string const& process) {
    return "cat /proc/" + process + "/maps | grep -q " + name + " || ls -l /proc/" + process + "/fd | grep -q " + name;
  };
  BOOST_TEST(std::system(looks(std::to_string(::getpid())).c_str()) == 0);
  auto const child = start_child([&] {
    ::execl("/bin/sh", "sh", "-c", (looks("$$")).c_str(), nullptr);
    return 127;
  });
  BOOST_TEST(end_of(child) == 1);
}

BOOST_AUTO_TEST_CASE(at_exit_without_destruction_a_created_file_stays_and_one_without_a_name_is_gone) {
  scratch const s;
  std::cout << std::flush; // exit would print what is left
  for (auto const end : {0, 1, 2}) {
    auto const child = start_child([&]() -> int {
      auto const named = or_throw(mapped_resource::create(s / "data"));
      auto const unnamed = or_throw(mapped_resource::temporary(s.folder()));
      pmr::string const text(1000, 'x', named.get());
      pmr::string const other(1000, 'x', unnamed.get());
      if (end == 0) {
        std::exit(0);
      }
      if (end == 1) {
        ::raise(SIGKILL);
      }
      ::_exit(0);
    });
    BOOST_TEST(end_of(child) == (end == 1 ? -SIGKILL : 0));
    BOOST_TEST(read_back(s / "data").contains(std::string(1000, 'x')));
    BOOST_TEST(std::distance(std::filesystem::directory_iterator{s.folder()}, {}) == 1);
    std::filesystem::remove(s / "data");
  }
}

BOOST_AUTO_TEST_SUITE_END()
