# Everything is built without C: the products are static. Only the race detector needs a C compiler.
export CGO_ENABLED = 0
export GOFLAGS = -trimpath -buildvcs=false

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  := -s -w -X main.version=$(VERSION)
PROGRAMS := $(notdir $(wildcard cmd/*))

.PHONY: build run test check soak bench clean

build: ## static binaries for this machine
	@mkdir -p bin
	go build -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(PROGRAMS))

run: build ## the whole story with the real programs; ONCE=1 ends after it
	@go build -o .build/story ./test/story
	@.build/story -bin bin

test: ## everything: checks, unit, race, interop, end to end
	@test/run

check: ## formatting, vet and static analysis alone
	@test/check

soak: ## the long runs: managers killed for two minutes, relays and links for ten, the model of identity for millions of steps (STEPS=n; SEED=n: as before)
	eval "$$(test/memory)"; go test -count=1 -timeout 0 -v -run '^TestManagersOnOneDatabase$$' ./test/e2e -args -managers=2m
	eval "$$(test/memory)"; go test -count=1 -timeout 0 -v -run '^TestCutAndKilled$$' ./test/relay -args -length=10m
	eval "$$(test/memory)"; go test -count=1 -timeout 0 -v ./test/identity -args -steps=$(or $(STEPS),3000000) $(if $(SEED),-rapid.seed=$(SEED))

bench: build ## the benchmarks, as a table with ratios
	@go run ./test/bench -bin bin

clean:
	rm -rf bin .build
