// SPDX-License-Identifier: MIT OR Apache-2.0

/// Code in mapped memory that is never writable and executable at once: for compilers that emit while they run.
export module fmmap.exec;

export import fmmap.core;
export import fmmap.pmr;

export import :code_arena;
export import :code_buffer;
export import :code_span;
export import :exec_resource;
