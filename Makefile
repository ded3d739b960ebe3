# Coldstream. `make help` lists the targets.
#
# Targets that a newcomer calls (test, demo, bench, ...) install what is missing first, then call make again for the work:
# pkg-config can only answer once its packages are there.
VERSION := 0.1.0
ifeq ($(origin CC),default)
CC      := gcc
endif
BUILD   ?= build
PREFIX  ?= /usr/local
OPTIMIZE ?= -O3 $(if $(filter x86_64,$(shell uname -m)),-march=x86-64-v3)
WARN    := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wwrite-strings $(if $(findstring clang,$(CC)),,-Wno-format-truncation)
# What a distributor asks of a daemon; FORTIFY needs optimization and gets in the sanitizers' way.
HARDEN  := $(if $(SANITIZE),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2) -fstack-protector-strong \
           -fstack-clash-protection $(if $(filter x86_64,$(shell uname -m)),-fcf-protection)
PACKAGES := rdkafka lmdb yaml-0.1 jansson libxxhash libmicrohttpd libsystemd libcurl libcrypto yajl libprotobuf-c openblas
packages_cflags := $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
packages_libs   := $(shell pkg-config --libs $(PACKAGES) 2>/dev/null)
CFLAGS  += -std=gnu11 -g $(OPTIMIZE) $(WARN) $(HARDEN) -fPIC -fvisibility=hidden -ffp-contract=fast -fno-math-errno -fno-trapping-math \
           -I. -I$(BUILD) $(packages_cflags) -D_GNU_SOURCE $(SANITIZE)
, := ,
# A processor without what -march asks for is told so by the dynamic linker; without the mark it would meet SIGILL.
LDFLAGS += $(SANITIZE) -Wl,--as-needed -Wl,-z,relro,-z,now,-z,noexecstack $(if $(findstring x86-64-v3,$(OPTIMIZE)),-Wl$(,)-z$(,)x86-64-v3)
LDLIBS  := $(packages_libs) -lpthread -lm

