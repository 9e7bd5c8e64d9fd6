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

bench: parts peers ## the parts, then outrider beside every peer

parts: ## the parts, each beside its baseline
	$(GO) test -run '^$$' -bench . -benchmem ./bench/

peers: ## outrider beside Envoy, nginx, haproxy, ghostunnel: docs/performance.md; PEERS="-row bulk -rounds 1" for less
	./.ci/peers $(or $(PEERS),-docs docs)

scale: ## how cost grows, beside Envoy, and what a fleet takes: docs/scale.md; SCALE="-row chains -rounds 1" for less
	./.ci/peers -scale $(or $(SCALE),-rounds 2 -docs docs)

hop: ## requests over one hop of mTLS, beside Envoy if ENVOY is its binary
	$(GO) test -run '^$$' -bench . -benchtime 5s ./bench/hop/

soak: ## load with changing endpoints and certificates for SOAK (default 10m)
	SOAK=$(or $(SOAK),10m) $(GO) test -count=1 -timeout 0 -run TestSoak -v ./bench/hop/

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
ARCHS ?= amd64 arm64
TOOL := $(GO) tool -modfile=deploy/tools/go.mod

# Static binaries for other machines: dist/ARCH/outrider.
dist/%/outrider: FORCE
	GOOS=linux GOARCH=$* $(GO) build -trimpath -ldflags '-s -w' -o $@ ./cmd/outrider

image: $(ARCHS:%=dist/%/outrider) ## the image FROM scratch, dist/outrider-image.tar (OCI), and into a docker daemon if there is one
	$(GO) run -C deploy/tools ./image -o $(CURDIR)/dist/outrider-image.tar -tag outrider:$(VERSION) -version $(VERSION) $(foreach a,$(ARCHS),linux/$(a)=$(CURDIR)/dist/$(a)/outrider)
	@if docker info >/dev/null 2>&1; then docker load -i dist/outrider-image.tar; else echo "no docker daemon: load dist/outrider-image.tar yourself (podman load, ctr images import, skopeo copy oci-archive:...)"; fi

deb: $(ARCHS:%=deb-%) ## the Debian packages, dist/outrider_VERSION_ARCH.deb

deb-%: dist/%/outrider
	DEB_ARCH=$* VERSION=$(patsubst v%,%,$(VERSION)) BINARY=$< $(TOOL) nfpm package -f deploy/vm/nfpm.yaml -p deb -t dist/

generate: ## docs/envoy-compat.md and golden files
	$(GO) test ./proxy/config/decode -run TestCompatDoc -update

clean: ## what was built
	rm -rf bin dist .cache

FORCE:
.PHONY: help build demo test race fuzz bench parts peers scale hop soak image deb generate clean FORCE
