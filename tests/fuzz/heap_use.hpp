// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <memory_resource>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "script.hpp"

#include "support/heap_image.hpp"

import fmmap.core;
import fmmap.pmr;

// Opens a heap's file, whatever its bytes are, and uses what can be had of it. Nothing may crash or be undefined, and what a
// heap that has opened commits is there when it is opened again.
class heap_use {
public:
  heap_use(heap_image& image, script input) : image_{image}, input_{input} {}

  void play() {
    if (input_.byte() % 2 == 0) {
      read();
    }
    auto const before = image_.contents();
    auto opened = fmmap::persistent_heap::open(image_.path());
    if (!opened) {
      auto const is_refused = opened.error() == fmmap::errc::not_a_heap || opened.error() == fmmap::errc::incompatible;
      require(!is_refused || image_.contents() == before);
      return;
    }
    look_at(*opened);
    destroy_what_can_be(*opened);
    allocate(*opened);
    if (commit(std::move(*opened))) {
      auto again = fmmap::or_throw(fmmap::persistent_heap::open(image_.path()));
      require(*fmmap::or_throw(again.find<std::uint64_t>(own_name)) == own_value);
    }
  }

private:
  static constexpr std::string_view own_name = "made here";
  static constexpr std::uint64_t own_value = 42;

  void read() {
    auto const before = image_.contents();
    if (auto const reader = fmmap::persistent_heap::open_read_only(image_.path()); reader) {
      look_at(*reader);
    }
    require(image_.contents() == before);
  }

  static void look_at(fmmap::persistent_heap const& heap) {
    heap.for_each_object([&](fmmap::object_info const& object) {
      auto const* const bytes = static_cast<unsigned char const volatile*>(object.address);
      for (std::size_t i = 0; i < object.size; i += 64) {
        (void)bytes[i];
      }
      (void)heap.find<std::uint64_t const>(object.name);
    });
    require(heap.find<std::uint64_t const>("there is none").error() == fmmap::errc::not_found);
    require(fmmap::or_throw(heap.check()).problems.empty()); // it would not have opened
    (void)heap.stats();
  }

  // Of types that hold nothing to be trusted.
  template <class T>
  static void destroy(fmmap::persistent_heap& heap, std::vector<std::string> const& names) {
    for (auto const& name : names) {
      (void)heap.destroy<T>(name);
    }
  }

  void destroy_what_can_be(fmmap::persistent_heap& heap) {
    if (input_.byte() % 2 == 0) {
      return;
    }
    std::vector<std::string> names;
    heap.for_each_object([&](fmmap::object_info const& object) { names.emplace_back(object.name); });
    destroy<std::uint64_t>(heap, names);
    destroy<heap_image::small_object>(heap, names);
    destroy<heap_image::large_object>(heap, names);
  }

  struct block {
    void* begin;
    std::size_t size;
    std::size_t alignment;
  };

  void allocate(fmmap::persistent_heap& heap) {
    std::vector<block> blocks;
    for (auto count = input_.byte() % 32U; count > 0; --count) {
      block one{.begin = nullptr,
                .size = input_.number<std::uint16_t>() * (input_.byte() % 4 == 0 ? 16U : 1U),
                .alignment = std::size_t{1} << (input_.byte() % 15U)};
      try {
        one.begin = heap.resource()->allocate(one.size, one.alignment);
      } catch (fmmap::allocation_error const&) {
        continue;
      }
      require(reinterpret_cast<std::uintptr_t>(one.begin) % one.alignment == 0);
      std::memset(one.begin, input_.byte(), one.size);
      blocks.push_back(one);
    }
    for (auto const& one : blocks) {
      if (input_.byte() % 2 == 0) {
        heap.resource()->deallocate(one.begin, one.size, one.alignment);
      }
    }
  }

  // Whether all of it went well.
  auto commit(fmmap::persistent_heap heap) -> bool {
    auto const level = static_cast<fmmap::commit_durability>(1 + (input_.byte() % 2U));
    auto made = heap.find_or_construct<std::uint64_t>(own_name, own_value);
    if (!made || !heap.commit(level)) {
      return false;
    }
    **made = 0;
    return heap.rollback() && **made == own_value && heap.commit(level) && heap.close();
  }

  heap_image& image_;
  script input_;
};
