// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <expected>
#include <memory>
#include <optional>
#include <utility>

module fmmap.core;

import :state;

namespace fmmap {

auto flush_work::target() const noexcept -> void const* { return nullptr; }
auto flush_work::absorb(flush_work const& /*other*/) noexcept -> bool { return false; }
auto flush_work::next_call() -> std::optional<sync_call> { return std::nullopt; }
void flush_work::call_made(int /*code*/) {}
auto flush_work::is_over() const -> bool { return false; }

flush_job::flush_job(std::unique_ptr<flush_work> work) noexcept : work_{std::move(work)} {}
flush_job::flush_job(flush_job&& other) noexcept = default;
auto flush_job::operator=(flush_job&& other) noexcept -> flush_job& = default;
flush_job::~flush_job() = default;

auto flush_job::run() -> result<durability> {
  auto const work = std::move(work_);
  if (!work) {
    return failure(errc::already_run, "run a staged flush");
  }
  return work->run();
}

} // namespace fmmap
