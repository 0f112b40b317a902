// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <functional>
#include <utility>

#include <boost/asio/execution/context.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/query.hpp>
#include <boost/asio/system_executor.hpp>

module fmmap.async.asio;

namespace asio = boost::asio;

namespace fmmap {

auto asio_waits_of_system() -> asio_waits& {
  return asio::use_service<asio_waits>(asio::query(asio::system_executor{}, asio::execution::context));
}

void asio_post_by_system(std::move_only_function<void()> function) {
  asio::post(asio::system_executor{}, std::move(function));
}

} // namespace fmmap
