# Everything that a developer or CI runs. `make` lists the targets.
#
# Needed: Go, a C compiler for the race detector, git, and npm for buf (lint,
# generate). All other tools are pinned in tools/ and built into .bin.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 10s
COUNT ?= 20
# What `make breaking` compares with.
AGAINST ?= main
# More flags for go test, for example TESTFLAGS='-run TestReload -v'.
TESTFLAGS ?=
PKGS ?= ./...
# Where the test runs leave their `go test -json` records; .ci/run counts them.
RESULTS := test/out
# Another buf can be given: make lint BUF=buf
BUF ?= tools/node_modules/.bin/buf

GOTESTSUM   := .bin/gotestsum --format standard-quiet
STATICCHECK := .bin/staticcheck
PLUGINS     := .bin/protoc-gen-go .bin/protoc-gen-go-grpc
GO_FILES     = $(shell find . -name '*.go' -not -path './.bin/*' -not -path '*/node_modules/*')
FIND_PB      = find . -name '*.pb.go' -not -path './.bin/*' -not -path '*/node_modules/*'

# $(call run_tests,NAME,FLAGS): package lines, failures with their output, the
# tests that took more than 10 s, and the count as the last line.
define run_tests
	@mkdir -p $(RESULTS); rc=0; \
	$(GOTESTSUM) --jsonfile $(RESULTS)/$(1).json -- $(2) $(TESTFLAGS) $(PKGS) || rc=$$?; \
	.bin/gotestsum tool slowest --threshold 10s --jsonfile $(RESULTS)/$(1).json | sed 's/^/slower than 10s: /' || true; \
	test/count.sh $(RESULTS)/$(1).json; exit $$rc
endef

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## play the example: two processes, cluster1 and cluster2
	@if [ ! -x test/demo.sh ]; then echo "demo: test/demo.sh is missing or not executable" >&2; exit 1; fi
	@test/demo.sh

.PHONY: build
build: ## build bin/meshnode
	go build -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o bin/meshnode ./cmd/meshnode

.PHONY: test
test: .bin/gotestsum .bin/grpcurl ## all tests once, under the race detector (TESTFLAGS=, PKGS=)
	$(call run_tests,test,-race -count=1 -timeout=4m)
ifeq ($(PKGS),./...)
	@cd test/interop && $(CURDIR)/$(GOTESTSUM) --jsonfile $(CURDIR)/$(RESULTS)/interop.json -- -race -count=1 -timeout=4m $(TESTFLAGS) ./...
	@test/count.sh $(RESULTS)/test.json $(RESULTS)/interop.json
endif

.PHONY: race
race: .bin/gotestsum .bin/grpcurl ## all tests COUNT (20) times under the race detector: the long run
	$(call run_tests,race,-race -count=$(COUNT) -timeout=60m)

.PHONY: test-polyglot
test-polyglot: .bin/gotestsum ## install what the helpers in clients/ need, run their tests and the conformance kit (LANGS=, UPDATE=1 writes the table)
	@UPDATE=$(UPDATE) test/polyglot.sh $(LANGS)

.PHONY: test-faults
test-faults: .bin/gotestsum ## break things: real processes, a fault proxy, network namespaces; a line a case, under 15 minutes
	@mkdir -p $(RESULTS); rc=0; \
	.bin/gotestsum --format testname --jsonfile $(RESULTS)/faults.json -- -race -count=1 -timeout=15m -tags faults $(TESTFLAGS) ./test/faults || rc=$$?; \
	test/count.sh $(RESULTS)/faults.json; exit $$rc

DURATION ?= 10m
SEED ?=
.PHONY: soak
soak: ## faults at random from a seed over five nodes, with a report (DURATION=10m, SEED=)
	SOAK_DURATION=$(DURATION) SOAK_SEED=$(SEED) go test -race -count=1 -timeout=0 -tags faults -run TestF50Soak -v ./test/faults

.PHONY: bench
bench: ## measure beside the wire, grpc-go, NATS and proto.actor: all cells, about 13 minutes
	go run -C test/bench .

.PHONY: bench-quick
bench-quick: ## the cells that matter most, about 2 minutes
	go run -C test/bench . -quick

.PHONY: bench-scale
bench-scale: ## what nodes, links, names and waiting callers cost as they grow, about 5 minutes
	go run -C test/bench . -scale

# BENCHFLAGS go to the cells, SCALEFLAGS to the studies; a failed contestant fails
# the target, after the document is written.
.PHONY: performance
performance: ## measure everything (20 minutes) and write the tables and charts of docs/performance.md
	@rm -f test/bench/out/results.json test/bench/out/scale.json; rc=0; \
	go run -C test/bench . $(BENCHFLAGS) || rc=1; \
	go run -C test/bench . -scale $(SCALEFLAGS) || rc=1; \
	go run -C test/bench . -render ../../docs/performance.md || rc=1; \
	exit $$rc

