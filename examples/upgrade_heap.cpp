// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The objects of a heap, written as text and read into a new heap, where they are of other types:
//
//   upgrade_heap make HEAP      makes a heap as the old version of a program did
//   upgrade_heap export HEAP    prints its objects, a line for each value
//   upgrade_heap import HEAP    makes a heap of such lines, with the types of today
//   upgrade_heap show HEAP      prints what such a heap holds
//
// A heap opens only where types have the shapes they had: text does not mind. In the same way a heap gets from one standard
// library to another, when one program exports and another imports.

#include <cmath>
#include <cstdint>
#include <exception>
#include <expected>
#include <iostream>
#include <memory_resource>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

import fmmap;

namespace {

namespace old {

struct account {
  std::uint32_t number;
  double balance; // in francs, alas
};
using accounts = std::pmr::vector<account>;

} // namespace old

struct account {
  std::uint64_t number;
  std::int64_t cents;
  std::uint64_t opened; // is not known of old ones
};
using accounts = std::pmr::vector<account>;
using counter = std::uint64_t;

void make(char const* path) {
  auto heap = fmmap::or_throw(fmmap::persistent_heap::create(path));
  auto& savings = *fmmap::or_throw(heap.construct<old::accounts>("savings"));
  savings.push_back({.number = 17, .balance = 1250.25});
  savings.push_back({.number = 18, .balance = -3.1});
  *fmmap::or_throw(heap.construct<old::accounts>("loans")) = {{.number = 90, .balance = 40'000}};
  *fmmap::or_throw(heap.construct<counter>("payments")) = 4711;
  fmmap::or_throw(heap.construct<bool>("debugging", true));
  fmmap::or_throw(heap.commit());
}

// Each object by what it is. What no version needs any more is told of, and left.
void print_all(char const* path) {
  auto const heap = fmmap::or_throw(fmmap::persistent_heap::open_read_only(path));
  auto const left = heap.visit_objects<old::accounts, counter>([](std::string_view name, auto const& object) {
    if constexpr (std::is_same_v<decltype(object), counter const&>) {
      std::cout << "counter " << name << ' ' << object << '\n';
    } else {
      for (auto const& each : object) {
        std::cout << "account " << name << ' ' << each.number << ' ' << std::llround(each.balance * 100) << '\n';
      }
    }
  });
  for (auto const& name : left) {
    std::cerr << "left out: " << name << '\n';
  }
}

// One commit at the end: a new heap has all of it, or nothing.
void read_all(char const* path) {
  auto heap = fmmap::or_throw(fmmap::persistent_heap::create(path));
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words{line};
    std::string what;
    std::string name;
    words >> what >> name;
    if (what == "account") {
      account one{};
      words >> one.number >> one.cents;
      fmmap::or_throw(heap.find_or_construct<accounts>(name))->push_back(one);
    } else if (what == "counter") {
      words >> *fmmap::or_throw(heap.find_or_construct<counter>(name));
    }
    if (!words) {
      throw std::runtime_error{"this is no line of an export: " + line};
    }
  }
  fmmap::or_throw(heap.commit());
}

void show(char const* path) {
  auto const heap = fmmap::or_throw(fmmap::persistent_heap::open_read_only(path));
  heap.for_each_object([&](fmmap::object_info const& one) {
    std::cout << one.name << ": " << one.type << " of " << one.size << " bytes\n";
    if (auto const found = heap.find<accounts const>(one.name); found) {
      for (auto const& each : **found) {
        std::cout << "  " << each.number << ": " << each.cents << " cents\n";
      }
    }
  });
}

} // namespace

auto main(int argc, char** argv) -> int try {
  std::string_view const verb{argc == 3 ? argv[1] : ""};
  auto const action = verb == "make"     ? make
                      : verb == "export" ? print_all
                      : verb == "import" ? read_all
                      : verb == "show"   ? show
                                         : nullptr;
  if (action == nullptr) {
    std::cerr << "upgrade_heap make|export|import|show HEAP\n";
    return 2;
  }
  action(argv[2]);
  return 0;
} catch (std::exception const& e) {
  std::cerr << e.what() << '\n';
  return 1;
}
