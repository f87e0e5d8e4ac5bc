SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory

MODULES  := proto pkg services tests
PACKAGES := $(addprefix ./,$(addsuffix /...,$(MODULES)))
# Modules outside go.work that are ours to tidy; the others only pin a tool.
OWN_TOOLS := tools/protodeps tools/testreport tools/composekit

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/vmhost-project/vmhost/pkg/obs.Version=$(VERSION)
MAINS   := ./services/standalone/cmd/vmhost \
           ./services/region/cmd/vmhost-region \
           ./services/rack/cmd/vmhost-rack \
           ./services/gateway/cmd/vmhost-gateway \
           ./services/ctl/cmd/vmhostctl

export PATH := $(CURDIR)/.bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help up down build test test-long bench soak feed cover compose-test lint lint-proto lint-go verify fmt tidy generate api-lock tools ci clean

help: ## show this list
	@echo 'vmhost: libvirt and LXD machines as one fleet.  Usage: make <target>'
	@awk -F ':.*## ' '\
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo 'Every check has a fix:'
	@echo '  buf lint, golangci-lint .... change the code; the message names the rule'
	@echo '  formatting ................. make fmt'
	@echo '  generated files ............ make generate'
	@echo '  go.mod, go.sum ............. make tidy'
	@echo '  buf breaking ............... undo the change; to break on purpose: make api-lock, and say why in the commit'

##@ Run

up: build ## real libvirt hosts, vmhost, and a machine that boots from the network
	deploy/up.sh

down: ## end what `make up` started and remove its state
	deploy/down.sh

build: ## static binaries into bin/
	mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ $(MAINS)

##@ Test

test: ## all tests under the race detector; installs what they need, lists what was skipped (ARGS='-run X ./pkg/...')
	.ci/test $(ARGS)

test-long: ## what `make test` leaves out: the LXD driver and a compose with real virtual machines, on an emulated machine, and more faults in moves
	VMHOST_LONG=1 .ci/test $(ARGS)

bench: build ## measure; one line per figure, and bench/latest.json (ARGS='-run json -reps 5', ARGS=-list)
	go -C tests run ./bench/cmd/bench $(ARGS)

soak: ## 100,000 composes in three regions at once, every answer and revision checked (ARGS='-commits 20000 -duration 2m -seed 7')
	go -C services test -count=1 -timeout 0 -v ./region/internal/ledger/soak -run 64Clients -args -soak $(ARGS)

feed: ## inventories and requests for peers into benchmarks/data (ARGS='-run uniform-5000' feeds vmhost with them)
	go -C tests run ./bench/cmd/feed -out $(CURDIR)/benchmarks/data $(ARGS)

cover: ## coverage of what people wrote, into coverage/
	mkdir -p coverage
	go test -coverpkg="$$(go list work | grep -v /proto/gen/ | paste -sd,)" -coverprofile=coverage/cover.out work
	go tool cover -html=coverage/cover.out -o coverage/index.html
	go tool cover -func=coverage/cover.out | tail -n 1

compose-test: ## build the images and test the docker-compose.yml
	deploy/docker/compose-test.sh

##@ Check

lint: lint-proto lint-go ## lint protos and Go, refuse a broken contract

lint-proto: .bin/.buf
	buf lint
	buf breaking proto --against proto/api.lock.binpb

lint-go: .bin/.lint
	go vet work
	golangci-lint run $(PACKAGES)

verify: .bin/.buf .bin/.protogen .bin/.lint ## refuse stale generated files, go.mod and formatting; changes nothing
	.ci/verify $(MODULES) $(OWN_TOOLS)

ci: ## what CI runs: lint, verify, build, test
	bash .ci/run

##@ Change

fmt: .bin/.buf .bin/.lint ## format Go and protos
	buf format -w proto
	golangci-lint fmt $(PACKAGES)

tidy: ## align and tidy every module
	go work sync
	for m in $(MODULES) $(OWN_TOOLS); do GOWORK=off go -C $$m mod tidy; done

generate: .bin/.buf .bin/.protogen ## regenerate everything that is generated
	GOWORK=off go -C tools/protodeps run . -out $(CURDIR)/third_party/proto
	buf format -w proto
	buf generate

api-lock: .bin/.buf ## accept the protos of now as the contract that `buf breaking` defends
	buf build proto --exclude-source-info -o proto/api.lock.binpb

tools: .bin/.buf .bin/.protogen .bin/.lint ## build the pinned tools into .bin

clean: ## remove binaries, tools and reports; everything can be made again
	rm -rf bin .bin coverage

# Each tool has a module of its own, outside go.work, so that no tool's
# dependencies can move the versions that the services are built with.
.bin/.%: tools/%/go.mod tools/%/go.sum
	GOWORK=off GOBIN=$(CURDIR)/.bin go -C tools/$* install tool
	@touch $@
