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

#include <cxxabi.h>

module fmmap.pmr;

import fmmap.alloc;
import fmmap.core;
import fmmap.os;
import :heap_format;
import :heap_objects;

namespace fmmap {

namespace {

// A back reference, S1_ or T0_, may spell all that comes before it: two hundred bytes can stand for more than memory holds.
auto may_be_demangled(std::string_view name) -> bool {
  constexpr std::size_t longest = 1024;
  constexpr std::size_t most_references = 24;
  if (name.size() > longest) {
    return false;
  }
  std::size_t references = 0;
  for (auto at = name.find_first_of("ST"); at != name.npos; at = name.find_first_of("ST", at + 1)) {
    auto const end = name.find_first_not_of("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", at + 1);
    references += end != name.npos && name[end] == '_' ? 1 : 0;
  }
  return references <= most_references;
}

} // namespace

auto demangle(std::string_view name) -> std::string {
  std::string const terminated{name};
  if (!may_be_demangled(name)) {
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

void object_table::format() noexcept {
  root() = {.magic = heap_format::root_magic, .first_object = 0, .object_count = 0};
  entries_.clear();
}

auto object_table::load(allocation_test const& is_allocated, std::size_t size) -> std::optional<std::string> {
  entries_.clear();
  if (size < heap_format::page_bytes || root().magic != heap_format::root_magic) {
    return "the table of objects is not where it ought to be";
  }
  auto const lies_in = [&](std::uint64_t offset, std::uint64_t length) {
    return os::fits(offset, length, size) && is_allocated(offset, length);
  };
  std::uint64_t left = size; // for entries and objects, of which none overlaps another
  std::uint64_t previous = 0;
  for (auto at = root().first_object; at != 0; at = node(at).next) {
    if (at % alignof(heap_format::object_node) != 0 || !lies_in(at, sizeof(heap_format::object_node))) {
      return "the table of objects leads to " + std::to_string(at) + ", where no entry is";
    }
    auto const& one = node(at);
    auto const text = std::uint64_t{one.name_length} + one.type_length;
    if (one.previous != previous || !lies_in(at, sizeof one + text)) {
      return "the entry at " + std::to_string(at) + " in the table of objects is none";
    }
    auto const* const name = reinterpret_cast<char const*>(&one + 1);
    std::string_view const name_text{name, one.name_length};
    if (!std::has_single_bit(one.alignment) || one.object % one.alignment != 0 ||
        !lies_in(one.object, std::max<std::uint64_t>(one.size, 1))) {
      return "the object \"" + std::string{name_text} + "\" lies where nothing is allocated";
    }
    auto const taken = sizeof one + text + one.size;
    if (taken > left) {
      return "the table of objects has entries that overlap";
    }
    left -= taken;
    if (entries_.contains(name_text) || entries_.size() == root().object_count) {
      return "the table of objects has more entries than it says, or \"" + std::string{name_text} + "\" twice";
    }
    insert(name_text, {name + one.name_length, one.type_length}, at);
    previous = at;
  }
  if (entries_.size() != root().object_count) {
    return "the table of objects has fewer entries than it says";
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
