// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

// The table of a heap's named objects: a list in the content, and an index of it in ordinary memory. Implementation units only.
module fmmap.pmr:heap_objects;

import fmmap.alloc;
import fmmap.core;
import :heap_format;
import :persistent_heap;

namespace fmmap {

// One thread at a time.
class object_table {
public:
  struct entry {
    std::uint64_t node;
    std::uint64_t object;
    std::uint64_t size;
    std::uint64_t alignment;
    std::string type;
    std::string type_text; // for people
  };

  // Of a content that begins at `content`.
  inline explicit object_table(std::byte* content) noexcept : content_{content} {}

  // Writes the table of no objects. The first page is the caller's.
  void format() noexcept;

  // What is allocated, as some books have it: whether something holds these bytes, and whether something begins there that was asked
  // for with that size and alignment.
  struct allocations {
    std::function<bool(std::uint64_t offset, std::uint64_t length)> is_live;
    std::function<bool(std::uint64_t offset, std::uint64_t size, std::uint64_t alignment)> is_object;
  };

  template <class Books>
  [[nodiscard]] static auto allocations_of(Books const& books) -> allocations {
    return {.is_live = [&](std::uint64_t offset, std::uint64_t length) { return books.is_live(offset, length); },
            .is_object = [&](std::uint64_t offset, std::uint64_t size,
                             std::uint64_t alignment) { return books.is_object(offset, size, alignment); }};
  }

  // Reads the list anew, of the `size` bytes that there are, whatever they hold. Returns what is wrong with it, if anything is:
  // the entries before that are there.
  [[nodiscard]] auto load(allocations const& books, std::size_t size) -> std::optional<std::string>;

  [[nodiscard]] auto find(std::string_view name) const -> entry const*;

  // The object whose own bytes hold that offset, by its name.
  [[nodiscard]] auto find_at(std::uint64_t offset) const -> std::pair<std::string_view, entry const*>;

  // Bytes of the node of such an object.
  [[nodiscard]] static auto node_bytes(std::string_view name, object_type const& type) noexcept -> std::size_t;

  // Adds an object, its node to be there.
  void add(std::uint64_t at, std::string_view name, object_type const& type, std::uint64_t object);

  // Takes one out again, and returns where its node was and how long.
  struct freed {
    std::uint64_t node;
    std::size_t length;
  };
  auto remove(std::string_view name) -> freed;

  [[nodiscard]] inline auto entries() const noexcept -> std::map<std::string, entry, std::less<>> const& {
    return entries_;
  }

private:
  [[nodiscard]] auto root() const noexcept -> heap_format::root&;
  [[nodiscard]] auto node(std::uint64_t offset) const noexcept -> heap_format::object_node&;
  // What is wrong with a node that is to follow `previous`, or with its object; of that much content.
  [[nodiscard]] auto check_node(allocations const& books, std::size_t size, std::uint64_t at,
                                std::uint64_t previous) const -> std::optional<std::string>;
  // The name and the type that follow a node.
  [[nodiscard]] static auto names_of(heap_format::object_node const& node) noexcept
      -> std::pair<std::string_view, std::string_view>;
  void insert(std::string_view name, std::string_view type, std::uint64_t at);

  std::byte* content_;
  std::map<std::string, entry, std::less<>> entries_;
};

// A name of the ABI as the compiler would write it.
[[nodiscard]] auto demangle(std::string_view name) -> std::string;

} // namespace fmmap
