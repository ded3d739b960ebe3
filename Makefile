# Coldstream. `make help` lists the targets.
CC      ?= gcc
BUILD   ?= build
OPTIMIZE ?= -O3 $(if $(filter x86_64,$(shell uname -m)),-march=x86-64-v3)
WARN    := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wwrite-strings -Wno-format-truncation
PACKAGES := rdkafka lmdb yaml-0.1 jansson libxxhash libmicrohttpd libsystemd libcurl libcrypto yajl
CFLAGS  += -std=gnu11 -g $(OPTIMIZE) $(WARN) -fPIC -fvisibility=hidden -ffp-contract=fast -fno-math-errno -I. \
           $(shell pkg-config --cflags $(PACKAGES) openblas 2>/dev/null) -D_GNU_SOURCE $(SANITIZE)
LDFLAGS += $(SANITIZE) -Wl,--as-needed
LDLIBS  := $(shell pkg-config --libs $(PACKAGES) openblas 2>/dev/null) -lpthread -lm

sources  = $(wildcard core/*.c storage/*.c config/*.c) $(filter-out daemon/main.c daemon/serve.c,$(wildcard daemon/*.c))
objects  = $(sources:%.c=$(BUILD)/%.o)
archive  = $(BUILD)/libinternal.a
unit     = $(patsubst %.c,$(BUILD)/%,$(wildcard tests/unit/test_*.c tests/gradient/test_*.c))
programs = $(BUILD)/coldstreamd $(BUILD)/coldstreamctl $(BUILD)/coldstream-serve

all: $(programs) ## programs and the library

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c $< -o $@

$(archive): $(objects)
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/coldstreamd: $(BUILD)/daemon/main.o $(archive)
	$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@
$(BUILD)/coldstream-serve: $(BUILD)/daemon/serve.o $(archive)
	$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@
$(BUILD)/coldstreamctl: $(patsubst %.c,$(BUILD)/%.o,tools/coldstreamctl.c $(wildcard tools/ctl_*.c)) $(archive)
	$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(archive)
	$(CC) $(LDFLAGS) $^ -lcmocka $(LDLIBS) -o $@

unit: $(unit) ## builds and runs the unit and gradient tests
	@set -e; for t in $(unit); do $$t; done

clean: ## removes what was built
	rm -rf $(BUILD)

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.PHONY: all unit clean help
.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
