// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <expected>
#include <filesystem>
#include <forward_list>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <queue>
#include <set>
#include <span>
#include <stack>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/contents.hpp"
#include "support/scratch.hpp"

#include "support/resources.hpp"

import fmmap.core;
import fmmap.pmr;

// Containers in mapped memory. Whatever allocates elsewhere fails: nothing but `value` may.

using fmmap::mapped_resource;
using fmmap::or_throw;

namespace {

namespace pmr = std::pmr;

template <class T>
using in = std::pmr::polymorphic_allocator<T>;

// Every container of std::pmr, and adaptors over them.
using standard_containers =
    std::tuple<pmr::vector<std::uint64_t>, pmr::vector<bool>, pmr::deque<std::uint32_t>, pmr::list<int>,
               pmr::forward_list<int>, pmr::string, pmr::wstring, pmr::u8string, pmr::u16string, pmr::u32string,
               pmr::map<int, pmr::string>, pmr::multimap<pmr::string, int>, pmr::set<pmr::string>, pmr::multiset<int>,
               pmr::unordered_map<pmr::string, std::uint64_t>, pmr::unordered_multimap<int, pmr::string>,
               pmr::unordered_set<std::uint64_t>, pmr::unordered_multiset<pmr::string>>;

using adaptors = std::tuple<std::stack<int, pmr::deque<int>>, std::stack<pmr::string, pmr::vector<pmr::string>>,
                            std::stack<int, pmr::list<int>>, std::queue<int, pmr::deque<int>>,
                            std::queue<pmr::string, pmr::list<pmr::string>>, std::priority_queue<int, pmr::vector<int>>,
                            std::priority_queue<std::uint64_t, pmr::deque<std::uint64_t>>>;

using nested_containers =
    std::tuple<pmr::vector<pmr::string>, pmr::deque<pmr::u8string>, pmr::list<pmr::vector<int>>,
               pmr::vector<pmr::vector<pmr::vector<bool>>>, pmr::map<pmr::string, pmr::vector<pmr::list<pmr::string>>>,
               pmr::unordered_map<int, pmr::map<int, pmr::string>>, pmr::set<pmr::vector<pmr::string>>,
               pmr::forward_list<pmr::unordered_set<pmr::string>>, pmr::multimap<int, pmr::deque<pmr::wstring>>>;

// Of each shape one.
using mixture = std::tuple<pmr::vector<std::uint64_t>, pmr::vector<bool>, pmr::deque<pmr::string>, pmr::list<int>,
                           pmr::map<int, pmr::string>, pmr::unordered_map<pmr::string, std::uint64_t>, pmr::wstring,
                           pmr::map<pmr::string, pmr::vector<pmr::list<pmr::string>>>>;

// Containers that go from thread to thread.
class bunch {
public:
  explicit bunch(mapped_resource& resource) : all_{std::allocator_arg, in<std::byte>{&resource}} {}

  void fill_all(std::size_t upto) {
    std::apply([&](auto&... each) { (fill(each, 0, upto), ...); }, all_);
  }
  [[nodiscard]] auto all_hold(std::size_t upto) const -> bool {
    return std::apply([&](auto const&... each) { return (holds(each, upto) && ...); }, all_);
  }
  [[nodiscard]] auto all_lie_in(std::span<std::byte const> storage) const -> bool {
    return std::apply([&](auto const&... each) { return (contents_lie_in(storage, each) && ...); }, all_);
  }

private:
  mixture all_;
};

constexpr unsigned thread_count = 4;

void on_threads(std::function<void(unsigned)> const& body) {
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < thread_count; ++i) {
    threads.emplace_back([&body, i] { body(i); });
  }
}

} // namespace

BOOST_TEST_GLOBAL_FIXTURE(no_default_resource);

BOOST_AUTO_TEST_SUITE(containers)

