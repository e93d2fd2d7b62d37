# The targets up, test, bench and down are a contract: scripts rely on them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION  ?= $(shell git describe --tags --match "v*" --always --dirty 2>/dev/null || echo dev)
# libvirt is loaded when it is used, so no libvirt headers are needed to build.
TAGS     := libvirt_dlopen
LDFLAGS  := -s -w -X virtmesh/cli.Version=$(VERSION)
BINARY   := bin/virtmesh
LAB      := $(BINARY) lab
HOSTS    ?= 3
# The Go release that go.mod names; 'make go' fetches it where Debian's is older.
GO       := $(shell go=$(CURDIR)/bin/go/bin/go; { [ ! -x $$go ] && command -v go; } || echo $$go)
# Without paths of this machine in it, the same source gives the same program.
GOFLAGS  := -tags=$(TAGS) -trimpath
export GOFLAGS

# What the product itself needs on a host, then what the lab and the build need.
PACKAGES := qemu-system-x86 qemu-utils libvirt-daemon-system libvirt-clients ovmf swtpm swtpm-tools nftables iproute2 \
            isc-dhcp-client systemd busybox-static cpio syslinux syslinux-common extlinux mtools dosfstools e2fsprogs debootstrap util-linux \
            gcc libc6-dev git ca-certificates jq libxml2-utils etcd-server etcd-client iputils-ping xz-utils genisoimage openssh-client

.PHONY: help up down test bench build packages packages-deb test-packages go lint unit cover race e2e test-metal flood fuzz soak mutants vuln generate clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

up: packages build ## start a lab of 3 hosts on this machine, run a VM in it, say how to go on
	@$(LAB) up --hosts $(HOSTS)
	@tests/quickstart.sh $(BINARY)

down: ## end the lab
	@[ ! -x $(BINARY) ] || $(LAB) down

test: packages lint race test-packages e2e ## every test that CI runs
	@$(MAKE) --no-print-directory test-metal METAL=-short

bench: packages build ## the benchmarks: a line a figure, also to bench.json
	@$(GO) run ./tests/bench -binary $(BINARY) -out bench.json

# What git knows of a clone (its tags, other files in it, whether it is one) is not in the
# program, so that every clone of a commit gives the same; its version names the commit.
build: go ## build bin/virtmesh
	@mkdir -p bin
	@$(GO) build -buildvcs=false -ldflags '$(LDFLAGS)' -o $(BINARY) ./cli/virtmesh

lint: bin/golangci-lint ## gofmt and golangci-lint, as .golangci.yml says
	@unformatted=$$(gofmt -l $$(git ls-files '*.go' | grep -v zz_generated)); \
	if [ -n "$$unformatted" ]; then echo "not as gofmt writes it:" $$unformatted; exit 1; fi
	@bin/golangci-lint run --allow-parallel-runners ./...

# The linter is a module of its own: its dependencies are not the product's.
bin/golangci-lint: .ci/lint/go.mod | go
	@mkdir -p bin; echo "building golangci-lint"
	@cd .ci/lint && $(GO) build -o $(CURDIR)/$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

packages-deb: build bin/nfpm bin/cyclonedx-gomod ## dist/virtmesh_<version>_<arch>.deb, with its SBOM and SHA256SUMS
	@GO=$(GO) packaging/build

test-packages: packages-deb ## what the package contains, and what its installation and removal do
	$(GO) test -tags '$(TAGS) packages' -count 1 ./tests/packages

# The tools that make packages are a module of their own too.
bin/nfpm bin/cyclonedx-gomod: .ci/package/go.mod | go
	@mkdir -p bin; echo "building $(notdir $@)"
	@cd .ci/package && $(GO) build -o $(CURDIR)/$@ $$($(GO) list -f '{{.ImportPath}}' tool | grep '/$(notdir $@)$$')
	@touch $@

unit: go ## the quick unit tests: needs neither root nor packages
	$(GO) test -short ./...

cover: go ## test coverage by package and in total, and bin/cover.html
	@mkdir -p bin
	$(GO) test -coverprofile bin/cover.all ./...
	@grep -v /zz_generated bin/cover.all > bin/cover.out
	@$(GO) tool cover -func bin/cover.out | tail -1
	@$(GO) tool cover -html bin/cover.out -o bin/cover.html && echo "line by line: bin/cover.html"

