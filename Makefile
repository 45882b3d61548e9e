# `make` alone lists the targets. build, run and clean need Go alone; test
# installs what else it needs from Debian (12 or newer), and says so first.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BUILD   := $(CURDIR)/build
ARGS    ?=
# For make mutate: -run REGEXP takes only the lines of the list that match.
MUTATE_ARGS ?=
# For make mixin: -help lists what can be chosen.
MIXIN_ARGS ?=
# How long `make fuzz` runs each fuzz target.
FUZZTIME ?= 30s
# The race detector makes all slower, so this is far above what a test takes.
TEST_TIMEOUT ?= 15m

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION ?= $(shell git rev-parse -q --verify HEAD 2>/dev/null || echo unknown)
LDFLAGS  := -X github.com/prometheus/common/version.Version=$(VERSION) -X github.com/prometheus/common/version.Revision=$(REVISION)

# Debian's packages that the tests and checks use; only what is missing is installed.
TEST_PACKAGES += gcc libc6-dev       # the race detector is linked with cgo
TEST_PACKAGES += clang-19            # the BPF compiler, pinned: generate-check compares its output
TEST_PACKAGES += llvm-19             # llvm-strip-19, which bpf2go runs
TEST_PACKAGES += libcap2-bin         # capsh, setcap: privileges by hand
TEST_PACKAGES += e2fsprogs           # mkfs.ext4: a file system that is full but for root's blocks, and a guest's disk
TEST_PACKAGES += util-linux mount    # setpriv, unshare, mount: workloads that use or lack a capability
TEST_PACKAGES += iproute2            # ip: CAP_NET_ADMIN by a real program
TEST_PACKAGES += iputils-ping        # ping: CAP_NET_RAW by a real program
TEST_PACKAGES += bpftool linux-perf  # which CAP_SYS_ADMIN will do for, too
TEST_PACKAGES += libpopt0            # what logrotate is linked with
TEST_PACKAGES += libseccomp2         # what runc is linked with
TEST_PACKAGES += procps              # ps, kill
TEST_PACKAGES += strace              # the exporter's system calls, to hold against the unit's filter
TEST_PACKAGES += chromium            # the landing page, as a browser shows it
TEST_PACKAGES += qemu-system-x86 qemu-system-arm # the guests of test-vm
TEST_PACKAGES += busybox-static cpio kmod xz-utils zstd # what they consist of
TEST_PACKAGES += checkpolicy         # SELinux's policy in one of them
TEST_PACKAGES += ca-certificates     # Go's module downloads

# Programs that are unpacked for the tests, and never installed (.tools/unpack).
BIN := $(BUILD)/bin
# Of these the newest that Debian has, which is what many run.
NEWEST := $(BUILD)/newest/bin

# Programs that tests start come from there and from the system, not from a
# developer's PATH; Go's own folder stays in it.
export PATH := $(BIN):$(shell dirname "$$(command -v go || echo /usr/local/go/bin/go)"):/usr/sbin:/usr/bin:/sbin:/bin

# One way to compile for all, so that what one compiles the next need not. Only the race detector wants cgo.
export CGO_ENABLED := 0
export GOFLAGS     += -trimpath

# A module file of its own for the pinned linter: the product's go.sum holds
# what the product is made of.
TOOLS_MOD := -modfile=.tools/go.mod

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build build/capability_exporter, static; needs Go alone
	go build -ldflags '$(LDFLAGS)' -o $(BUILD)/capability_exporter ./exporter

.PHONY: run
run: build ## Build and run the exporter, as root; flags in ARGS
	$(BUILD)/capability_exporter $(ARGS)

# Of the guests those that have each way to see the checks once, and what they need of other kinds.
SOME_GUESTS := 5.10 5.10-irq 6.1 6.12-locked 6.12-systemd 7 7-selinux 7-storms 7-change 7-criu 7-arm64

# Cheap checks first.
.PHONY: test
test: test-deps ## Install what is missing, then run every check and test, and the live ones in eleven guests
	bpf/vm/matrix fetch $(SOME_GUESTS) >$(BUILD)/fetch.log 2>&1 & \
	$(MAKE) --no-print-directory vet mutate-check check-rules check-metrics check-systemd mixin-check generate-check build lint chart-check release-test && \
	wait && $(MAKE) --no-print-directory go-test test-vm GUESTS='$(SOME_GUESTS)'

# What the live tests start beside themselves, and what test-vm takes into its guests: without the race detector.
.PHONY: helpers
helpers:
	for arch in amd64 arm64; do \
		export GOARCH=$$arch; \
		for package in bpf exporter; do go test -c -ldflags '-s -w' -o $(BUILD)/$$arch/$$package.test ./$$package || exit; done; \
		go build -ldflags '-s -w' -o $(BUILD)/$$arch/capability_exporter ./exporter || exit; \
	done

