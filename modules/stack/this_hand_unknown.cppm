// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>

// For processors on which nothing is known that finds a thread's variable anew at every access: a call does it, there.
export module fmmap.stack:this_hand;

namespace fmmap::this_hand {

[[nodiscard]] inline auto take(void const* /*of*/) noexcept -> std::byte* { return nullptr; }
[[nodiscard]] inline auto keep(void const* /*of*/, void const* /*top*/) noexcept -> bool { return false; }
[[nodiscard]] inline auto size() noexcept -> std::size_t { return 0; }
[[nodiscard]] inline auto slot() noexcept -> std::uint32_t { return 0; }

} // namespace fmmap::this_hand
