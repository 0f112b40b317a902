// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <expected>
#include <memory>
#include <utility>

module fmmap.core;

import :state;

namespace fmmap {

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
