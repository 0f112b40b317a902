// SPDX-License-Identifier: MIT OR Apache-2.0
export module fmmap.core;

export import :counted;
export import :range;
export import :error;
export import :durability;
export import :file;
export import :mapping;
export import :flush_job;
export import :mapped_file;
export import :mutable_mapped_file;
export import :file_view;
export import :lines;