sources  = $(wildcard core/*.c storage/*.c config/*.c) $(filter-out daemon/main.c daemon/serve.c,$(wildcard daemon/*.c)) \
           tools/generate.c tools/generate_kafka.c tools/http_ask.c
schema   = $(BUILD)/core/coldstream_event.pb-c
objects  = $(sources:%.c=$(BUILD)/%.o) $(schema).o
archive  = $(BUILD)/libinternal.a
unit     = $(patsubst %.c,$(BUILD)/%,$(wildcard tests/unit/test_*.c tests/gradient/test_*.c))
flow     = $(patsubst %.c,$(BUILD)/%,$(wildcard tests/flow/test_*.c))
fuzzers  = $(patsubst %.c,$(BUILD)/%,$(wildcard tests/fuzz/fuzz_*.c))
replays  = $(fuzzers:$(BUILD)/tests/fuzz/fuzz_%=$(BUILD)/tests/fuzz/replay_%)
helpers  = $(patsubst %.c,$(BUILD)/%,$(filter-out $(wildcard tests/*/test_*.c tests/fuzz/*.c tests/tsan/*.c),$(wildcard tests/kafka/*.c))) \
           $(BUILD)/tests/crash/broker $(BUILD)/tests/crash/faults.so
programs = $(BUILD)/coldstreamd $(BUILD)/coldstreamctl $(BUILD)/coldstream-serve
library  = $(BUILD)/libcoldstream.so $(BUILD)/libcoldstream.a
again    = +@$(MAKE) --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))
# Under TSan every executable gets the C11 threads that librdkafka will find (tests/tsan/thrd_shim.c).
thrd_shim = $(if $(findstring thread,$(SANITIZE)),$(BUILD)/tests/tsan/thrd_shim.o)
program_flags = $(if $(thrd_shim),-rdynamic)

all: $(programs) $(library) ## programs and the library (packages as in tools/setup.sh must be there: make setup)
build: all

# ---- objects: rebuilt when the compiler or a flag changes, not only when a source does

$(BUILD)/.flags: force
	@mkdir -p $(@D); echo '$(CC) $(CFLAGS) | $(LDFLAGS) $(LDLIBS)' | cmp -s - $@ || echo '$(CC) $(CFLAGS) | $(LDFLAGS) $(LDLIBS)' > $@

commit    = $(or $(COLDSTREAM_COMMIT),$(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown))
versioned = $(patsubst %.c,$(BUILD)/%.o,$(shell grep -lE 'COLDSTREAM_(VERSION|COMMIT)' $(wildcard daemon/*.c tools/*.c storage/*.c config/*.c) /dev/null))
$(BUILD)/.version: force
	@mkdir -p $(@D); echo '$(VERSION) $(commit)' | cmp -s - $@ || echo '$(VERSION) $(commit)' > $@
$(versioned): CPPFLAGS += -DCOLDSTREAM_VERSION='"$(VERSION)"' -DCOLDSTREAM_COMMIT='"$(commit)"'
$(versioned): $(BUILD)/.version

$(BUILD)/%.o: %.c $(BUILD)/.flags
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

# protoc-c's own code is not held to our warnings.
$(schema).c $(schema).h &: core/coldstream_event.proto
	@mkdir -p $(@D)
	protoc-c --c_out=$(BUILD) $<
$(schema).o: $(schema).c $(BUILD)/.flags
	$(CC) $(CPPFLAGS) $(filter-out -W%,$(CFLAGS)) -MMD -MP -c $< -o $@
$(BUILD)/core/decode_protobuf.o $(BUILD)/tests/unit/test_decode_protobuf.o: $(schema).h

# The status page's files are a part of it (.incbin), which the compiler's list of headers does not tell.
$(BUILD)/daemon/http_page.o: $(wildcard daemon/page/*)

$(archive): $(objects)
	@rm -f $@
	ar rcs $@ $^

# ---- programs

$(BUILD)/coldstreamd: $(BUILD)/daemon/main.o $(archive) $(thrd_shim)
	$(CC) $(LDFLAGS) $(program_flags) -pie $^ $(LDLIBS) -o $@
$(BUILD)/coldstream-serve: $(BUILD)/daemon/serve.o $(archive) $(thrd_shim)
	$(CC) $(LDFLAGS) $(program_flags) -pie $^ $(LDLIBS) -o $@
$(BUILD)/coldstreamctl: $(patsubst %.c,$(BUILD)/%.o,tools/coldstreamctl.c $(wildcard tools/ctl_*.c)) $(archive) $(thrd_shim)
	$(CC) $(LDFLAGS) $(program_flags) -pie $^ $(LDLIBS) -o $@
$(BUILD)/bench: $(patsubst %.c,$(BUILD)/%.o,$(wildcard tools/bench*.c) tools/ctl_checkpoint.c) $(archive) $(thrd_shim)
	$(CC) $(LDFLAGS) $(program_flags) $^ $(LDLIBS) -o $@
$(BUILD)/demo: $(BUILD)/tools/demo.o $(BUILD)/tools/demo_serve.o $(archive) $(thrd_shim)
	$(CC) $(LDFLAGS) $(program_flags) $^ $(LDLIBS) -o $@
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(archive) $(thrd_shim)
	$(CC) $(LDFLAGS) $(program_flags) $(filter %.o,$^) $(archive) -lcmocka $(LDLIBS) -o $@
$(BUILD)/tests/unit/test_delta_serving: program_flags += -Wl,--wrap=checkpoint_open
$(flow) $(BUILD)/tests/crash/broker: $(BUILD)/tests/flow/mock_broker.o
# Preloaded into the programs under test: it stands between them and libc, so nothing of libc may be checked or inlined in it.
$(BUILD)/tests/crash/faults.so: tests/crash/faults.c $(BUILD)/.flags
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -g -O1 $(WARN) -D_GNU_SOURCE -U_FORTIFY_SOURCE -fPIC -shared $< -ldl -o $@
$(BUILD)/tests/fuzz/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(archive)
	$(CC) $(LDFLAGS) -fsanitize=fuzzer $^ -lcmocka $(LDLIBS) -o $@
# The same target without libFuzzer, for any compiler: shows it the files that it is given.
$(BUILD)/tests/fuzz/replay_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/tests/fuzz/replay.o $(archive) $(thrd_shim)
	$(CC) $(LDFLAGS) $(program_flags) $(filter %.o,$^) $(archive) -lcmocka $(LDLIBS) -o $@

# ---- the library: daemon/coldstream.c and what it needs of the rest; only coldstream_* is visible from outside

$(BUILD)/libcoldstream.so: $(BUILD)/daemon/coldstream.o $(archive) daemon/coldstream.map
	$(CC) $(LDFLAGS) -shared -Wl,-soname,libcoldstream.so.1 -Wl,--version-script=daemon/coldstream.map $(if $(SANITIZE),,-Wl,--no-undefined) \
	    $(filter-out %.map,$^) $(LDLIBS) -o $@
$(BUILD)/libcoldstream.a: $(BUILD)/daemon/coldstream.o $(archive)
	@rm -f $@
	ld -r $^ -o $(BUILD)/libcoldstream.o
	objcopy --localize-hidden $(BUILD)/libcoldstream.o
	ar rcs $@ $(BUILD)/libcoldstream.o

# ---- man pages: those with tables by coldstreamctl itself, the rest from tools/man

written_pages = $(addprefix $(BUILD)/man/,coldstreamctl.1 coldstream.yaml.5 coldstreamd.8 coldstream-serve.8)
pages = $(written_pages) $(patsubst tools/man/%,$(BUILD)/man/%,$(wildcard tools/man/*))
$(written_pages): $(BUILD)/coldstreamctl
	@mkdir -p $(@D)
	$< manual --format man $(@F) >$@
$(BUILD)/man/%: tools/man/% $(BUILD)/.version
	@mkdir -p $(@D)
	sed 's|@VERSION@|$(VERSION)|' $< >$@
man: $(pages) ## the man pages, into build/man

# ---- journald's catalog: what `journalctl -x` says beside our messages

$(BUILD)/log_catalog: $(BUILD)/tools/log_catalog.o $(archive) $(thrd_shim)
	$(CC) $(LDFLAGS) $(program_flags) $^ $(LDLIBS) -o $@
$(BUILD)/coldstream.catalog: $(BUILD)/log_catalog
	$< >$@

# ---- tests

setup: ## installs the packages needed to build (Debian; by sudo when not root)
	@tools/setup.sh build

test: ## sets up, builds, and runs every test; the last line is `N passed, N failed`
	@tools/setup.sh build test library package browser kafka data fuzz
	$(again) run-test
run-test: all man test-programs
	@tests/run.sh $(BUILD) layers style unit gradient golden library flow crash system fuzz kafka data
test-programs: $(unit) $(flow) $(helpers) $(replays)

unit: $(unit) ## builds and runs the unit and gradient tests alone
	@tests/run.sh $(BUILD) unit gradient

torture: ## every fault of tests/crash in full, half an hour or more; ends with a table of what was injected and what it did
	@tools/setup.sh build test
	$(again) run-torture
run-torture: all test-programs
	@TORTURE=full CRASH_SECONDS=7200 tests/run.sh $(BUILD) crash; status=$$?; \
	    python3 tests/crash/plant.py $(BUILD) | tee $(BUILD)/torture.txt; exit $$status

analyze: ## cppcheck, gcc -fanalyzer and clang-tidy over all C, shellcheck and pyflakes over all scripts
	@tools/setup.sh build test analyze
	$(again) run-analyze
run-analyze: $(schema).h
	@tests/run.sh $(BUILD) analyze

walkthrough: ## docs/operations.md's commands in an empty Debian, with a real systemd, Kafka and Prometheus; wants root; ten minutes
	@tools/setup.sh build test kafka walk
	$(again) run-walkthrough
run-walkthrough: all helpers
	@python3 tests/system/walkthrough.py $(BUILD) $(DEBIAN)

sanitize: ## unit, gradient and flow tests under ASan + UBSan, then under TSan
	@tools/setup.sh build test
	@tests/sanitize.sh

# What tests/sanitize.sh calls, once a sanitizer.
asan  = BUILD=build-asan SANITIZE='-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer' OPTIMIZE=-O1
tsan  = BUILD=build-tsan SANITIZE='-fsanitize=thread -fno-omit-frame-pointer' OPTIMIZE=-O1
run-asan run-tsan: run-%:
	$(again) $($*) sanitized SUITES='unit gradient flow replay'
sanitized: all test-programs
	@tests/run.sh $(BUILD) $(SUITES)

FUZZ_SECONDS ?= 3600
FUZZ_BUILD ?= build-fuzz
FUZZ ?= $(sort $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c)))
fuzz: ## libFuzzer with ASan + UBSan: FUZZ="decode score" (default: all), FUZZ_SECONDS=3600 each, a target a processor
	@tools/setup.sh build test fuzz
	$(again) fuzzers
	@tests/fuzz/run.sh $(FUZZ_BUILD) $(FUZZ_SECONDS) $(FUZZ)
fuzzers:
	$(again) CC=clang BUILD=$(FUZZ_BUILD) OPTIMIZE=-O1 \
	    SANITIZE='-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all' run-fuzzers
run-fuzzers: $(fuzzers)

check-layers: ## includes against ARCHITECTURE.md's table
	@tools/check_layers.sh
check-style: ## line lengths, blanks, banned calls, opening comments
	@tools/check_style.sh

wrap: ## wraps the source lines that are past 120 columns, and touches no other (needs clang-format)
	@tools/wrap_lines.py $(wildcard core/*.[ch] config/*.[ch] storage/*.[ch] daemon/*.[ch] tools/*.[ch] tests/*/*.[ch])