.PHONY: fuzz
fuzz: .bin/gotestsum ## each fuzz target for FUZZTIME (10s)
	@mkdir -p $(RESULTS); rm -f $(RESULTS)/fuzz-*.json; rc=0; \
	targets=$$(grep -roE '^func Fuzz[A-Za-z0-9_]*' --include='*_test.go' cmd examples pkg test 2>/dev/null | sed 's/func //' | sort || true); \
	if [ -z "$$targets" ]; then echo "SKIP: fuzz: there is no fuzz target"; exit 0; fi; \
	for t in $$targets; do \
		dir=$$(dirname "$${t%%:*}"); name=$${t##*:}; echo "fuzz $$dir $$name for $(FUZZTIME)"; \
		$(GOTESTSUM) --jsonfile "$(RESULTS)/fuzz-$${dir//\//-}-$$name.json" -- -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "./$$dir" || rc=1; \
	done; \
	test/count.sh $(RESULTS)/fuzz-*.json; exit $$rc

.PHONY: lint
lint: $(STATICCHECK) $(BUF) ## gofmt, go mod tidy, go vet, staticcheck; buf lint and format
	@rc=0; \
	echo "gofmt"; bad=$$(gofmt -l $(GO_FILES)); if [ -n "$$bad" ]; then echo "not formatted (gofmt -w):"; echo "$$bad"; rc=1; fi; \
	for dir in . tools test/bench test/interop; do \
		echo "go mod tidy -diff ($$dir)"; go -C $$dir mod tidy -diff || rc=1; \
		echo "go vet ($$dir)"; go -C $$dir vet -tags faults ./... || rc=1; \
		echo "staticcheck ($$dir)"; (cd $$dir && $(CURDIR)/$(STATICCHECK) ./...) || rc=1; \
	done; \
	echo "buf lint"; $(BUF) lint || rc=1; \
	echo "buf format"; $(BUF) format -d --exit-code || rc=1; \
	exit $$rc

.PHONY: generate
generate: $(BUF) $(PLUGINS) ## generate the Go of the .proto files, beside them
	$(BUF) generate

.PHONY: checkgenerate
checkgenerate: $(BUF) $(PLUGINS) ## fail where the generated Go is not what the .proto files give
	@out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; rc=0; \
	$(BUF) generate -o "$$out"; \
	for f in $$({ $(FIND_PB); cd "$$out"; $(FIND_PB); } | sort -u); do \
		diff -uN "$$f" "$$out/$$f" || { echo "$$f is not what the .proto files give: run make generate, or delete it"; rc=1; }; \
	done; \
	exit $$rc

.PHONY: breaking
breaking: $(BUF) ## fail where the .proto files break what AGAINST (main) has
	@base=$$(git rev-parse -q --verify '$(AGAINST)^{commit}' || git rev-parse -q --verify 'origin/$(AGAINST)^{commit}' || true); \
	if [ -z "$$base" ]; then echo "SKIP: breaking: there is no commit $(AGAINST) to compare with"; exit 0; fi; \
	if [ -z "$$(git ls-tree -r --name-only "$$base" | grep '\.proto$$' || true)" ]; then echo "SKIP: breaking: $(AGAINST) has no .proto file"; exit 0; fi; \
	old=$$(mktemp -d); trap 'rm -rf "$$old"' EXIT; \
	git archive "$$base" | tar -x -C "$$old"; \
	$(BUF) breaking --against "$$old"

.PHONY: loc
loc: ## count the hand-written Go, by package
	@go run -C tools -buildvcs=false ./loc $(CURDIR)

.PHONY: clean
clean: ## remove what was built, tools included
	rm -rf bin .bin $(RESULTS) tools/node_modules

# The tools. The versions stand in tools/go.mod and tools/package-lock.json.
.bin/protoc-gen-go:      tool := google.golang.org/protobuf/cmd/protoc-gen-go
.bin/protoc-gen-go-grpc: tool := google.golang.org/grpc/cmd/protoc-gen-go-grpc
.bin/gotestsum:          tool := gotest.tools/gotestsum
.bin/grpcurl:            tool := github.com/fullstorydev/grpcurl/cmd/grpcurl
.bin/staticcheck:        tool := honnef.co/go/tools/cmd/staticcheck
$(PLUGINS) .bin/gotestsum .bin/grpcurl $(STATICCHECK): tools/go.mod tools/go.sum
	@mkdir -p .bin
	go -C tools build -buildvcs=false -o ../$@ $(tool)
	@touch $@

tools/node_modules/.bin/buf: tools/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing: it installs buf, which checks and compiles the .proto files. Install Node.js with npm, or name a buf of your own: make BUF=/path/to/buf ..." >&2; exit 1; }
	npm ci --prefix tools --ignore-scripts --no-progress
	@touch $@
