// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <cxxabi.h>

module fmmap.pmr;

import fmmap.alloc;
import fmmap.core;
import fmmap.os;
import :heap_format;
import :heap_objects;

namespace fmmap {

namespace {

// How often a name of the ABI stands for an earlier part of itself, or for a parameter: S0_, T_. What only looks so, in the name
// of a class, counts too.
auto back_references(std::string_view name) -> std::size_t {
  constexpr std::string_view digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  std::size_t count = 0;
  for (auto at = name.find_first_of("ST"); at != std::string_view::npos; at = name.find_first_of("ST", at + 1)) {
    auto const end = name.find_first_not_of(digits, at + 1);
    if (end != std::string_view::npos && name[end] == '_') {
      ++count;
      at = end;
    }
  }
  return count;
}

// A part of the content.
struct extent {
  std::uint64_t begin;
  std::uint64_t length;
};

auto overlap(std::vector<extent>& all) -> bool {
  std::ranges::sort(all, {}, &extent::begin);
  return std::ranges::adjacent_find(all, [](extent const& one, extent const& next) {
           return next.begin - one.begin < one.length;
         }) != all.end();
}

} // namespace

// A name that refers back to its own parts doubles with every eleven characters, and a file can have any: such a one is left as
// it is.
auto demangle(std::string_view name) -> std::string {
  constexpr std::size_t most_references = 16;
  constexpr std::size_t longest = 512;
  std::string terminated{name};
  if (name.size() > longest || back_references(name) > most_references) {
    return terminated;
  }
  int status = 0;
  std::unique_ptr<char, void (*)(void*)> const text{abi::__cxa_demangle(terminated.c_str(), nullptr, nullptr, &status),
                                                    std::free};
  return status == 0 && text ? std::string{text.get()} : terminated;
}

auto object_table::root() const noexcept -> heap_format::root& {
  return *reinterpret_cast<heap_format::root*>(content_);
}

auto object_table::node(std::uint64_t offset) const noexcept -> heap_format::object_node& {
  return *reinterpret_cast<heap_format::object_node*>(content_ + offset);
}

auto object_table::names_of(heap_format::object_node const& node) noexcept
    -> std::pair<std::string_view, std::string_view> {
  auto const* const name = reinterpret_cast<char const*>(&node + 1);
  return {{name, node.name_length}, {name + node.name_length, node.type_length}};
}

void object_table::format() noexcept {
  root() = {.magic = heap_format::root_magic, .first_object = 0, .object_count = 0};
  entries_.clear();
}

auto object_table::load(allocations const& books, std::size_t size) -> std::optional<std::string> {
  constexpr auto root_bytes = heap_format::page_bytes;
  entries_.clear();
  if (size < root_bytes || root().magic != heap_format::root_magic ||
      !books.is_object(0, root_bytes, heap_format::root_alignment)) {
    return "the table of objects is not where it ought to be";
  }
  std::vector<extent> extents{{.begin = 0, .length = root_bytes}};
  auto left = size - root_bytes; // names are copied, so there may not be more of them than content
  std::uint64_t previous = 0;
  for (auto at = root().first_object; at != 0; previous = at, at = node(at).next) {
    if (auto wrong = check_node(books, size, at, previous); wrong) {
      return wrong;
    }
    auto const& one = node(at);
    auto const [name, type] = names_of(one);
    if (entries_.contains(name) || entries_.size() == root().object_count) {
      return "the table of objects has more entries than it says, or \"" + std::string{name} + "\" twice";
    }
    auto const node_length = sizeof one + name.size() + type.size();
    if (node_length > left || one.size > left - node_length) {
      return "the table of objects has more in it than there is";
    }
    left -= node_length + one.size;
    extents.push_back({.begin = at, .length = node_length});
    extents.push_back({.begin = one.object, .length = one.size});
    insert(name, type, at);
  }
  if (entries_.size() != root().object_count) {
    return "the table of objects has fewer entries than it says";
  }
  return overlap(extents) ? std::optional<std::string>{"two entries of the table of objects overlap"} : std::nullopt;
}

auto object_table::check_node(allocations const& books, std::size_t size, std::uint64_t at,
                              std::uint64_t previous) const -> std::optional<std::string> {
  if (at % alignof(heap_format::object_node) != 0 || !os::fits(at, sizeof(heap_format::object_node), size) ||
      !books.is_live(at, sizeof(heap_format::object_node))) {
    return "the table of objects leads to " + std::to_string(at) + ", where no entry is";
  }
  auto const& one = node(at);
  auto const length = sizeof one + std::uint64_t{one.name_length} + one.type_length;
  if (one.previous != previous || !os::fits(at, length, size) ||
      !books.is_object(at, length, alignof(heap_format::object_node))) {
    return "the entry at " + std::to_string(at) + " in the table of objects is none";
  }
  if (!std::has_single_bit(one.alignment) || one.object % one.alignment != 0 || !os::fits(one.object, one.size, size) ||
      !books.is_object(one.object, one.size, one.alignment)) {
    return "the object \"" + std::string{names_of(one).first} + "\" lies where nothing is allocated";
  }
  return {};
}

void object_table::insert(std::string_view name, std::string_view type, std::uint64_t at) {
  auto const& one = node(at);
  entries_.emplace(name, entry{.node = at,
                               .object = one.object,
                               .size = one.size,
                               .alignment = one.alignment,
                               .type = std::string{type},
                               .type_text = demangle(type)});
}

auto object_table::find(std::string_view name) const -> entry const* {
  auto const found = entries_.find(name);
  return found == entries_.end() ? nullptr : &found->second;
}

auto object_table::find_at(std::uint64_t offset) const -> std::pair<std::string_view, entry const*> {
  for (auto const& [name, one] : entries_) {
    if (offset >= one.object && offset - one.object < one.size) {
      return {name, &one};
    }
  }
  return {{}, nullptr};
}

auto object_table::node_bytes(std::string_view name, object_type const& type) noexcept -> std::size_t {
  return sizeof(heap_format::object_node) + name.size() + type.name.size();
}

void object_table::add(std::uint64_t at, std::string_view name, object_type const& type, std::uint64_t object) {
  auto const next = root().first_object;
  auto& made = node(at);
  made = {.next = next,
          .previous = 0,
          .object = object,
          .size = type.size,
          .alignment = type.alignment,
          .name_length = static_cast<std::uint32_t>(name.size()),
          .type_length = static_cast<std::uint32_t>(type.name.size())};
  auto* const text = reinterpret_cast<char*>(&made + 1);
  std::ranges::copy(type.name, std::ranges::copy(name, text).out);
  insert(name, type.name, at); // may throw, and nothing points to the node yet
  if (next != 0) {
    node(next).previous = at;
  }
  root().first_object = at;
  ++root().object_count;
}

auto object_table::remove(std::string_view name) -> freed {
  auto const found = entries_.find(name);
  auto const at = found->second.node;
  auto const& gone = node(at);
  freed const was{.node = at, .length = sizeof gone + gone.name_length + gone.type_length};
  (gone.previous == 0 ? root().first_object : node(gone.previous).next) = gone.next;
  if (gone.next != 0) {
    node(gone.next).previous = gone.previous;
  }
  --root().object_count;
  entries_.erase(found);
  return was;
}

} // namespace fmmap
