// SPDX-License-Identifier: MIT OR Apache-2.0

#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory_resource>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

// Boost 1.81 calls polymorphic_allocator::destroy, which C++20 deprecates.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

#include <boost/container/deque.hpp>
#include <boost/container/devector.hpp>
#include <boost/container/flat_map.hpp>
#include <boost/container/flat_set.hpp>
#include <boost/container/list.hpp>
#include <boost/container/map.hpp>
#include <boost/container/set.hpp>
#include <boost/container/slist.hpp>
#include <boost/container/small_vector.hpp>
#include <boost/container/stable_vector.hpp>
#include <boost/container/string.hpp>
#include <boost/container/vector.hpp>
#include <boost/test/unit_test.hpp>

#include "support/resources.hpp"

import fmmap.core;
import fmmap.pmr;

// Boost's containers with the standard's polymorphic_allocator.

namespace {

namespace pmr = std::pmr;
namespace bc = boost::container;

template <class T>
using in = std::pmr::polymorphic_allocator<T>;

using boost_string = bc::basic_string<char, std::char_traits<char>, in<char>>;

using boost_containers = std::tuple<
    bc::vector<std::uint64_t, in<std::uint64_t>>, bc::vector<bool, in<bool>>,
    bc::small_vector<std::uint32_t, 8, in<std::uint32_t>>, bc::deque<int, in<int>>, bc::list<int, in<int>>,
    bc::slist<int, in<int>>, bc::map<int, std::uint64_t, std::less<>, in<std::pair<int const, std::uint64_t>>>,
    bc::multimap<int, int, std::less<>, in<std::pair<int const, int>>>,
    bc::flat_map<int, std::uint64_t, std::less<>, in<std::pair<int, std::uint64_t>>>,
    bc::set<boost_string, std::less<>, in<boost_string>>, bc::flat_set<int, std::less<>, in<int>>, boost_string,
    bc::stable_vector<int, in<int>>, bc::devector<int, in<int>>, bc::vector<boost_string, in<boost_string>>,
    bc::deque<pmr::string, in<pmr::string>>, pmr::vector<bc::list<pmr::string, in<pmr::string>>>>;

} // namespace

BOOST_TEST_GLOBAL_FIXTURE(no_default_resource);

BOOST_AUTO_TEST_SUITE(containers_of_boost)

BOOST_AUTO_TEST_CASE_TEMPLATE(lie_in_the_storage, Container, boost_containers) {
  with_each_resource(goes_through<Container>);
}

// Their pairs are no std::pair, which the allocator knows how to tell.
BOOST_AUTO_TEST_CASE(that_are_maps_do_not_tell_their_elements_where_to_allocate) {
  with_each_resource([](fmmap::mapped_resource& resource) {
    auto map = make_in<bc::map<int, pmr::string, std::less<>, in<std::pair<int const, pmr::string>>>>(&resource);
    pmr::string const here(100, 'x', &resource);
    pmr::string const elsewhere{here, pmr::new_delete_resource()};
    map.emplace(1, pmr::string{here, &resource});
    map.emplace(2, pmr::string{elsewhere, pmr::new_delete_resource()});
    BOOST_TEST(contents_lie_in(resource.storage(), map.at(1)));
    BOOST_TEST(!contents_lie_in(resource.storage(), map.at(2)));
    auto told = make_in<pmr::map<int, pmr::string>>(&resource);
    told.emplace(2, elsewhere);
    BOOST_TEST(contents_lie_in(resource.storage(), told.at(2)));
  });
}

BOOST_AUTO_TEST_SUITE_END()
