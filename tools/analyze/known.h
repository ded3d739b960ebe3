/* For the analyzers alone, before each file but core/error.c: what core/error.h promises in words. */
#ifndef TOOLS_ANALYZE_KNOWN_H
#define TOOLS_ANALYZE_KNOWN_H

#include "core/error.h"

#define cs_fail(...) (cs_fail(__VA_ARGS__), false)
#define cs_fail_errno(...) (cs_fail_errno(__VA_ARGS__), false)
#define cs_error_prefix(...) (cs_error_prefix(__VA_ARGS__), false)

#endif