# ---- to look at

bench: ## measures training, decoding, rows, snapshots and scoring, each beside its ideal
	@tools/setup.sh build kafka data
	@tools/onnx.sh $(BUILD) >/dev/null
	$(again) $(BUILD)/bench all helpers
	@$(BUILD)/bench $(BENCH)

demo: ## a generated day of traffic through an embedded broker: learn, publish, serve; prints the table
	@tools/setup.sh build
	$(again) $(BUILD)/demo all
	@$(BUILD)/demo $(DEMO)

demo-movielens: ## MovieLens-100K through a real Apache Kafka, with and without 40 % of the users held out as new
	@tools/setup.sh build kafka data
	$(again) $(BUILD)/demo all helpers
	@tests/kafka/movielens.sh $(BUILD)
helpers: $(helpers)

# ---- install

# A packager sets DESTDIR, PREFIX, and LIBDIR or UNITDIR where they are elsewhere.
LIBDIR  ?= $(PREFIX)/lib
UNITDIR ?= $(PREFIX)/lib/systemd/system
ZSHDIR  ?= $(PREFIX)/share/zsh/$(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)
units: ## the services, from systemd/*.service.in, into build/systemd
	@systemd/units.sh $(BUILD)/systemd $(PREFIX)/bin
install: all units man $(BUILD)/coldstream.catalog ## into $(DESTDIR)$(PREFIX)
	install -d $(addprefix $(DESTDIR),$(PREFIX)/bin $(LIBDIR)/pkgconfig $(PREFIX)/include $(UNITDIR) $(PREFIX)/lib/sysusers.d $(PREFIX)/lib/tmpfiles.d $(PREFIX)/lib/systemd/catalog \
	    $(PREFIX)/share/doc/coldstream $(PREFIX)/share/coldstream $(addprefix $(PREFIX)/share/man/man,1 3 5 8) $(PREFIX)/share/bash-completion/completions $(ZSHDIR))
	install -m 755 $(programs) tools/coldstream-fetch $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(BUILD)/libcoldstream.a $(DESTDIR)$(LIBDIR)
	install -m 644 $(BUILD)/libcoldstream.so $(DESTDIR)$(LIBDIR)/libcoldstream.so.1
	ln -sf libcoldstream.so.1 $(DESTDIR)$(LIBDIR)/libcoldstream.so
	install -m 644 daemon/coldstream.h $(DESTDIR)$(PREFIX)/include
	sed 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(patsubst $(PREFIX)/%,$${prefix}/%,$(LIBDIR))|; s|@VERSION@|$(VERSION)|' daemon/coldstream.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/coldstream.pc
	install -m 644 $(addprefix $(BUILD)/systemd/,$(notdir $(wildcard systemd/*.socket systemd/*.timer systemd/*.path)) coldstream.service coldstream@.service \
	    coldstream-serve.service coldstream-serve@.service coldstream-fetch.service) $(DESTDIR)$(UNITDIR)
	for drop in $(BUILD)/systemd/*.service.d/*.conf; do install -D -m 644 $$drop $(DESTDIR)$(UNITDIR)/$${drop#$(BUILD)/systemd/} || exit 1; done
	install -m 644 systemd/coldstream.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/coldstream.conf
	install -m 644 systemd/coldstream.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/coldstream.conf
	install -m 644 $(BUILD)/coldstream.catalog $(DESTDIR)$(PREFIX)/lib/systemd/catalog
	for section in 1 3 5 8; do install -m 644 $(BUILD)/man/*.$$section $(DESTDIR)$(PREFIX)/share/man/man$$section || exit 1; done
	install -m 644 tools/completion/bash/* $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 644 tools/completion/zsh/* $(DESTDIR)$(ZSHDIR)
	$(BUILD)/coldstreamctl sample >$(DESTDIR)$(PREFIX)/share/coldstream/coldstream.yaml
	install -m 644 README.md LICENSE ARCHITECTURE.md $(DESTDIR)$(PREFIX)/share/doc/coldstream
	install -d $(DESTDIR)$(PREFIX)/share/doc/coldstream/docs/alerts $(DESTDIR)$(PREFIX)/share/coldstream/monitoring
	install -m 644 docs/*.md $(DESTDIR)$(PREFIX)/share/doc/coldstream/docs
	install -m 644 docs/alerts/*.md $(DESTDIR)$(PREFIX)/share/doc/coldstream/docs/alerts
	install -m 644 $(addprefix tools/monitoring/,alerts.yaml dashboard.json prometheus.yml alertmanager.yml) $(DESTDIR)$(PREFIX)/share/coldstream/monitoring

# What install would put is what goes: one list. Of folders only those that are ours alone, and only where nothing else lies in them.
staged = $(BUILD)/uninstall
uninstall: ## takes away what install put (same DESTDIR, PREFIX, LIBDIR, UNITDIR); configuration, state and users stay
	rm -rf $(staged)
	+@$(MAKE) --no-print-directory -s install DESTDIR=$(abspath $(staged))
	cd $(staged) && find . ! -type d -print0 | (cd '$(DESTDIR)/' && xargs -0 rm -fv)
	cd $(staged) && find . -depth -type d -path '*/coldstream*' -print0 | (cd '$(DESTDIR)/' && xargs -0 sh -c 'for d; do [ ! -d "$$d" ] || rmdir --ignore-fail-on-non-empty "$$d" || exit 1; done' sh)
	rm -rf $(staged)

# dpkg-buildpackage wants debian/ at the top of the tree: of a copy of what is tracked, or of all where git does not know the tree.
debs = $(BUILD)/deb
deb: ## Debian packages, into build/deb
	@tools/setup.sh build package
	rm -rf $(debs)
	mkdir -p $(debs)/coldstream
	{ git ls-files -z 2>/dev/null || find . -type f -not -path './build*' -not -path './.git*' -print0; } | xargs -0 cp --parents -t $(debs)/coldstream
	mv $(debs)/coldstream/tools/debian $(debs)/coldstream/debian
	cd $(debs)/coldstream && COLDSTREAM_COMMIT=$(commit) dpkg-buildpackage -b -us -uc -j$(shell nproc)

clean: ## removes what was built
	rm -rf build build-* $(BUILD)

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed 's/:.*## /\t/' | expand -t 18

.PHONY: all build setup test run-test test-programs unit torture run-torture walkthrough run-walkthrough analyze run-analyze sanitize sanitized run-asan run-tsan fuzz fuzzers run-fuzzers check-layers check-style wrap \
    bench demo demo-movielens helpers units man install uninstall deb clean help force
.SECONDARY:
.DELETE_ON_ERROR:
-include $(shell find $(BUILD) -path $(BUILD)/deb -prune -o -name '*.d' -type f -print 2>/dev/null)
