# Targets are listed by plain `make`. Everything needs Go, and nothing else of
# ours; `make test` installs what it compares with.
.DEFAULT_GOAL := help
GO ?= go
export CGO_ENABLED ?= 0

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## the one binary, bin/outrider
	$(GO) build -trimpath -o bin/outrider ./cmd/outrider

demo: build ## the main job on real sockets, as a table
	./bin/outrider demo

test: ## everything: vet, unit, race, comparison with real Envoy
	./.ci/test

race: ## the tests with the race detector only
	CGO_ENABLED=1 $(GO) test -race ./...

fuzz: ## each fuzz target for FUZZTIME (default 10m)
	./.ci/fuzz $(or $(FUZZTIME),10m)

bench: ## the parts, each beside its baseline
	$(GO) test -run '^$$' -bench . -benchmem ./bench/

generate: ## docs/envoy-compat.md and golden files
	$(GO) test ./proxy/config/decode -run TestCompatDoc -update

clean: ## what was built
	rm -rf bin .cache

.PHONY: help build demo test race fuzz bench generate clean
