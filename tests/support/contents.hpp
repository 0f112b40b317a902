// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

// What tests put into containers of any type, the n-th value of each; whether it is still there, and where it lies.

template <class T>
concept associative = requires { typename T::key_type; };

template <class T>
concept adaptor = !associative<T> && requires { typename T::container_type; };

template <class T>
concept with_mapped = requires { typename T::mapped_type; };

template <class T>
concept any_container = requires(T const& one) {
  one.begin();
  one.end();
};

// Whether equal keys may be there more than once: inserting then cannot say that it did nothing.
template <class T>
concept multiple =
    associative<T> && !requires(T& one, typename T::value_type const& value) { one.insert(value).second; };

template <class T>
struct is_pair : std::false_type {};
template <class A, class B>
struct is_pair<std::pair<A, B>> : std::true_type {};

template <class T>
struct allocator_of {
  using type = typename T::allocator_type;
};
template <adaptor T>
struct allocator_of<T> {
  using type = typename T::container_type::allocator_type;
};

// An empty container whose memory comes from `from`.
template <class T>
auto make_in(std::pmr::memory_resource* from) -> T {
  return T(typename allocator_of<T>::type(from));
}

template <class T>
void add(T& to, std::size_t n);

// The n-th value of a type; all are different, as far as the type has so many. What it owns is not memory of the resource.
template <class T>
auto value(std::size_t n) -> T {
  if constexpr (std::is_same_v<T, bool>) {
    return n % 3 == 0;
  } else if constexpr (std::is_arithmetic_v<T>) {
    return static_cast<T>(n);
  } else {
    auto made = make_in<T>(std::pmr::new_delete_resource());
    if constexpr (requires { typename T::traits_type; }) { // short and long texts
      for (char const digit : std::to_string(n)) {
        made.push_back(static_cast<typename T::value_type>(digit));
      }
      made.append(n % 50, static_cast<typename T::value_type>('x'));
    } else {
      for (std::size_t i = 0; i < 3; ++i) {
        add(made, n + i);
      }
    }
    return made;
  }
}

// Adds the n-th element.
template <class T>
void add(T& to, std::size_t n) {
  if constexpr (adaptor<T>) {
    to.push(value<typename T::value_type>(n));
  } else if constexpr (with_mapped<T>) {
    to.emplace(value<typename T::key_type>(n), value<typename T::mapped_type>(n));
  } else if constexpr (associative<T>) {
    to.emplace(value<typename T::key_type>(n));
  } else if constexpr (requires { to.push_back(value<typename T::value_type>(n)); }) {
    to.push_back(value<typename T::value_type>(n));
  } else {
    to.push_front(value<typename T::value_type>(n));
  }
}

template <class T>
void fill(T& to, std::size_t begin, std::size_t end) {
  for (auto n = begin; n < end; ++n) {
    add(to, n);
    if constexpr (multiple<T>) {
      add(to, n);
    }
  }
}

template <adaptor T>
auto inside(T const& of) -> typename T::container_type const& {
  struct opened : T {
    static auto look(T const& at) -> typename T::container_type const& { return at.*(&opened::c); }
  };
  return opened::look(of);
}

// Whether it has the first `count` elements and no others, where `fill` puts them.
template <class T>
auto holds(T const& one, std::size_t count) -> bool {
  if constexpr (associative<T>) {
    auto const times = multiple<T> ? std::size_t{2} : std::size_t{1};
    if (one.size() != count * times) {
      return false;
    }
    for (std::size_t n = 0; n < count; ++n) {
      auto const found = one.find(value<typename T::key_type>(n));
      if (found == one.end() || one.count(value<typename T::key_type>(n)) != times) {
        return false;
      }
      if constexpr (with_mapped<T>) {
        if (!(found->second == value<typename T::mapped_type>(n))) {
          return false;
        }
      }
    }
    return true;
  } else {
    constexpr auto backwards = !requires(T& to) { to.push_back(value<typename T::value_type>(0)); };
    std::size_t seen = 0;
    for (auto const& element : one) {
      auto const n = backwards ? count - 1 - seen : seen;
      if (seen == count || !(element == value<typename T::value_type>(n))) {
        return false;
      }
      ++seen;
    }
    return seen == count;
  }
}

// An adaptor gives its elements away one by one; equal ones of a heap lie anywhere inside.
template <adaptor T>
auto gives_back(T& one, std::size_t count) -> bool {
  for (std::size_t i = 0; i < count; ++i) {
    if constexpr (requires { one.front(); }) {
      if (!(one.front() == value<typename T::value_type>(i))) {
        return false;
      }
    } else if (!(one.top() == value<typename T::value_type>(count - 1 - i))) {
      return false;
    }
    one.pop();
  }
  return one.empty();
}

inline auto has_bytes_of(std::span<std::byte const> storage, void const* object, std::size_t size) -> bool {
  auto const begin = reinterpret_cast<std::uintptr_t>(storage.data());
  auto const at = reinterpret_cast<std::uintptr_t>(object);
  return at >= begin && at - begin <= storage.size() && size <= storage.size() - (at - begin);
}

template <class T>
auto contents_lie_in(std::span<std::byte const> storage, T const& one) -> bool;

// Whether an object lies in the storage, with all it has.
template <class T>
auto lies_in(std::span<std::byte const> storage, T const& object) -> bool {
  return has_bytes_of(storage, std::addressof(object), sizeof object) && contents_lie_in(storage, object);
}

// Whether what a container, itself anywhere, has lies there, and what that has.
template <class T>
auto contents_lie_in(std::span<std::byte const> storage, T const& one) -> bool {
  if constexpr (adaptor<T>) {
    return contents_lie_in(storage, inside(one));
  } else if constexpr (is_pair<T>::value) {
    return contents_lie_in(storage, one.first) && contents_lie_in(storage, one.second);
  } else if constexpr (any_container<T>) {
    if constexpr (std::is_lvalue_reference_v<decltype(*one.begin())>) { // of bits there is no address
      return std::all_of(one.begin(), one.end(), [&](auto const& element) { return lies_in(storage, element); });
    }
    return true;
  } else {
    return true;
  }
}