# Live tests count the whole machine's checks, so packages are tested one after
# the other (-p 1).
.PHONY: go-test
go-test: tools helpers ## Run Go's tests alone, with the race detector
	CAPABILITY_EXPORTER_HELPERS=$(BUILD)/$$(go env GOARCH) CGO_ENABLED=1 go test -race -count=1 -p 1 -timeout $(TEST_TIMEOUT) ./...
	go -C .tools test -count=1 ./mutate ./mixin

.PHONY: vet
vet: ## Run go vet, for amd64 and arm64
	go vet ./...
	GOARCH=arm64 go vet ./...

.PHONY: lint
lint: ## Run golangci-lint (its first build takes minutes) and check go.mod
	go tool $(TOOLS_MOD) golangci-lint run ./...
	cd .tools && go tool golangci-lint run ./...
	for module in chart release; do (cd .tools/$$module && go tool -modfile=../go.mod golangci-lint run ./...) || exit; done
	go mod verify

# Holds the tests themselves against .tools/mutate/faults.txt. As root: some of the tests are live ones.
.PHONY: mutate
mutate: test-deps ## Put small faults into a copy, one by one: a test must see each (slow; MUTATE_ARGS)
	go -C .tools run ./mutate $(MUTATE_ARGS)

.PHONY: mutate-check
mutate-check: ## Check that each fault of that list still fits its file
	go -C .tools run ./mutate -check

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME
	for pkg in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' "$$pkg" | grep '^Fuzz' || true); do \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$pkg"; \
		done; \
	done

.PHONY: bench
bench: ## Measure what a check costs, as root on an idle machine
	go test ./bpf -run '^TestCost$$|^TestLookCost$$' -cost -count=1 -timeout 60m -v

.PHONY: bench-scrape
bench-scrape: ## Measure what a scrape costs, and the memory of many, on an idle machine
	go test ./collectors -run '^TestScrapeCost$$' -scrape -count=1 -v
	go test ./exporter -run '^TestMemory$$' -memory -count=1 -v

# NODES and MINUTES are of what is served, as fast as a fleet is scraped.
NODES   ?= 500
MINUTES ?= 7
.PHONY: bench-fleet
bench-fleet: tools ## Serve 500 nodes with 30 pods each to a Prometheus, and print what they cost it (NODES, MINUTES)
	go test ./deploy -run '^TestFleetCost$$' -fleet $(NODES) -fleet.time $(MINUTES)m -count=1 -timeout 60m -v

.PHONY: soak
soak: ## Half an hour of checks, processes, cgroups, scrapes and views: what it holds then, and whether all was counted
	go test ./exporter -run '^TestSoak$$' -soak 30m -count=1 -timeout 60m -v

.PHONY: attack
attack: tools ## Do as an unprivileged user would who wants it blind, as root, and print what becomes of it
	go test ./bpf -run '^TestShares$$' -attack.size 6000 -count=1 -v
	go test ./exporter -run '^TestBinaryUnderAttack$$' -count=1 -v
	go test ./deploy -run '^TestPrometheus$$' -count=1 -v

# Guests under emulation: other kernels, another architecture, and what the machine's own kernel may refuse (fexit, and somebody
# else's fexit beside us). What is skipped there is a failure.
.PHONY: test-vm
test-vm: helpers ## Run the live tests in guests, Debian's kernels in qemu, and print a table (GUESTS; default: all)
	bpf/vm/matrix $(GUESTS)

# bpf2go's headers are those that the pinned cilium/ebpf ships.
.PHONY: generate
generate: ## Compile the BPF programs again (clang-19)
	go mod download github.com/cilium/ebpf
	BPF2GO_CC=clang-19 BPF2GO_STRIP=llvm-strip-19 \
	BPF_HEADERS="$$(go list -m -f '{{.Dir}}' github.com/cilium/ebpf)/examples/headers" \
		go generate ./bpf/...

.PHONY: generate-check
generate-check: generate ## Fail if the committed BPF objects are not what their source gives
	@changed=$$(git status --porcelain -- 'bpf/**_bpfel.*'); \
	if [ -n "$$changed" ]; then \
		echo "These differ from what is committed; run 'make generate' and commit them:"; echo "$$changed"; exit 1; \
	fi

.PHONY: mixin
mixin: ## Make the alert rules and dashboards again, from .tools/mixin (MIXIN_ARGS)
	go -C .tools run ./mixin $(MIXIN_ARGS)

.PHONY: mixin-check
mixin-check: ## Fail if the committed rules and dashboards are not what .tools/mixin makes
	@rm -rf $(BUILD)/mixin && go -C .tools run ./mixin -out $(BUILD)/mixin
	@cd $(BUILD)/mixin && for file in $$(find . -type f); do \
		cmp "$$file" "$(CURDIR)/$$file" || { echo "It is not what .tools/mixin makes: change it there, and run 'make mixin'."; exit 1; }; \
	done