BOOST_AUTO_TEST_CASE_TEMPLATE(of_the_standard_library_lie_in_the_storage, Container, standard_containers) {
  with_each_resource(goes_through<Container>);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(in_containers_lie_in_the_storage_with_all_they_have, Container, nested_containers) {
  with_each_resource(goes_through<Container>);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(under_adaptors_lie_in_the_storage, Container, adaptors) {
  with_each_resource([](mapped_resource& resource) {
    auto one = make_in<Container>(&resource);
    fill(one, 0, count);
    BOOST_TEST(contents_lie_in(resource.storage(), one));
    BOOST_TEST(resource.stats().used_bytes > 0U);
    if constexpr (std::is_same_v<typename Container::value_type, pmr::string> || requires { one.front(); } ||
                  std::is_arithmetic_v<typename Container::value_type>) {
      BOOST_TEST(gives_back(one, count));
    }
  });
}

// Past the size from which on freed memory goes back to the system at once, and past the pieces the storage grows in.
BOOST_AUTO_TEST_CASE(of_many_mebibytes_grow_with_the_storage) {
  for (auto const& kind : resource_kinds()) {
    BOOST_TEST_CONTEXT(kind.name) {
      scratch const s{memory_folder()};
      auto const resource = kind.make(s);
      auto const* const begin = resource->storage().data();
      pmr::vector<std::uint64_t> numbers{resource.get()};
      pmr::deque<std::array<std::uint64_t, 32>> blocks{resource.get()};
      constexpr auto many = (std::size_t{9} << 20) / sizeof(std::uint64_t); // 16 MiB and half of that while it grows
      for (std::size_t n = 0; n < many; ++n) {
        numbers.push_back(n);
        if (n % 64 == 0) {
          blocks.push_back({n});
        }
      }
      BOOST_TEST(resource->storage().data() == begin);
      BOOST_TEST(has_bytes_of(resource->storage(), numbers.data(), many * sizeof(std::uint64_t)));
      BOOST_TEST(contents_lie_in(resource->storage(), blocks));
      bool same = true;
      for (std::size_t n = 0; n < many; ++n) {
        same = same && numbers[n] == n && (n % 64 != 0 || blocks[n / 64][0] == n);
      }
      BOOST_TEST(same);
    }
  }
}

BOOST_AUTO_TEST_CASE(are_as_they_were_after_what_others_have_freed_is_trimmed) {
  with_each_resource([](mapped_resource& resource) {
    auto kept = make_in<pmr::map<pmr::string, pmr::vector<pmr::string>>>(&resource);
    {
      auto gone = make_in<pmr::vector<pmr::string>>(&resource);
      for (std::size_t n = 0; n < count; ++n) {
        add(kept, n);
        add(gone, n);
      }
    }
    BOOST_TEST(or_throw(resource.trim()) > 0U);
    BOOST_TEST(holds(kept, count));
    auto anew = make_in<pmr::vector<pmr::string>>(&resource); // on pages that have been given back
    fill(anew, 0, count);
    BOOST_TEST(holds(anew, count));
    BOOST_TEST(holds(kept, count));
  });
}

BOOST_AUTO_TEST_CASE(go_all_at_once_by_release) {
  with_each_resource([](mapped_resource& resource) {
    for (int round = 0; round < 3; ++round) {
      // Objects that nobody destroys: their memory is all they have.
      auto* const lost = new (resource.allocate(sizeof(mixture), alignof(mixture)))
          mixture{std::allocator_arg, in<std::byte>{&resource}};
      std::apply([&](auto&... each) { (fill(each, 0, 50), ...); }, *lost);
      BOOST_TEST(resource.stats().used_bytes > 0U);
      resource.release();
      BOOST_TEST(resource.stats().used_bytes == 0U);
    }
  });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(containers_of_several_threads)

BOOST_AUTO_TEST_CASE(are_filled_at_the_same_time) {
  with_each_resource([](mapped_resource& resource) {
    std::atomic<unsigned> wrong = 0;
    on_threads([&](unsigned) {
      for (int round = 0; round < 4; ++round) {
        bunch mine{resource};
        mine.fill_all(150);
        wrong += !mine.all_hold(150) || !mine.all_lie_in(resource.storage());
      }
    });
    BOOST_TEST(wrong == 0U);
  });
}

BOOST_AUTO_TEST_CASE(are_destroyed_by_others_than_those_that_made_them) {
  with_each_resource([](mapped_resource& resource) {
    std::atomic<unsigned> wrong = 0;
    std::mutex mutex;
    std::array<std::unique_ptr<bunch>, thread_count> left_for;
    on_threads([&](unsigned i) {
      for (unsigned round = 0; round < 12; ++round) {
        auto mine = std::make_unique<bunch>(resource);
        mine->fill_all(60);
        {
          std::scoped_lock const lock{mutex};
          std::swap(mine, left_for[(i + round) % thread_count]);
        }
        wrong += mine != nullptr && !mine->all_hold(60);
      } // destroys what another has left
    });
    for (auto const& last : left_for) {
      BOOST_TEST(last->all_hold(60));
    }
    BOOST_TEST(wrong == 0U);
  });
}

BOOST_AUTO_TEST_CASE(outlive_the_threads_that_filled_them) {
  with_each_resource([](mapped_resource& resource) {
    std::array<std::unique_ptr<bunch>, thread_count> all;
    on_threads([&](unsigned i) {
      all[i] = std::make_unique<bunch>(resource);
      all[i]->fill_all(100);
    });
    for (auto const& each : all) {
      BOOST_TEST(each->all_hold(100));
      BOOST_TEST(each->all_lie_in(resource.storage()));
    }
    on_threads([&](unsigned i) { all[(i + 1) % thread_count].reset(); });
  });
}

BOOST_AUTO_TEST_CASE(that_belong_to_a_thread_go_with_it) {
  with_each_resource([](mapped_resource& resource) {
    std::atomic<unsigned> wrong = 0;
    on_threads([&](unsigned) {
      thread_local std::unique_ptr<bunch>
          early; // before the thread has ever allocated here: destroyed after that's end
      early = nullptr;
      bunch{resource}.fill_all(10);
      early = std::make_unique<bunch>(resource);
      early->fill_all(50);
      wrong += !early->all_hold(50);
    });
    BOOST_TEST(wrong == 0U);
  });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(resources_over_a_mapped_resource)

BOOST_AUTO_TEST_CASE(pools_take_their_memory_from_it_and_give_it_back) {
  with_each_resource([](mapped_resource& resource) {
    auto const check = [&](pmr::memory_resource& pool) {
      auto one = make_in<pmr::map<pmr::string, pmr::vector<pmr::list<pmr::string>>>>(&pool);
      fill(one, 0, count);
      BOOST_TEST(holds(one, count));
      BOOST_TEST(contents_lie_in(resource.storage(), one));
    };
    {
      pmr::unsynchronized_pool_resource pool{&resource};
      check(pool);
      pool.release();
      check(pool);
    }
    pmr::synchronized_pool_resource pool{{.max_blocks_per_chunk = 64, .largest_required_pool_block = 512}, &resource};
    check(pool);
  });
}

BOOST_AUTO_TEST_CASE(a_pool_serves_several_threads) {
  with_each_resource([](mapped_resource& resource) {
    pmr::synchronized_pool_resource pool{&resource};
    std::atomic<unsigned> wrong = 0;
    on_threads([&](unsigned) {
      for (int round = 0; round < 5; ++round) {
        auto one = make_in<pmr::unordered_map<pmr::string, std::uint64_t>>(&pool);
        fill(one, 0, 200);
        wrong += !holds(one, 200) || !contents_lie_in(resource.storage(), one);
      }
    });
    BOOST_TEST(wrong == 0U);
  });
}

BOOST_AUTO_TEST_CASE(a_monotonic_buffer_takes_and_keeps_until_its_release) {
  with_each_resource([](mapped_resource& resource) {
    pmr::monotonic_buffer_resource buffer{&resource};
    for (int round = 0; round < 3; ++round) {
      auto one = make_in<pmr::list<pmr::string>>(&buffer);
      fill(one, 0, count);
      BOOST_TEST(holds(one, count));
      BOOST_TEST(contents_lie_in(resource.storage(), one));
    }
    auto const used = resource.stats().used_bytes;
    buffer.release();
    (void)or_throw(resource.trim());
    BOOST_TEST(resource.stats().used_bytes < used);
  });
}

BOOST_AUTO_TEST_SUITE_END()
