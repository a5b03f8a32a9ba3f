# A newcomer needs Go and make: `make demo`, `make test`. Everything else is for those who change the project;
# its tools are pinned in scripts/tools/go.mod and built the first time they are called.

TOOL     := go tool -modfile=scripts/tools/go.mod
NESTED   := $(patsubst %/go.mod,%,$(wildcard scripts/*/go.mod server1/pkcs11/go.mod))
STRANGER := $(wildcard scripts/adopter/go.mod)
FUZZTIME ?= 30s

# Programs are static, and all that is compiled here is compiled once: with the same flags everywhere.
export CGO_ENABLED ?= 0
export GOFLAGS ?= -trimpath

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##
## see it work

.PHONY: demo
demo: build ## build the pair, run the story from sign-in to refusals, stop
	@bin/demo

.PHONY: run
run: build ## the same pair, left running until Ctrl-C
	@bin/demo run

.PHONY: cluster
cluster: build ## the story of two SERVER1s and three SERVER2s, over a PostgreSQL and a Redis that it starts itself
	@bin/demo cluster

.PHONY: build
build: ## build the programs into bin/
	@echo "building the programs (the first time takes about a minute)"
	@go build -trimpath -o bin/handoff-server1 ./server1/cmd/handoff-server1
	@go build -trimpath -o bin/handoff-server2 ./server2
	@go build -trimpath -o bin/handoff ./shared/cmd/handoff
	@go build -trimpath -o bin/demo ./scripts/demo

.PHONY: pkcs11
pkcs11: ## build SERVER1 for keys in PKCS#11 tokens, into bin/pkcs11; takes a C compiler. Test it where SoftHSM is installed
	@echo "building SERVER1 with cgo"
	@CGO_ENABLED=1 go build -C server1/pkcs11 $(WITH_CGO) -o "$(CURDIR)/bin/pkcs11/handoff-server1" ./cmd/handoff-server1
	@command -v softhsm2-util >/dev/null && command -v pkcs11-tool >/dev/null || echo "no softhsm2 or no opensc: leaving out the tests with tokens"
	@$(TESTING) CGO_ENABLED=1 go test -C server1/pkcs11 -vet=off -count=1 $(RACE) ./...

# Only the token's library is reached by cgo: all else is what is compiled without it.
WITH_CGO = -tags netgo,osusergo

##
## change it

# The race detector needs cgo, and cgo a C compiler: ask for the one thing that only then builds.
RACE = $(shell CGO_ENABLED=1 go build -race runtime/race 2>/dev/null && echo -race $(foreach packages,$(PURE),-gcflags=$(packages)=-race=false))

# It looks at each memory access of ours. SQLite's are to memory that is not Go's, which it does not see, and those of curves,
# hashes, patterns and command lines to nothing that is shared: a third of the time would go there.
PURE = modernc.org/... filippo.io/... golang.org/x/crypto/... crypto/internal/fips140/... github.com/alecthomas/kong/... regexp/...

# What tests leave out where it is not installed, go test says only to who asks.
SAY_SKIPPED = command -v redis-server >/dev/null || echo "no redis-server: leaving out the tests with Redis"; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
	echo "no PostgreSQL: leaving out the tests with it"; \
	command -v pgbouncer >/dev/null || echo "no pgbouncer: leaving out the test with it"; \
	command -v promtool >/dev/null || echo "no promtool: leaving out the tests of the alerts"; \
	command -v systemd-analyze >/dev/null || echo "no systemd-analyze: leaving out the tests of the units"; \
	[ -n "$$HANDOFF_CI$$HANDOFF_LONG" ] || echo "killing, crowding and waiting less than .ci/run and make chaos do"; \
	echo "leaving out the tests in real browsers: make browser runs them"; \
	echo "leaving out the clients in other languages, which take protoc, Node and Python: make clients runs them"

# Tests commit by the thousand, and kill processes, not machines: where there is a file system in memory with room,
# their files are there. The race detector has each process wait for a second before it exits, unless told. And many tests
# wait more than they work, so two more packages of them run at once than there are processors.
TESTING = GORACE="atexit_sleep_ms=20 $$GORACE" GOTMPDIR="$${GOTMPDIR:-$${TMPDIR:-/tmp}}" TMPDIR="$$( \
	[ -w /dev/shm ] && [ "$$(df -Pk /dev/shm | awk 'END {print $$4}')" -gt 4000000 ] && \
	! grep -q '^[^ ]* /dev/shm [^ ]* [^ ]*noexec' /proc/mounts && echo /dev/shm || echo "$${TMPDIR:-/tmp}")"

# A compiler that collects its garbage seldom takes a fifth less time, for a third more memory. Some tests build programs: what
# these consist of is compiled before, once, and not by each of them.
SELDOM = GOGC="$${GOGC:-400}"

.PHONY: test
test: ## every test, with the race detector where there is a C compiler
	@echo "building the tests (the first time takes a few minutes)"
	@$(SAY_SKIPPED)
	@race='$(RACE)'; [ -n "$$race" ] || echo "no working C compiler: testing without the race detector"; \
		at_once=$$(($$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2) + 2)); \
		$(SELDOM) go build ./... && \
		$(SELDOM) $(TESTING) CGO_ENABLED=$${race:+1} go test -vet=off -p $$at_once -parallel $$at_once $$race $$(go list ./... | grep -v /scripts/e2e) && \
		$(TESTING) CGO_ENABLED=$${race:+1} go test -vet=off -parallel $$at_once $$race ./scripts/e2e/... # by itself: its stories have servers that must keep up with each other
	$(if $(STRANGER),@go -C scripts/adopter test ./...)

.PHONY: e2e
e2e: ## only the tests between real processes, never from the test cache
	@echo "testing real processes"
	@$(SAY_SKIPPED)
	@$(TESTING) go test -count=1 ./scripts/e2e/... ./scripts/demo/...

.PHONY: browser
browser: ## the tests in Chromium and Firefox; pictures of each page in scripts/browser/shots
	@echo "testing in real browsers (some minutes)"
	@npm ci --silent --prefix scripts/browser
	@HANDOFF_BROWSER=1 go test -count=1 -timeout 20m ./scripts/browser

.PHONY: clients
clients: ## the clients in TypeScript and Python, generated and run against the pair, and the second verifier
	@for program in protoc grpc_python_plugin node npm jq; do command -v $$program >/dev/null || \
		{ echo "no $$program: scripts/clients/README.md says what the clients take"; exit 1; }; done
	@/usr/bin/python3 -c 'import grpc, google.protobuf, cryptography' || { echo "no grpcio for /usr/bin/python3: scripts/clients/README.md says what the clients take"; exit 1; }
	@echo "trying the clients in other languages"
	@HANDOFF_CLIENTS=1 go test -v -count=1 ./scripts/clients

.PHONY: chaos
chaos: ## the tests that kill, stop and cut off, in full: ten minutes
	@echo "testing what crashes lose (the first time builds the tests: a few minutes)"
	@$(SAY_SKIPPED)
	@HANDOFF_LONG=1 go test -v -count=1 -timeout 20m ./scripts/e2e
	@echo "killing SERVER1 100 times, and a process with a journal 500 times (three minutes)"
	@HANDOFF_LONG=1 go test -count=1 -timeout 20m -run '^(TestF04Killed|TestE02JournalKilled)$$' ./server1 ./shared/replay
	@echo "killing, stopping and cutting off a Redis and a PostgreSQL for 30 s, without SERVER2 before them"
	@HANDOFF_LONG=1 go test -count=1 -timeout 20m -run '^TestE01E03Chaos$$' ./shared/replay/redisreplay ./shared/replay/sqlreplay

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (30s) each
	@found=$$(go test -list '^Fuzz' ./...) || { echo "$$found"; exit 1; }; \
	echo "$$found" | awk '/^Fuzz/ {t[n++] = $$1} /^ok/ {for (i = 0; i < n; i++) print $$2, t[i]; n = 0}' | \
	while read -r package target; do \
		echo "$$target in $$package, $(FUZZTIME)"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package" </dev/null || exit 1; \
	done

.PHONY: fuzz-long
fuzz-long: ## the same for ten minutes each, after ten million mutants of good tokens
	@HANDOFF_MUTANTS=10000000 go test -count=1 -timeout 2h -run '^TestMutants$$' ./shared/handoff
	@$(MAKE) --no-print-directory fuzz FUZZTIME=10m

.PHONY: bench
bench: build ## measure beside what people would use instead; BENCH="-short verify" for a look at a section
	@go run -C scripts/bench . $(BENCH)

.PHONY: generate
generate: ## write the Go of proto/ again
	@echo "generating (the first time builds buf: two minutes)"
	@$(TOOL) buf generate
	@$(TOOL) gofumpt -w $$(find proto -name '*.pb.go') # named, as it leaves out what is generated

# The app's clients of proto/, and what esbuild makes of them and of the source, in a folder.
APP      := server2/internal/app
MAKE_APP = npm ci --silent --no-audit --no-fund --prefix $(APP) && $(TOOL) buf generate --template $(APP)/buf.gen.yaml && \
	cd $(APP) && node_modules/.bin/tsc && node build.mjs

.PHONY: app
app: ## build SERVER2's single-page app again; needs npm
	@echo "building the app (the first time builds buf: two minutes)"
	@$(MAKE_APP)

.PHONY: clean
clean: ## remove what make built
	@rm -rf bin

##
## before a commit

.PHONY: lint
lint: vet cross staticcheck lintpkcs11 gofumpt contract checkgenerate tidy ## every check that is not a test

.PHONY: vet
vet:
	@echo "lint: go vet"
	@go vet ./...
	$(if $(STRANGER),@go -C scripts/adopter vet ./...)

# What is not run here, and so need not be fast: to compile it takes two thirds of the time. To build compiles no more
# than vet has asked for, and links the programs, which with debugging information takes a minute each time.
ELSEWHERE := linux/arm64 linux/386 darwin/arm64 windows/amd64
UNHURRIED := -gcflags="all=-N -l"
PORTABLE  := ./proto/... ./shared/... ./server1/... ./server2/...

.PHONY: cross
cross: ## vet and build what runs on other systems than this one
	@echo "lint: $(ELSEWHERE) (the first time compiles what each uses: minutes)"
	@for target in $(ELSEWHERE); do \
		GOOS=$${target%/*} GOARCH=$${target#*/} sh -c 'go vet $(UNHURRIED) $(PORTABLE) && go build $(UNHURRIED) -ldflags="-s -w" $(PORTABLE)' || exit 1; done
	@GOOS=darwin GOARCH=arm64 go vet $(UNHURRIED) ./scripts/... # which run on any Unix

.PHONY: staticcheck
staticcheck:
	@echo "lint: staticcheck (the first time builds it: half a minute)"
	@$(TOOL) staticcheck ./...

# What takes cgo, the other checks do not see.
.PHONY: lintpkcs11
lintpkcs11:
	@CGO_ENABLED=1 go build runtime/cgo 2>/dev/null || { echo "lint: no working C compiler: leaving out server1/pkcs11"; exit 0; }; \
	echo "lint: server1/pkcs11, with cgo"; tool=$$($(TOOL) -n staticcheck) && cd server1/pkcs11 && export CGO_ENABLED=1 && \
	go vet $(WITH_CGO) ./... && "$$tool" $(WITH_CGO) ./...

.PHONY: gofumpt
gofumpt:
	@echo "lint: gofumpt"
	@unformatted=$$($(TOOL) gofumpt -l .) && [ -z "$$unformatted" ] || { echo "not formatted: $$unformatted"; exit 1; }

# The contract must not break against the last release or, before there is one, against the commit before this one;
# AGAINST names another. A tag can be named like a command, so the shell gets a commit's hash in place of any name.
.PHONY: contract
contract:
	@echo "lint: buf (the first time builds it: two minutes)"
	@$(TOOL) buf lint
	@$(TOOL) buf format --diff --exit-code
	@name=$${AGAINST:-$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || echo HEAD~1)}; \
	against=$$(git rev-parse --verify --quiet "$$name^{commit}") || [ -z "$$AGAINST" ] || { echo "AGAINST names no commit"; exit 1; }; \
	base=$$(mktemp -d) && trap 'rm -rf "$$base"' EXIT && \
	if [ -n "$$against" ] && [ -n "$$(git ls-tree "$$against" proto)" ]; \
	then git archive "$$against" proto buf.yaml | tar -x -C "$$base" && $(TOOL) buf breaking --against "$$base"; \
	else echo "lint: no earlier contract to compare with"; fi

.PHONY: checkgenerate
checkgenerate: ## fail if the Go of proto/, or the app, is not what its source makes
	@echo "lint: generated code"
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(TOOL) buf generate --output "$$fresh" && $(TOOL) gofumpt -w $$(find "$$fresh" -name '*.pb.go') && diff -r -u --exclude='*.proto' --exclude=google proto "$$fresh/proto"
	@command -v npm >/dev/null || { echo "lint: no npm: leaving out the app"; exit 0; }; \
	fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(MAKE_APP) "$$fresh" && diff -r -q dist "$$fresh"

.PHONY: tidy
tidy:
	@echo "lint: go mod tidy"
	@for module in . $(NESTED); do go -C $$module mod tidy -diff || exit 1; done