# Whole meshes and groups of hundreds (TestLarge...) run without the detector: with it they take
# minutes. What they are made of is tested with it.
# The detector of Go 1.26 crashes once in a while in fake time: a synctest bubble has one context
# for its timers, and threads use it at once. Go 1.27 gives each its own, so the tests with the
# detector are built with that, where it can be had.
RACE_TOOLCHAIN ?= $(shell GOTOOLCHAIN=go1.27.4 $(GO) version >/dev/null 2>&1 && echo go1.27.4 || echo local)

# The packages whose tests take longest come first, so that no processor waits for the last one.
race: go ## the unit tests, with the race detector
	GOTOOLCHAIN=$(RACE_TOOLCHAIN) CGO_ENABLED=1 GORACE=atexit_sleep_ms=0 $(GO) test -race -timeout 30m ./agent/membership ./raftstore ./agent/host/hypervisor/libvirt ./cli \
	  $$($(GO) list ./... | grep -v /tests/robustness)
	$(GO) test -timeout 20m ./tests/robustness/...
	$(GO) test -timeout 20m -run '^TestLarge' ./raftstore ./gossip

e2e: build ## the end-to-end tests: the real binary in a lab of its own
	$(GO) test -tags '$(TAGS) e2e' -count 1 -timeout 30m -v ./tests/e2e/...

test-metal: packages-deb ## the tests on hosts that are whole machines (METAL=-short: those that CI runs)
	$(GO) test -tags '$(TAGS) metal' -count 1 -timeout 60m -v $(METAL) ./tests/metal

flood: go ## figures of a mesh port and a gossip port that strangers flood for FLOOD
	$(GO) test -count 1 -v -run 'TestFloodOfStrangers|TestFloodOnLoopback' ./agent/port ./gossip -flood $(or $(FLOOD),10s)

fuzz: go ## each fuzz target for a while (FUZZTIME)
	@for p in $$(grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]*' $$p/*_test.go | sed 's/func //'); do \
	    $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-20s} $$p || exit 1; done; done

SOAK ?= 10
soak: build ## for SOAK minutes each: random faults through whole meshes (SEED repeats one walk), guests at rest, guests without CPU time
	$(GO) test ./tests/robustness -count 1 -run TestRandomWalk -timeout 0 $(if $(SEED),-robust.seed $(SEED),-robust.soak $(SOAK)m)
	$(if $(SEED),,SOAK=$(SOAK) $(GO) test -tags '$(TAGS) e2e' -count 1 -timeout 0 -v -run 'TestMeshAtRestWritesNothing|TestStarvedMeshWritesNothing' ./tests/e2e/)

mutants: go ## how many of N small faults (default 100) the unit tests notice
	@$(GO) run ./tests/mutation -n $${N:-100} -seed $${SEED:-1}

vuln: go ## look for known vulnerabilities (needs the network)
	$(GO) tool govulncheck ./...

generate: go ## write generated code anew
	$(GO) generate ./...

packages: ## install what is missing of Debian's packages
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "installing" $$missing; apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

# Debian 12's own Go is too old to fetch the release in go.mod by itself, but
# it can fetch it as the module that newer releases use for that.
go: bin/.go-ready
bin/.go-ready: go.mod
	@mkdir -p bin; \
	if ! $(GO) version 2>/dev/null | grep -qE 'go1\.(2[1-9]|[3-9][0-9])'; then \
	  v=$$(awk '/^go /{print $$2}' go.mod); m=golang.org/toolchain@v0.0.1-go$$v.linux-amd64; \
	  command -v /usr/bin/go >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends golang-go >/dev/null; }; \
	  echo "fetching Go $$v"; \
	  d=$$(cd / && GOFLAGS=-mod=mod /usr/bin/go mod download -json $$m | sed -n 's/.*"Dir": "\(.*\)".*/\1/p') && \
	  rm -rf bin/go && cp -r "$$d" bin/go && chmod -R u+w bin/go && chmod +x bin/go/bin/* bin/go/pkg/tool/linux_amd64/*; fi
	@touch $@

clean: ## remove what was built
	rm -rf bin dist bench.json