.PHONY: chart
chart: ## Make what is rendered from deploy/kubernetes/chart again: the plain manifest, and the table in the chart's README
	go -C .tools/chart run .

.PHONY: chart-check
chart-check: tools ## Check the Helm chart, for three versions of Kubernetes, and that what is rendered from it is committed (first build: minutes)
	go -C .tools/chart test -vet=off -count=1 .

.PHONY: check-rules
check-rules: tools ## Check the alert rules and run their unit tests, with Debian's Prometheus and the newest
	cd deploy/prometheus && printf '%s\n' $(BIN) $(NEWEST) | xargs -P 2 -I BIN \
		sh -c 'BIN/promtool check config prometheus.yml && BIN/promtool test rules *_test.yml && BIN/amtool check-config alertmanager.yml'

.PHONY: check-metrics
check-metrics: tools ## Check the metrics' names and help texts
	for file in collectors/testdata/*.prom; do echo "$$file"; promtool check metrics <"$$file"; done

# 15 is an exposure of 1.5.
.PHONY: check-systemd
check-systemd: tools ## Check that the unit's exposure is at most 1.5
	systemd-analyze security --offline=true --no-pager --threshold=15 deploy/systemd/capability_exporter.service | tail -n 2

RELEASE := $(BUILD)/release
# The commit's: what is made of it is the same whenever it is made.
RELEASE_TIME ?= $(shell git log -1 --format=%ct 2>/dev/null)

.PHONY: release
release: ## Make build/release: programs, deb and rpm for amd64 and arm64, an image for both, SBOMs and checksums
	rm -rf $(RELEASE)
	for arch in amd64 arm64; do \
		program=$(RELEASE)/capability_exporter-linux-$$arch; \
		GOARCH=$$arch go build -ldflags '$(LDFLAGS)' -o $$program ./exporter || exit; \
		go -C .tools/release tool cyclonedx-gomod bin -json -noserial -notimestamp -version $(VERSION) -output $$program.cdx.json $$program || exit; \
	done
	go -C .tools/release run . -version $(VERSION) -revision $(REVISION) -time $(RELEASE_TIME) -built $(RELEASE)

.PHONY: test-release
test-release: release helpers ## Install, start, scrape and remove the packages and the image, in guests of amd64 and arm64 with a systemd of their own
	bpf/vm/matrix 6.12-release arm-release

.PHONY: release-test
release-test: ## Test what makes the release (first build: minutes)
	go -C .tools/release test -vet=off -count=1 .

# The sums of the same commit, made elsewhere and with nothing that a build has kept.
.PHONY: release-check
release-check: release-test release ## Test what makes the release, and make it again elsewhere: it must be the same
	[ -z "$$(git status --porcelain)" ] || { echo "Commit first: what is not committed is missing where it is made again."; exit 1; }
	work=$$(mktemp -d) && trap 'chmod -R u+w "$$work"; rm -rf "$$work"' EXIT && git clone --quiet . "$$work/clone" && \
	GOCACHE=$$work/cache $(MAKE) --no-print-directory -C "$$work/clone" release VERSION=$(VERSION) >/dev/null && \
	diff $(RELEASE)/SHA256SUMS "$$work/clone/build/release/SHA256SUMS" || { echo "Made again, the release is another one."; exit 1; }

.PHONY: test-deps
test-deps: packages tools

.PHONY: packages
packages: ## Install the Debian packages that the tests use
	@missing=(); \
	for package in $(TEST_PACKAGES); do \
		dpkg-query -W -f '$${db:Status-Status}' "$$package" 2>/dev/null | grep -qx installed || missing+=("$$package"); \
	done; \
	if [ $${#missing[@]} -gt 0 ]; then \
		echo "To be installed from Debian, without recommended packages: $${missing[*]}"; \
		if [ "$$(id -u)" != 0 ]; then echo "That needs root: install them, then run this again."; exit 1; fi; \
		apt-get update -qq; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}"; \
	fi

.PHONY: tools
tools: $(BIN)/promtool $(BIN)/amtool $(NEWEST)/prometheus $(BIN)/systemd-analyze $(BIN)/apparmor_parser $(BIN)/pscap $(BIN)/logrotate $(BIN)/runc ## Unpack prometheus, alertmanager, systemd-analyze, apparmor_parser, pscap, logrotate and runc in build/

$(BIN)/promtool:
	.tools/unpack prometheus

$(BIN)/amtool:
	.tools/unpack alertmanager

$(NEWEST)/prometheus:
	.tools/unpack newest

$(BIN)/systemd-analyze:
	.tools/unpack systemd

$(BIN)/apparmor_parser:
	.tools/unpack apparmor

$(BIN)/pscap:
	.tools/unpack libcap-ng

$(BIN)/logrotate:
	.tools/unpack logrotate

$(BIN)/runc:
	.tools/unpack runc

.PHONY: clean
clean: ## Remove build/ and Go's cached test results
	rm -rf $(BUILD)
	go clean -testcache
