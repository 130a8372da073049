# Everything a person or CI does with the project. Only Go is needed, except
# for `generate`, which wants clang and llvm-strip.

GO      ?= go
PKGS    ?= ./...
FUZZTIME ?= 10s
# A package that takes longer than this hangs.
TIMEOUT ?= 10m
# Kernel tests and the demo need root: become it only when we are not.
SUDO    := $(shell [ "$$(id -u)" = 0 ] || echo 'sudo -E')
# Test binaries run as root, the compiler as the user, so that the build cache
# stays the user's.
EXEC    := $(if $(SUDO),-exec '$(SUDO)')

# soak: how many seeds each law of the simulated network is tried with, from
# which on. Those below 10000 are what `test` tries.
RUNS    ?= 500000
SEED    ?= 10000

.PHONY: build install demo test soak lint generate fuzz bench paths clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/toehold ./cmd/toehold

# The binary, and a policy to begin with, which nothing reads by itself and which
# is left alone once it is there.
PREFIX  ?= /usr/local
DESTDIR ?=
POLICY  := $(DESTDIR)/etc/toehold/policy.yaml

install: build
	$(SUDO) install -D bin/toehold $(DESTDIR)$(PREFIX)/bin/toehold
	[ -e $(POLICY) ] || $(SUDO) install -D -m 644 internal/policy/default.yaml $(POLICY)

demo: build
	$(SUDO) bin/toehold demo

# One package at a time: several measure time, and all share the machine.
test:
	$(GO) test -count=1 -p 1 -timeout $(TIMEOUT) $(EXEC) $(PKGS)

# Engines on simulated paths, for long: about 2 000 runs a second and core. A
# failure says the seed and how that one run is done again.
soak:
	$(GO) test -count=1 -timeout 0 -run '^TestLaw' ./internal/tcp -law.runs=$(RUNS) -law.seed=$(SEED)

lint:
	@out=$$(gofmt -l cmd internal); [ -z "$$out" ] || { echo "gofmt wants to change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test -count=1 ./internal/archtest

generate:
	$(GO) generate ./...

# Every fuzz target for a short while: for more, FUZZTIME=10m.
fuzz:
	@grep -rlE --include='*_test.go' '^func Fuzz' internal | xargs -n1 dirname | sort -u | while read -r dir; do \
		grep -hoE '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | cut -d' ' -f2 | while read -r target; do \
			echo "== $$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) ./$$dir || exit 1; \
		done || exit 1; \
	done

bench: build
	$(GO) test -run '^$$' -bench . -benchmem -timeout $(TIMEOUT) $(EXEC) $(PKGS)
	$(SUDO) bin/toehold bench

# the table of docs/PATHS.md, some ten minutes on two idle processors. What else
# runs there disturbs it less so.
paths: build
	$(SUDO) nice -n -20 bin/toehold bench --only paths

clean:
	rm -rf bin
